"""Which noise levels a sampler visits: `schedule(num_steps, num_tokens, path, frames) -> levels`.

`levels` is float64 and falls from exactly 1 to exactly 0: strictly, `(num_steps + 1,)`, where all frames share a level;
`(rows, frames)` where each has its own, which never rises. Those of published models (`published_schedules.py`) begin
and end where their samplers do. `num_tokens` is the length of the sample in tokens, `path` the noise path, and
`frames` the number of frames to be made, counted in tokens and without those that are given: most schedules need none
of them.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dit.config.limits import Count, Natural, Positive
from dit.diffusion.path import Path

JUST_ABOVE_CLEAN = 1e-12  # where VE's sigma has jumped to its minimum, and other paths have next to no noise


class Schedule(ABC):
    """Levels from noise to data."""

    @abstractmethod
    def __call__(self, num_steps: int, num_tokens: int, path: Path, frames: int) -> Tensor:
        """Levels (num_steps + 1,), or (rows, frames)."""

    def start_std(self, path: Path, level: float) -> float:
        """Standard deviation of the noise that sampling starts from at the first level: sigma there."""
        return path.sigma(torch.tensor(level, dtype=torch.float64)).item()

    def end_scale(self, path: Path, level: float) -> float:
        """By what the last x is multiplied, where sampling ends at a level above 0."""
        return 1.0

    @property
    def of_a_frame(self) -> Schedule:
        """The schedule that each frame goes through."""
        return self

    def change(self, own: Schedule) -> Schedule:
        """What is used where a pipeline's or checkpoint's `own` schedule is replaced by this one."""
        return self


@dataclass(frozen=True)
class Linear(Schedule):
    """Equal steps in t."""

    def __call__(self, num_steps: int, num_tokens: int, path: Path, frames: int) -> Tensor:
        return _ramp(num_steps)


@dataclass(frozen=True)
class Shifted(Schedule):
    """Equal steps moved towards noise, `s t / (1 + (s - 1) t)` (Esser et al. 2024, arXiv 2403.03206, equation 23).

    Args:
        shift: s above 0; 1 is linear, larger spends more steps where the layout is decided.
    """

    shift: Positive

    def __post_init__(self) -> None:
        if not self.shift > 0:
            raise ValueError(f"shift={self.shift} must be above 0; 1.0 is no shift")

    def __call__(self, num_steps: int, num_tokens: int, path: Path, frames: int) -> Tensor:
        return _shift(_ramp(num_steps), self.shift)


@dataclass(frozen=True)
class ShiftedByTokens(Schedule):
    """The shift that keeps the uncertainty of a level as samples grow: `s = sqrt(num_tokens / base_tokens)`
    (Esser et al. 2024, arXiv 2403.03206, section 5.3.2).

    Args:
        base_tokens: the length at which levels stay unshifted.
    """

    base_tokens: Count

    def __post_init__(self) -> None:
        if self.base_tokens < 1:
            raise ValueError(f"base_tokens={self.base_tokens} must be at least 1")

    def __call__(self, num_steps: int, num_tokens: int, path: Path, frames: int) -> Tensor:
        return _shift(_ramp(num_steps), math.sqrt(num_tokens / self.base_tokens))


@dataclass(frozen=True)
class Cosine(Schedule):
    """`t = cos(pi/2 i/n)`: the first steps, near pure noise, are the smallest (F5-TTS, Chen et al. 2024,
    arXiv 2410.06885: sway sampling with coefficient -1)."""

    def __call__(self, num_steps: int, num_tokens: int, path: Path, frames: int) -> Tensor:
        levels = torch.cos((1 - _ramp(num_steps)) * math.pi / 2)
        levels[-1] = 0.0
        return levels


@dataclass(frozen=True)
class Karras(Schedule):
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

    def __call__(self, num_steps: int, num_tokens: int, path: Path, frames: int) -> Tensor:
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


@dataclass(frozen=True)
class Staggered(Schedule):
    """Frames that begin one after another: a scheduling matrix (diffusion forcing, Chen et al. 2024, arXiv 2407.01392,
    section 3.3), for networks that were trained with a level for each frame.

    Args:
        schedule: what each frame goes through; None is the checkpoint's own.
        group: frames of tokens that share a level.
    """

    schedule: Schedule | None
    group: Count

    def __post_init__(self) -> None:
        if isinstance(self.schedule, Staggered):
            raise ValueError(f"schedule.schedule={self.schedule} is itself of levels that differ from frame to frame")
        if self.group < 1:
            raise ValueError(f"schedule.group={self.group} must be at least 1 frame")

    @abstractmethod
    def begin(self, num_steps: int, groups: int) -> Tensor:
        """The row in which each group begins, int64 (groups,). A group falls for `num_steps` rows, and in every row
        before the last some group must fall."""

    @property
    def of_a_frame(self) -> Schedule:
        if self.schedule is None:
            raise ValueError(
                "schedule.schedule=null is a checkpoint's own, and here is none; give it, for example"
                " schedule.schedule={_target_: dit.sampling.schedule.Shifted, shift: 5.0}"
            )
        return self.schedule

    def start_std(self, path: Path, level: float) -> float:
        return self.of_a_frame.start_std(path, level)

    def end_scale(self, path: Path, level: float) -> float:
        return self.of_a_frame.end_scale(path, level)

    def change(self, own: Schedule) -> Schedule:
        return replace(self, schedule=own.of_a_frame) if self.schedule is None else self

    def __call__(self, num_steps: int, num_tokens: int, path: Path, frames: int) -> Tensor:
        levels = self.of_a_frame(num_steps, num_tokens, path, frames)  # (S + 1,)
        num_steps = len(levels) - 1  # a published schedule may leave out a last step in which nothing would move
        begin = self.begin(num_steps, math.ceil(frames / self.group)).repeat_interleave(self.group)[:frames]  # (F,)
        row = torch.arange(num_steps + 1 + int(begin.max()))[:, None]
        return levels[(row - begin).clamp(0, num_steps)]


@dataclass(frozen=True)
class Autoregressive(Staggered):
    """A group of frames is made when those before it are done: `num_steps` steps for each group."""

    def begin(self, num_steps: int, groups: int) -> Tensor:
        return torch.arange(groups) * num_steps


@dataclass(frozen=True)
class Pyramid(Staggered):
    """Each group begins `lag` steps after the one before it, so that the near future is clearer than the far one.
    SkyReels-V2's diffusion forcing: `lag` is its `ar_step`, `group` its `causal_block_size`.

    Args:
        lag: in steps; 0 is all at once, `num_steps` or more is autoregressive.
    """

    lag: Natural

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lag < 0:
            raise ValueError(f"schedule.lag={self.lag} must be at least 0 steps; 0 is all frames at once")

    def begin(self, num_steps: int, groups: int) -> Tensor:
        return torch.arange(groups) * min(self.lag, num_steps)


def over_frames(levels: Tensor, known: Tensor, patch: int) -> Tensor:
    """The levels of all latent frames (rows, F), from those of frames of tokens that are to be made.

    Latent frames of one token share its level. If all of them are known, they get the highest level of the row; it has
    no effect, because `given.hold` sets the level of known frames.

    Args:
        levels: (rows, frames of tokens with something to make).
        known: bool (F,), which latent frames are given. patch: latent frames of a token.
    """
    made = to_make(known, patch)
    whole = levels.amax(1, keepdim=True).repeat(1, len(made))
    whole[:, made] = levels
    return whole.repeat_interleave(patch, 1)


def to_make(known: Tensor, patch: int) -> Tensor:
    """bool (frames of tokens,): in which there is something to make."""
    return ~known.unflatten(0, (-1, patch)).all(1)


def start_at(levels: Tensor, strength: float) -> Tensor:
    """`levels` from `strength` on: noisier frames begin there, and steps in which nothing falls are left out."""
    levels = levels.clamp(max=strength)
    falls = (levels.diff(dim=0) < 0).reshape(len(levels) - 1, -1).any(1)
    return torch.cat([levels[:1], levels[1:][falls]])


def _ramp(num_steps: int) -> Tensor:
    if num_steps < 1:
        raise ValueError(f"num_steps={num_steps} must be at least 1")
    return torch.linspace(1, 0, num_steps + 1, dtype=torch.float64)


def _shift(levels: Tensor, shift: float) -> Tensor:
    shifted = shift * levels / (1 + (shift - 1) * levels)
    shifted[0] = 1.0  # the division may miss it by a digit
    return shifted
