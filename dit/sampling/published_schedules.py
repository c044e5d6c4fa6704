"""The levels that samplers of published models visit (a schedule is described in `schedule.py`).

They begin and end where those samplers do: some below level 1, some above 0. Levels are numbers of float32, as the
network is told them.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from dit.config.limits import Count, Natural, Positive, Share
from dit.diffusion.levels import Shift
from dit.diffusion.path import Path
from dit.sampling.schedule import JUST_ABOVE_CLEAN, Schedule


@dataclass(frozen=True)
class Published(Schedule):
    """A schedule that may begin below level 1.

    Args:
        unit_start: whether the first x is unit noise all the same; if not, noise of standard deviation sigma(t).
    """

    unit_start: bool

    def start_std(self, path: Path, level: float) -> float:
        return 1.0 if self.unit_start else super().start_std(path, level)


@dataclass(frozen=True)
class Ramp(Published):
    """Equal steps, shifted by `s t / (1 + (s - 1) t)` and stretched, then 0: the sigmas of flow-matching samplers.

    Args:
        first, last: ends of the ramp, before the shift.
        reaches_last: whether the network is asked at `last`; if not, 0 takes the place of that end.
        shift: gives s.
        terminal: the lowest level above 0: noise-to-data distances 1 - t are all multiplied by what brings it there
            (LTX-Video); null leaves them.
        highest: no level is above it. UniPC begins at 1 - 1e-6, where log(alpha) is finite; 1 changes nothing.
        timesteps: of the model: no level is rounded across a whole one of them.
    """

    first: Share
    last: Share
    reaches_last: bool
    shift: Shift
    terminal: Share | None
    highest: Share
    timesteps: Count

    def __post_init__(self) -> None:
        if not self.last < self.first:
            raise ValueError(f"schedule.last={self.last} must be below schedule.first={self.first}")
        if self.reaches_last and not self.last > 0:
            raise ValueError("schedule.last=0.0 is clean, where nothing is asked; use schedule.reaches_last=false")
        if self.terminal is not None and not 0 < self.terminal < 1:
            raise ValueError(f"schedule.terminal={self.terminal} must be between 0 and 1, or null")

    def __call__(self, num_steps: int, num_tokens: int, path: Path, frames: int) -> Tensor:
        gaps = num_steps - 1 if self.reaches_last else num_steps
        t = self.first + _count(num_steps) * ((self.last - self.first) / max(gaps, 1))
        s = self.shift(num_tokens)
        t = s * t / (1 + (s - 1) * t)
        if self.terminal is not None and t[-1] < 1:
            t = 1 - (1 - t) / ((1 - t[-1]) / (1 - self.terminal))
        return _with_end(_told_apart(self, _as_float32(t.clamp(max=self.highest), self.timesteps)), 0.0)


@dataclass(frozen=True)
class LinearQuadratic(Schedule):
    """Half of the steps in the noisiest part, equal ones, then ever larger ones (Mochi; Movie Gen, arXiv 2410.13720).

    Args:
        threshold: how far from 1 the equal steps lead.
    """

    threshold: Share

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 1:
            raise ValueError(
                f"schedule.threshold={self.threshold} must be between 0 and 1; 0.025 is the published value"
            )

    def __call__(self, num_steps: int, num_tokens: int, path: Path, frames: int) -> Tensor:
        i, equal = _count(num_steps), num_steps // 2
        if not equal:
            return torch.tensor([1.0, 0.0], dtype=torch.float64)
        rest = num_steps - equal
        # The distance 1 - t: q i^2 + l i + q equal^2 goes on where the equal steps end, and reaches 1 at i = num_steps.
        left = equal - self.threshold * num_steps
        q = left / (equal * rest**2)
        l = self.threshold / equal - 2 * left / rest**2
        curve = q * i**2 + l * i + q * equal**2
        return _with_end((1 - torch.where(i < equal, i * (self.threshold / equal), curve)).float().double(), 0.0)


@dataclass(frozen=True)
class RatioRamp(Published):
    """A ramp in `(sigma / alpha)^(1 / rho)` (Karras et al. 2022, arXiv 2206.00364, equation 5) that ends where it ends,
    unlike `schedule.Karras`, which is put on 1 and 0.

    Args:
        sigma_min, sigma_max: noise-to-signal ratios of the last and of the first evaluation.
        rho: 7 puts most steps near the clean end; null is its limit, in which each ratio is a multiple of the next.
        to_clean: whether a step to 0 follows; if not, sampling stops at sigma_min, one step earlier.
    """

    sigma_min: Positive
    sigma_max: Positive
    rho: Positive | None
    to_clean: bool

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min < self.sigma_max:
            raise ValueError(f"sigma_min={self.sigma_min} must lie above 0 and below sigma_max={self.sigma_max}")

    def end_scale(self, path: Path, level: float) -> float:
        """1 / alpha: samplers of such ramps go along x0 + sigma eps, and return that of the smallest sigma."""
        return 1 / path.alpha(torch.tensor(level, dtype=torch.float64)).item()

    def __call__(self, num_steps: int, num_tokens: int, path: Path, frames: int) -> Tensor:
        if num_steps < 2 and not self.to_clean:
            raise ValueError(f"num_steps={num_steps} must be at least 2, where the last level is sigma_min")
        share = _count(num_steps) / max(num_steps - 1, 1)
        low, high = torch.tensor([self.sigma_min, self.sigma_max], dtype=torch.float64)
        if self.rho is None:
            ratio = torch.exp(high.log() + share * (low.log() - high.log()))
        else:
            low, high = low ** (1 / self.rho), high ** (1 / self.rho)
            ratio = (high + share * (low - high)) ** self.rho
        levels = path.t_from_log_snr(-2 * ratio.log()).clamp(min=JUST_ABOVE_CLEAN).float().double()
        levels = _told_apart(self, levels)
        return _with_end(levels, 0.0) if self.to_clean else levels


@dataclass(frozen=True)
class Spaced(Published):
    """Timesteps of a path in whole timesteps (`dit.diffusion.discrete`), spaced in one of the ways of Lin et al. 2024
    (arXiv 2305.08891, table 2). Timestep n of N is the level (n + 1) / N.

    Args:
        timesteps: N.
        one_more: whether one timestep more is chosen and the cleanest left out, as DPM-Solver and UniPC do. Trailing
            spacing has none to leave out.
        to_clean: whether the last step ends at 0; if not, at timestep 0.
    """

    timesteps: Count
    one_more: bool
    to_clean: bool

    @abstractmethod
    def choose(self, num_steps: int) -> Tensor:
        """Timesteps, falling, float64 (num_steps,)."""

    def __call__(self, num_steps: int, num_tokens: int, path: Path, frames: int) -> Tensor:
        if num_steps > self.timesteps:
            raise ValueError(f"num_steps={num_steps} is more than the {self.timesteps} timesteps of this model")
        chosen = self.choose(num_steps)
        if chosen[0] > self.timesteps - 1:
            raise ValueError(
                f"{self} begins at timestep {chosen[0]:g} with num_steps={num_steps}, but the last is"
                f" {self.timesteps - 1}: fewer steps"
            )
        end = 0.0 if self.to_clean else 1 / self.timesteps
        levels = (chosen + 1) / self.timesteps
        return _with_end(levels[levels > end], end)


@dataclass(frozen=True)
class Leading(Spaced):
    """Every (N // steps)-th timestep from 0 on, so that the noisiest are left out.

    Args:
        offset: added to all of them.
    """

    offset: Natural

    def choose(self, num_steps: int) -> Tensor:
        points = num_steps + self.one_more
        return (points - 1 - _count(num_steps)) * (self.timesteps // points) + self.offset


@dataclass(frozen=True)
class Trailing(Spaced):
    """Every (N / steps)-th timestep from the noisiest on, rounded."""

    def choose(self, num_steps: int) -> Tensor:
        return (self.timesteps - _count(num_steps) * (self.timesteps / num_steps)).round() - 1


@dataclass(frozen=True)
class Linspace(Spaced):
    """From the noisiest timestep to the cleanest.

    Args:
        whole: whether they are rounded.
    """

    whole: bool

    def choose(self, num_steps: int) -> Tensor:
        points = num_steps + self.one_more
        if points < 2:
            raise ValueError("num_steps=1 would be the cleanest timestep alone; use at least 2, or trailing spacing")
        chosen = (points - 1 - _count(num_steps)) * ((self.timesteps - 1) / (points - 1))
        return chosen.round() if self.whole else chosen.float().double()


def _count(num_steps: int) -> Tensor:
    """0 ... num_steps - 1, float64."""
    if num_steps < 1:
        raise ValueError(f"num_steps={num_steps} must be at least 1")
    return torch.arange(num_steps, dtype=torch.float64)


def _with_end(levels: Tensor, end: float) -> Tensor:
    return torch.cat([levels, levels.new_tensor([end])])


def _told_apart(schedule: Schedule, levels: Tensor) -> Tensor:
    """The levels; ValueError unless they are finite, above 0, and fall."""
    if not bool((torch.cat([levels, levels.new_zeros(1)]).diff() < 0).all()):  # nan falls nowhere
        raise ValueError(
            f"{schedule} has no {len(levels)} levels that float32 tells apart; fewer steps, or milder values"
        )
    return levels


def _as_float32(levels: Tensor, timesteps: int) -> Tensor:
    """The nearest numbers of float32 that are on the same side of each whole timestep, still as float64."""
    near = levels.float()
    crossed = (near.double() * timesteps).floor() - (levels * timesteps).floor()
    back = torch.nextafter(near, -crossed.float() * torch.inf)
    return torch.where(crossed != 0, back, near).double()
