"""Samples are those of before solvers were generators, bit for bit: each formula again, as the plain loop it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dit.diffusion.path import VE, VP, Cosine, Linear
from dit.diffusion.path import Path as NoisePath
from dit.diffusion.prediction import Estimate
from dit.sampling.schedule import Shifted
from dit.sampling.solvers import DDIM, DPMSolverPP2M, Euler, Heun, Solver, State, end
from dit.sampling.tasks import ImageToVideo, VideoToVideo
from tests.sampling.test_pipeline import PROMPTS, SEEDS, VIDEO, pipeline

Denoise = Callable[[Tensor, Tensor], Estimate]
Noise = Callable[[], Tensor]
PATHS: list[NoisePath] = [Linear(), Cosine(), VP(0.1, 20.0), VE(0.01, 20.0)]


def euler(denoise: Denoise, x: Tensor, levels: Tensor, path: NoisePath, noise: Noise) -> Tensor:
    for t, s in zip(levels, levels[1:], strict=False):
        x = x + (s - t) * denoise(x, t).velocity
    return x


def heun(denoise: Denoise, x: Tensor, levels: Tensor, path: NoisePath, noise: Noise) -> Tensor:
    for step, (t, s) in enumerate(zip(levels, levels[1:], strict=False)):
        slope = denoise(x, t).velocity
        if step < len(levels) - 2:
            slope = (slope + denoise(x + (s - t) * slope, s).velocity) / 2
        x = x + (s - t) * slope
    return x


def ddim(denoise: Denoise, x: Tensor, levels: Tensor, path: NoisePath, noise: Noise, eta: float) -> Tensor:
    for t, s in zip(levels, levels[1:], strict=False):
        estimate, sigma = denoise(x, t), path.sigma(s)
        ratio = path.alpha(t) * sigma / (path.alpha(s) * path.sigma(t))
        fresh = eta * sigma * (1 - ratio**2).clamp(min=0).sqrt()
        x = path.alpha(s) * estimate.x0 + (sigma**2 - fresh**2).clamp(min=0).sqrt() * estimate.eps
        if eta:
            x = x + fresh * noise()
    return x


def dpmpp_2m(denoise: Denoise, x: Tensor, levels: Tensor, path: NoisePath, noise: Noise) -> Tensor:
    before: tuple[Tensor, Tensor] | None = None
    for step, (t, s) in enumerate(zip(levels, levels[1:], strict=False)):
        x0 = told = denoise(x, t).x0
        log_snr = path.log_snr(t)
        if before is not None and step < len(levels) - 2:
            x0 = x0 + (path.log_snr(s) - log_snr) / (2 * (log_snr - before[1])) * (x0 - before[0])
        shrink = path.sigma(s) / path.sigma(t)
        x = shrink * x + (path.alpha(s) - path.alpha(t) * shrink) * x0
        before = told, log_snr
    return x


BEFORE: list[tuple[Solver, Callable[..., Tensor]]] = [
    (Euler(), euler),
    (Heun(), heun),
    (DDIM(0.0), lambda *asked: ddim(*asked, eta=0.0)),
    (DDIM(0.7), lambda *asked: ddim(*asked, eta=0.7)),
    (DPMSolverPP2M(), dpmpp_2m),
]


@pytest.mark.parametrize("path", PATHS, ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("solver, before", BEFORE, ids=lambda each: repr(each) if isinstance(each, Solver) else "")
def test_each_solver(solver: Solver, before: Callable[..., Tensor], path: NoisePath) -> None:
    def denoise(x: Tensor, t: Tensor) -> Estimate:
        x0 = torch.tanh(x + x.mean(2, keepdim=True))
        eps = (x - path.alpha(t) * x0) / path.sigma(t)
        return Estimate(x0, eps, path.alpha_dot(t) * x0 + path.sigma_dot(t) * eps)

    def draws(seed: int) -> Noise:
        generator = torch.Generator().manual_seed(seed)
        return lambda: torch.randn(2, 3, 4, 5, 6, generator=generator)

    x, levels = path.prior_std * draws(0)(), Shifted(3.0)(7, 1, path, 1)
    found = end(solver(denoise, x, levels, path, draws(1)))
    assert torch.equal(found, before(denoise, x, levels, path, draws(1))) and bool(found.isfinite().all())


@pytest.mark.parametrize("solver, before", BEFORE, ids=lambda each: repr(each) if isinstance(each, Solver) else "")
def test_whole_samples(tmp_path: Path, solver: Solver, before: Callable[..., Tensor]) -> None:
    class Before(Solver):
        def walk(self, denoise: Denoise, x: Tensor, steps: Any, path: NoisePath, noise: Any) -> Iterator[State]:
            levels = torch.stack([steps[0].t, *(step.s for step in steps)])
            yield State(before(denoise, x, levels, path, noise), denoise(x, levels[0]))

    for task in (None, ImageToVideo(VIDEO[:, 0]), VideoToVideo(VIDEO, 0.6)):
        old, new = (pipeline(tmp_path, solver=each)(PROMPTS[:2], SEEDS[:2], task=task) for each in (Before(), solver))
        assert torch.equal(old.latents, new.latents) and torch.equal(old.pixels, new.pixels)
