"""Noise levels that move while training: first what the layout is decided at, later what outlines are."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

import torch
from torch import Tensor

from dit.config.limits import Natural
from dit.diffusion.levels import Distribution, Group, Levels, drawn_together, moved


class Moving(Levels):
    """Levels that move from one distribution to another between two steps of training, each along its own quantile.

    The logit of a level goes in equal steps from that of `early` to that of `late`: between two `LogitNormal` of one
    std the mean does. Validation, which compares the steps of a run, goes on with `early`.

    Args:
        early, late: distributions with as many levels a clip.
        begin, end: the steps at which it begins and ends to move.

    Raises ValueError unless `begin` lies before `end`, and both distributions give levels to clips, or both to frames.
    """

    def __init__(self, early: Distribution, late: Distribution, begin: Natural, end: Natural) -> None:
        if not begin < end:
            raise ValueError(f"levels.begin={begin} must lie before levels.end={end}, in steps")
        if early.per_frame != late.per_frame:
            raise ValueError("levels.early and levels.late must both have a level for each frame, or neither")
        self.early, self.late, self.begin, self.end = early, late, begin, end
        self.share = 0.0  # of the way, at the step that it is `at`

    @property
    def per_frame(self) -> bool:
        return self.early.per_frame

    @property
    def interval(self) -> tuple[float, float]:
        (low, high), (other_low, other_high) = self.early.interval, self.late.interval
        return min(low, other_low), max(high, other_high)

    def at(self, step: int) -> Moving:
        """The levels of a step, which move no more."""
        there = copy(self)
        there.share = min(max((step - self.begin) / (self.end - self.begin), 0.0), 1.0)
        return there

    def from_uniform(self, u: Tensor, num_tokens: int) -> Tensor:
        """Uniform numbers of any shape -> levels of that shape."""
        early = self.early.from_uniform(u, num_tokens)
        if self.share == 0:
            return early
        late = self.late.from_uniform(u, num_tokens)
        if self.share == 1:
            return late
        return torch.sigmoid((1 - self.share) * early.logit() + self.share * late.logit())  # infinite ends stay

    def __call__(
        self, batch: int, frames: int, num_tokens: int, generator: torch.Generator | None, device: torch.device | str
    ) -> Tensor:
        u = self.early.draw(batch, frames, generator)
        return moved(self.from_uniform(u, num_tokens).float(), device)

    def of_groups(
        self, groups: Sequence[Group], generator: torch.Generator | None, device: torch.device | str
    ) -> list[Tensor]:
        return drawn_together(self.early.draw, self.from_uniform, groups, generator, device)
