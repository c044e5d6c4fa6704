"""Solvers that add noise on the way beside DDIM with eta, and the step length of diffusers' DDIM (`solvers.py`)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dit.config.limits import Count
from dit.diffusion.path import Path
from dit.sampling.solvers import Before, Denoise, Noise, Solver, State, Step, extrapolated, on

CLOSE = 1e-6  # levels; those of timesteps are 1e-3 apart


@dataclass(frozen=True)
class SDEDPMSolverPP2M(Solver):
    """DPM-Solver++(2M) for the reverse SDE: second order in x0, with as much noise as ancestral sampling adds.

    Lu et al. 2022 (arXiv 2211.01095), appendix; k-diffusion's DPM++ 2M SDE (midpoint, eta = 1); CogVideoX's DPM
    scheduler. With `h` the step in `lambda = log(alpha / sigma)`: `x_s = (sigma_s / sigma_t) e^-h x_t + alpha_s (1 -
    e^-2h) x0 + sigma_s sqrt(1 - e^-2h) z`, x0 led on as in `DPMSolverPP2M`. In the first and the last step of a frame
    it is DDIM with eta = 1.
    """

    def walk(
        self, denoise: Denoise, x: Tensor, steps: Iterable[Step], path: Path, noise: Noise | None
    ) -> Iterator[State]:
        if noise is None:
            raise ValueError("solver=dpmpp_2m_sde adds noise at every step, but no source of noise was passed")
        before: Before | None = None
        for step in steps:
            estimate, log_snr = denoise(x, step.start), path.log_snr(step.t)
            x0 = extrapolated(estimate.x0, log_snr, before, step, path)
            alpha, sigma = path.alpha(step.s), path.sigma(step.s)
            ratio = path.alpha(step.t) * sigma / (alpha * path.sigma(step.t))  # e^-h; finite where alpha_t = 0
            kept, gain = sigma / path.sigma(step.t) * ratio, alpha * (1 - ratio**2)
            fresh = sigma * (1 - ratio**2).clamp(min=0).sqrt()
            x = step.move(x, on(x, kept) * x + on(x, gain) * x0 + on(x, fresh) * noise())
            before = Before(estimate.x0, log_snr, step)
            yield State(x, estimate)


@dataclass(frozen=True)
class Renoise(Solver):
    """x0 is believed, and noised anew to the next level: `x_s = alpha_s x0 + sigma_s z` (multistep sampling of
    consistency models, Song et al. 2023, arXiv 2303.01469, algorithm 1), for networks that were distilled to few
    steps."""

    def walk(
        self, denoise: Denoise, x: Tensor, steps: Iterable[Step], path: Path, noise: Noise | None
    ) -> Iterator[State]:
        if noise is None:
            raise ValueError("solver=renoise adds noise at every step, but no source of noise was passed")
        for step in steps:
            estimate = denoise(x, step.start)
            there = on(x, path.alpha(step.s)) * estimate.x0 + on(x, path.sigma(step.s)) * noise()
            x = step.move(x, there)
            yield State(x, estimate)


@dataclass(frozen=True)
class FixedStride(Solver):
    """Another solver whose steps all have the length N // steps timesteps, wherever the next one begins.

    That is what DDIM and CogVideoX's schedulers of diffusers compute: where the number of steps does not divide N, a
    step ends at another timestep than the one that the network is asked at next. It is for the same video, not a
    better one.

    Args:
        solver: takes the steps.
        timesteps: N, of a path in whole timesteps.
        num_steps: of the schedule; null: as many as are taken.
    """

    solver: Solver
    timesteps: Count
    num_steps: Count | None = None  # configs of before do not say

    def planned(self, num_steps: int) -> Solver:
        return replace(self, num_steps=num_steps)

    def begin(self, levels: Tensor, strength: float) -> Tensor:
        """The last ones of its whole steps, `strength` of their number rounded down, as in diffusers: a step that began
        between two of them would end between two others."""
        count = len(levels) - 1
        taken = min(int(count * strength), count)
        if taken < 1:
            raise ValueError(
                f"strength={strength:g} of num_steps={count} is less than one step, and this model takes whole ones;"
                f" nearest: {math.ceil(1000 / count) / 1000:g}"
            )
        return levels[count - taken :]

    def walk(
        self, denoise: Denoise, x: Tensor, steps: Iterable[Step], path: Path, noise: Noise | None
    ) -> Iterator[State]:
        taken = list(steps)
        if taken[0].t.ndim:
            raise ValueError("solver=fixed_stride is for one level for all frames; use the solver within it alone")
        stride = (self.timesteps // (self.num_steps or len(taken))) / self.timesteps
        return self.solver.walk(denoise, x, [self._cut(step, stride, taken[-1]) for step in taken], path, noise)

    def _cut(self, step: Step, stride: float, last: Step) -> Step:
        there = step.t - stride
        clean = bool(there < 1 / self.timesteps - CLOSE)  # before timestep 0
        end = last.end if clean else torch.as_tensor(there)
        return replace(step, end=end, s=end, last=clean)
