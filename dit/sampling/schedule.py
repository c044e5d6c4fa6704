"""Which noise levels a sampler visits: `schedule(num_steps, num_tokens, path) -> levels`.

`levels` is float64 `(num_steps + 1,)` and falls strictly from exactly 1 to exactly 0. `num_tokens` is the length of the
sample in tokens, `path` the noise path; most schedules need neither.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from dit.config.limits import Count, Positive
from dit.diffusion.path import Path

JUST_ABOVE_CLEAN = 1e-12  # VE's sigma has its limit from above here, the other paths next to none


class Schedule(Protocol):
    def __call__(self, num_steps: int, num_tokens: int, path: Path) -> Tensor: ...


@dataclass(frozen=True)
class Linear:
    """Equal steps in t."""

    def __call__(self, num_steps: int, num_tokens: int, path: Path) -> Tensor:
        return _ramp(num_steps)


@dataclass(frozen=True)
class Shifted:
    """Equal steps moved towards noise, `s t / (1 + (s - 1) t)` (Esser et al. 2024, arXiv 2403.03206, equation 23).

    Args:
        shift: s above 0; 1 is linear, larger spends more steps where the layout is decided.
    """

    shift: Positive

    def __post_init__(self) -> None:
        if not self.shift > 0:
            raise ValueError(f"shift={self.shift} must be above 0; 1.0 is no shift")

    def __call__(self, num_steps: int, num_tokens: int, path: Path) -> Tensor:
        return _shift(_ramp(num_steps), self.shift)


@dataclass(frozen=True)
class ShiftedByTokens:
    """The shift that keeps the uncertainty of a level as samples grow: `s = sqrt(num_tokens / base_tokens)`
    (Esser et al. 2024, arXiv 2403.03206, section 5.3.2).

    Args:
        base_tokens: the length at which levels stay unshifted.
    """

    base_tokens: Count

    def __post_init__(self) -> None:
        if self.base_tokens < 1:
            raise ValueError(f"base_tokens={self.base_tokens} must be at least 1")

    def __call__(self, num_steps: int, num_tokens: int, path: Path) -> Tensor:
        return _shift(_ramp(num_steps), math.sqrt(num_tokens / self.base_tokens))


@dataclass(frozen=True)
class Cosine:
    """`t = cos(pi/2 i/n)`: the first steps, near pure noise, are the smallest (F5-TTS, Chen et al. 2024,
    arXiv 2410.06885: sway sampling with coefficient -1)."""

    def __call__(self, num_steps: int, num_tokens: int, path: Path) -> Tensor:
        levels = torch.cos((1 - _ramp(num_steps)) * math.pi / 2)
        levels[-1] = 0.0
        return levels


@dataclass(frozen=True)
class Karras:
    """A ramp in `(sigma / alpha)^(1 / rho)` (Karras et al. 2022, arXiv 2206.00364, equation 5), then 0.

    Args:
        sigma_min: the smallest noise-to-signal ratio before 0; raised to where the path itself jumps to 0 (VE).
        sigma_max: the largest; lowered to the path's own at t = 1.
        rho: 1 is a linear ramp; 7 puts most steps near the clean end.
    """

    sigma_min: Positive
    sigma_max: Positive
    rho: Positive

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min < self.sigma_max:
            raise ValueError(f"sigma_min={self.sigma_min} must lie above 0 and below sigma_max={self.sigma_max}")
        if not self.rho > 0:
            raise ValueError(f"rho={self.rho} must be above 0; 7.0 is the published value")

    def __call__(self, num_steps: int, num_tokens: int, path: Path) -> Tensor:
        ends = torch.tensor([JUST_ABOVE_CLEAN, 1.0], dtype=torch.float64)
        clean, noisy = torch.exp(-path.log_snr(ends) / 2).tolist()
        low, high = max(self.sigma_min, clean), min(self.sigma_max, noisy)
        # A path that jumps to 0 by itself takes its ramp's last point for that jump; any other jumps from `low`.
        points = num_steps + 1 if low == clean else num_steps
        ramp = torch.linspace(high ** (1 / self.rho), low ** (1 / self.rho), points, dtype=torch.float64) ** self.rho
        levels = torch.zeros(num_steps + 1, dtype=torch.float64)
        levels[:points] = path.t_from_log_snr(-2 * ramp.log())
        levels[0], levels[-1] = 1.0, 0.0
        return levels


def _ramp(num_steps: int) -> Tensor:
    if num_steps < 1:
        raise ValueError(f"num_steps={num_steps} must be at least 1")
    return torch.linspace(1, 0, num_steps + 1, dtype=torch.float64)


def _shift(levels: Tensor, shift: float) -> Tensor:
    shifted = shift * levels / (1 + (shift - 1) * levels)
    shifted[0] = 1.0  # the division may miss it by a digit
    return shifted
