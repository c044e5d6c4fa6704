"""Solvers of the probability-flow ODE: from noise at level 1 to data at level 0.

`solver(denoise, x, levels, path, noise=None)` yields a `State(x, estimate)` after each step; `end` gives the last x.
    denoise   `denoise(x, t) -> Estimate(x0, eps, velocity)`, t a row of `levels`; hides the network
    x         (B, C, F, H, W), the state at `levels[0]`
    levels    float64, one level for all frames (S + 1,), strictly falling; or one for each (S + 1, F), none of which
              rises. t is then 0-dim or (1, F). A frame whose level stays the same keeps its bits in that step
    path      alpha(t), sigma(t) and log_snr(t) of `x_t = alpha(t) x0 + sigma(t) eps`
    noise     draws fresh unit noise shaped like x; only solvers that add noise on the way call it

Levels of frames that differ move every frame along its own part of the same flow (diffusion forcing, Chen et al. 2024,
arXiv 2407.01392): `dx_f = velocity_f dt_f`.

Coefficients are computed in float64 on the CPU. 0-dim ones are exact to the last digit of x's own precision and cost no
copy to a device; those of frames are copied to it without waiting. Only ratios that stay finite where alpha = 0
(level 1) or sigma = 0 (level 0) are used, and no solver evaluates `denoise` where all frames are at their last level.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dit.config.limits import Share
from dit.diffusion.path import Path
from dit.diffusion.prediction import Estimate
from dit.sampling.schedule import start_at

Denoise = Callable[[Tensor, Tensor], Estimate]
Noise = Callable[[], Tensor]


class State(NamedTuple):
    """x (B, C, F, H, W) after a step, and the estimate at the step's start, from which x was computed."""

    x: Tensor
    estimate: Estimate


class Solver(ABC):
    """Goes through the levels step by step. A subclass implements `walk`, a generator."""

    def __call__(
        self, denoise: Denoise, x: Tensor, levels: Tensor, path: Path, noise: Noise | None = None
    ) -> Iterator[State]:
        """The state after each step. A step is computed when it is asked for.

        Raises ValueError for levels that rise, or stand still in all frames.
        """
        return self.walk(denoise, x, steps(levels, path), path, noise)

    def planned(self, num_steps: int) -> Solver:
        """This solver for a schedule of so many steps, of which fewer may be taken (video to video)."""
        return self

    def begin(self, levels: Tensor, strength: float) -> Tensor:
        """Those of the levels of a schedule that are visited where sampling starts from a video with noise of
        `strength`."""
        return start_at(levels, strength)

    @abstractmethod
    def walk(
        self, denoise: Denoise, x: Tensor, steps: Iterable[Step], path: Path, noise: Noise | None
    ) -> Iterator[State]:
        """Yields the state after each of `steps`."""


@dataclass(frozen=True)
class Step:
    """From one row of levels to the next.

    Attributes:
        start, end: the rows, as `denoise` takes them: 0-dim or (1, F).
        t, s: the same, as they are broadcast over x: 0-dim or (1, 1, F, 1, 1).
        moves: which frames move, like t; None: all.
        ends: which frames do not move after it, like t; None: all if it is the `last` step, else none.
        last: no frame moves after it.
    """

    start: Tensor
    end: Tensor
    t: Tensor
    s: Tensor
    moves: Tensor | None
    ends: Tensor | None
    last: bool

    def move(self, x: Tensor, there: Tensor) -> Tensor:
        """`there` in frames that move, x in the others."""
        return there if self.moves is None else choose(self.moves, there, x)


def end(states: Iterable[State]) -> Tensor:
    """x after the last step."""
    return deque(states, maxlen=1).pop().x


@dataclass(frozen=True)
class Euler(Solver):
    """First order: `x_s = x_t + (s - t) dx/dt`. For the linear path this is rectified flow's sampler (Liu et al. 2022,
    arXiv 2209.03003, algorithm 1)."""

    def walk(
        self, denoise: Denoise, x: Tensor, steps: Iterable[Step], path: Path, noise: Noise | None
    ) -> Iterator[State]:
        for step in steps:
            estimate = denoise(x, step.start)
            x = step.move(x, x + on(x, step.s - step.t) * estimate.velocity)
            yield State(x, estimate)


@dataclass(frozen=True)
class Heun(Solver):
    """Second order: the mean of the slopes at both ends (Karras et al. 2022, arXiv 2206.00364, algorithm 1, for any
    path). Two evaluations a step; a frame's last step is Euler's, because slopes need not be finite where sigma = 0."""

    def walk(
        self, denoise: Denoise, x: Tensor, steps: Iterable[Step], path: Path, noise: Noise | None
    ) -> Iterator[State]:
        for step in steps:
            estimate = denoise(x, step.start)
            slope, change = estimate.velocity, on(x, step.s - step.t)
            if not step.last:
                ahead = denoise(step.move(x, x + change * slope), step.end)
                mean = (slope + ahead.velocity) / 2
                slope = mean if step.ends is None else choose(step.ends, slope, mean)
            x = step.move(x, x + change * slope)
            yield State(x, estimate)


@dataclass(frozen=True)
class DDIM(Solver):
    """First order, exact where x0 and eps are constant (Song et al. 2021, arXiv 2010.02502, equation 12), on any path:
    `x_s = alpha_s x0 + sqrt(sigma_s^2 - c^2) eps + c z` with `c = eta sigma_s sqrt(1 - snr_t / snr_s)` (equation 16).

    Args:
        eta: 0 follows the ODE; 1 adds as much noise as ancestral sampling (DDPM) does.
    """

    eta: Share

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta={self.eta} is outside [0, 1]; nearest: {min(max(self.eta, 0.0), 1.0)}")

    def walk(
        self, denoise: Denoise, x: Tensor, steps: Iterable[Step], path: Path, noise: Noise | None
    ) -> Iterator[State]:
        if self.eta and noise is None:
            raise ValueError(f"eta={self.eta} adds noise at every step, but no source of noise was passed; use eta=0")
        for step in steps:
            estimate = denoise(x, step.start)
            alpha, sigma = path.alpha(step.s), path.sigma(step.s)
            # sqrt(snr_t / snr_s); alpha_s > 0 where a frame moves, because s < 1
            ratio = path.alpha(step.t) * sigma / (alpha * path.sigma(step.t))
            fresh = self.eta * sigma * (1 - ratio**2).clamp(min=0).sqrt()
            kept = (sigma**2 - fresh**2).clamp(min=0).sqrt()
            there = on(x, alpha) * estimate.x0 + on(x, kept) * estimate.eps
            if self.eta and noise is not None:
                there = there + on(x, fresh) * noise()
            x = step.move(x, there)
            yield State(x, estimate)


@dataclass(frozen=True)
class DPMSolverPP2M(Solver):
    """Second order with one evaluation a step: DPM-Solver++(2M) (Lu et al. 2022, arXiv 2211.01095, algorithm 2).

    x0 is extrapolated linearly in `lambda = log(alpha / sigma)` from the step before. The first and the last step of a
    frame are of first order (DDIM): nothing comes before the first, and lambda is infinite at a clean end. A frame that
    stood still begins anew.
    """

    def walk(
        self, denoise: Denoise, x: Tensor, steps: Iterable[Step], path: Path, noise: Noise | None
    ) -> Iterator[State]:
        before: Before | None = None
        for step in steps:
            estimate, log_snr = denoise(x, step.start), path.log_snr(step.t)
            x0 = extrapolated(estimate.x0, log_snr, before, step, path)
            shrink = path.sigma(step.s) / path.sigma(step.t)
            # alpha_s (1 - exp(-h)) of the paper, written so that alpha_t = 0 is no special case
            gain = path.alpha(step.s) - path.alpha(step.t) * shrink
            x = step.move(x, on(x, shrink) * x + on(x, gain) * x0)
            before = Before(estimate.x0, log_snr, step)
            yield State(x, estimate)


class Before(NamedTuple):
    """What a solver of second order keeps of a step: the x0 and the log-SNR where it began."""

    x0: Tensor
    log_snr: Tensor
    step: Step


def extrapolated(x0: Tensor, log_snr: Tensor, before: Before | None, step: Step, path: Path) -> Tensor:
    """x0 as DPM-Solver++(2M) takes it for a step: led on along the line through that of the step before.

    It stays x0 in the first and the last step of a frame, and after one in which the frame stood still.
    """
    if before is None or step.last:
        return x0
    # 1 / (2 r) of the paper; 0 after a step from alpha = 0, whose length in lambda is infinite
    weight = (path.log_snr(step.s) - log_snr) / (2 * (log_snr - before.log_snr))
    if step.ends is not None:
        moved = torch.ones_like(step.ends) if before.step.moves is None else before.step.moves
        weight = torch.where(moved & ~step.ends, weight, 0)
    return x0 + on(x0, weight) * (x0 - before.x0)


def steps(levels: Tensor, path: Path) -> list[Step]:
    """The steps from row to row; ValueError unless levels fall, in (S + 1, F) in some frame at each step."""
    levels = levels.detach().to("cpu", torch.float64)
    falls = levels.diff(dim=0) < 0
    if levels.ndim == 1:
        if len(levels) < 2 or not bool(falls.all()):
            shown = [round(t, 4) for t in levels.tolist()]
            raise ValueError(f"levels must fall strictly and be at least two, got {shown}")
        last = len(levels) - 2
        return [
            Step(t, s, t, s, None, None, i == last) for i, (t, s) in enumerate(zip(levels, levels[1:], strict=False))
        ]
    if levels.ndim != 2 or len(levels) < 2 or not bool(falls.any(1).all()) or bool((levels.diff(dim=0) > 0).any()):
        raise ValueError(
            f"levels of frames, here {tuple(levels.shape)}, are (steps + 1, frames), none rising, one falling each step"
        )
    again = falls.flip(0).cumsum(0).flip(0) > 0  # whether a frame moves in this step or later
    made = []
    for index, (t, s) in enumerate(zip(levels[:, None], levels[1:, None], strict=False)):
        moves, rests = path.expand(falls[index, None]), index + 1 == len(falls)
        ends = torch.ones_like(moves) if rests else ~path.expand(again[index + 1, None])
        made.append(Step(t, s, path.expand(t), path.expand(s), None if bool(moves.all()) else moves, ends, rests))
    return made


def on(x: Tensor, coefficient: Tensor) -> Tensor:
    """A coefficient to multiply x with: 0-dim as it is, one for each frame in x's dtype on its device."""
    return coefficient if coefficient.ndim == 0 else moved(coefficient.to(x.dtype), x)


def choose(mask: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """torch.where, with a mask from the CPU."""
    return torch.where(moved(mask, yes), yes, no)


def moved(small: Tensor, x: Tensor) -> Tensor:
    """A small tensor of the CPU on x's device, without waiting for what the device still has to do."""
    return small.to(x.device, non_blocking=True)
