"""Shifts that follow the number of tokens along a line between two sizes: mu of "dynamic shifting"."""

import math
from abc import abstractmethod
from dataclasses import dataclass

from dit.config.limits import Count
from dit.diffusion.levels import Shift


@dataclass(frozen=True)
class AlongLine(Shift):
    """mu is `base_shift` at `base_tokens` and `max_shift` at `max_tokens`, on the line through both, also beyond them.

    Args:
        base_tokens, max_tokens: lengths in tokens, the second the larger one.
        base_shift, max_shift: mu there.
    """

    base_tokens: Count
    max_tokens: Count
    base_shift: float
    max_shift: float

    def __post_init__(self) -> None:
        if not self.base_tokens < self.max_tokens:
            raise ValueError(f"max_tokens={self.max_tokens} must be above base_tokens={self.base_tokens}")

    def mu(self, num_tokens: int) -> float:
        slope = (self.max_shift - self.base_shift) / (self.max_tokens - self.base_tokens)
        return num_tokens * slope + self.base_shift - slope * self.base_tokens

    def __call__(self, num_tokens: int) -> float:
        s = self.factor(self.mu(num_tokens))
        if not 0 < s < math.inf:
            raise ValueError(f"{num_tokens} tokens give the shift {s:g}, which must be above 0 and finite; {self}")
        return s

    @abstractmethod
    def factor(self, mu: float) -> float:
        """s of mu."""


class ExponentialShift(AlongLine):
    """s = exp(mu) (LTX-Video)."""

    def factor(self, mu: float) -> float:
        return math.exp(mu) if mu < 700 else math.inf


class LinearShift(AlongLine):
    """s = mu."""

    def factor(self, mu: float) -> float:
        return mu
