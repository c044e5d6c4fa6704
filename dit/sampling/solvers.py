"""Solvers of the probability-flow ODE: from noise at level 1 to data at level 0.

All have one signature, `solver(denoise, x, levels, path, on_step=None, noise=None) -> x`:
    denoise   `denoise(x, t) -> Estimate(x0, eps, velocity)`, t a 0-dim float64 level; all it knows of a network
    x         (B, C, F, H, W), the state at `levels[0]`
    levels    (num_steps + 1,) float64, strictly falling
    path      alpha(t), sigma(t) and log_snr(t) of `x_t = alpha(t) x0 + sigma(t) eps`
    on_step   called as `on_step(step, x, estimate)` after each step, with the new state
    noise     draws fresh unit noise shaped like x; only solvers that add noise on the way call it

Coefficients are 0-dim float64 tensors on the CPU, so they are exact to the last digit of x's own precision and cost no
copy to a device. Only ratios that stay finite where alpha = 0 (level 1) or sigma = 0 (level 0) appear, and no solver
evaluates `denoise` at the last level.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from dit.diffusion.path import Path
from dit.diffusion.prediction import Estimate

Denoise = Callable[[Tensor, Tensor], Estimate]
OnStep = Callable[[int, Tensor, Estimate], None]
Noise = Callable[[], Tensor]


class Solver(Protocol):
    def __call__(
        self,
        denoise: Denoise,
        x: Tensor,
        levels: Tensor,
        path: Path,
        on_step: OnStep | None = None,
        noise: Noise | None = None,
    ) -> Tensor: ...


@dataclass(frozen=True)
class Euler:
    """First order: `x_s = x_t + (s - t) dx/dt`. For the linear path this is rectified flow's sampler (Liu et al. 2022,
    arXiv 2209.03003, algorithm 1)."""

    def __call__(
        self,
        denoise: Denoise,
        x: Tensor,
        levels: Tensor,
        path: Path,
        on_step: OnStep | None = None,
        noise: Noise | None = None,
    ) -> Tensor:
        for step, t, s in _steps(levels):
            estimate = denoise(x, t)
            x = x + (s - t) * estimate.velocity
            _report(on_step, step, x, estimate)
        return x


@dataclass(frozen=True)
class Heun:
    """Second order: the mean of the slopes at both ends (Karras et al. 2022, arXiv 2206.00364, algorithm 1, for any
    path). Two evaluations a step; the last step is Euler's, because slopes need not be finite where sigma = 0."""

    def __call__(
        self,
        denoise: Denoise,
        x: Tensor,
        levels: Tensor,
        path: Path,
        on_step: OnStep | None = None,
        noise: Noise | None = None,
    ) -> Tensor:
        last = len(levels) - 2
        for step, t, s in _steps(levels):
            estimate = denoise(x, t)
            slope = estimate.velocity
            if step < last:
                ahead = denoise(x + (s - t) * slope, s)
                slope = (slope + ahead.velocity) / 2
            x = x + (s - t) * slope
            _report(on_step, step, x, estimate)
        return x


@dataclass(frozen=True)
class DDIM:
    """First order, exact where x0 and eps are constant (Song et al. 2021, arXiv 2010.02502, equation 12), on any path:
    `x_s = alpha_s x0 + sqrt(sigma_s^2 - c^2) eps + c z` with `c = eta sigma_s sqrt(1 - snr_t / snr_s)` (equation 16).

    Args:
        eta: 0 follows the ODE; 1 adds as much noise as ancestral sampling (DDPM) does.
    """

    eta: float

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta={self.eta} is outside [0, 1]; nearest: {min(max(self.eta, 0.0), 1.0)}")

    def __call__(
        self,
        denoise: Denoise,
        x: Tensor,
        levels: Tensor,
        path: Path,
        on_step: OnStep | None = None,
        noise: Noise | None = None,
    ) -> Tensor:
        if self.eta and noise is None:
            raise ValueError(f"eta={self.eta} adds noise at every step, but no source of noise was passed; use eta=0")
        for step, t, s in _steps(levels):
            estimate = denoise(x, t)
            sigma = path.sigma(s)
            # sqrt(snr_t / snr_s); alpha_s > 0 because s < 1
            ratio = path.alpha(t) * sigma / (path.alpha(s) * path.sigma(t))
            fresh = self.eta * sigma * (1 - ratio**2).clamp(min=0).sqrt()
            x = path.alpha(s) * estimate.x0 + (sigma**2 - fresh**2).clamp(min=0).sqrt() * estimate.eps
            if self.eta and noise is not None:
                x = x + fresh * noise()
            _report(on_step, step, x, estimate)
        return x


@dataclass(frozen=True)
class DPMSolverPP2M:
    """Second order with one evaluation a step: DPM-Solver++(2M) (Lu et al. 2022, arXiv 2211.01095, algorithm 2).

    x0 is extrapolated linearly in `lambda = log(alpha / sigma)` from the step before. The first and the last step are
    of first order (DDIM): nothing comes before the first, and lambda is infinite at a clean end.
    """

    def __call__(
        self,
        denoise: Denoise,
        x: Tensor,
        levels: Tensor,
        path: Path,
        on_step: OnStep | None = None,
        noise: Noise | None = None,
    ) -> Tensor:
        last = len(levels) - 2
        before: tuple[Tensor, Tensor] | None = None  # x0 and log-SNR one step earlier
        for step, t, s in _steps(levels):
            estimate = denoise(x, t)
            x0, log_snr = estimate.x0, path.log_snr(t)
            if before is not None and step < last:
                # 1 / (2 r) of the paper; 0 after a step from alpha = 0, whose length in lambda is infinite
                weight = (path.log_snr(s) - log_snr) / (2 * (log_snr - before[1]))
                x0 = x0 + weight * (x0 - before[0])
            shrink = path.sigma(s) / path.sigma(t)
            # alpha_s (1 - exp(-h)) of the paper, written so that alpha_t = 0 is no special case
            x = shrink * x + (path.alpha(s) - path.alpha(t) * shrink) * x0
            before = estimate.x0, log_snr
            _report(on_step, step, x, estimate)
        return x


def _steps(levels: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
    """(step, from level, to level); ValueError unless the levels fall strictly."""
    levels = levels.detach().to("cpu", torch.float64)
    if levels.ndim != 1 or len(levels) < 2 or not bool((levels.diff() < 0).all()):
        raise ValueError(f"levels must fall strictly and be at least two, got {[round(t, 4) for t in levels.tolist()]}")
    for step in range(len(levels) - 1):
        yield step, levels[step], levels[step + 1]


def _report(on_step: OnStep | None, step: int, x: Tensor, estimate: Estimate) -> None:
    if on_step is not None:
        on_step(step, x, estimate)
