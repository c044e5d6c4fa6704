"""Solvers that add noise: the law of what they make, and what they are where the noise has no say."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dit.diffusion.path import Linear
from dit.sampling.published_schedules import Trailing
from dit.sampling.schedule import Linear as LinearSchedule
from dit.sampling.schedule import Pyramid, Shifted
from dit.sampling.solvers import DDIM, DPMSolverPP2M, Solver, end
from dit.sampling.stochastic import FixedStride, Renoise, SDEDPMSolverPP2M
from tests.sampling.test_solvers import PATHS, Gaussian


def test_the_sde_ends_in_the_law_of_the_data() -> None:
    """Mean and variance of 20,000 samples, with fewer steps than first order (DDIM, eta = 1) needs for them."""
    path, count = PATHS["cosine"], 20_000
    mean, variance = torch.tensor(0.7, dtype=torch.float64), torch.tensor(0.4, dtype=torch.float64)
    gaussian = Gaussian(path, mean.expand(count, 1, 1, 1, 1), variance.expand(count, 1, 1, 1, 1))
    generator = torch.Generator().manual_seed(0)

    def noise() -> Tensor:
        return torch.randn((count, 1, 1, 1, 1), generator=generator, dtype=torch.float64)

    def variance_of(solver: Solver) -> float:
        y = end(solver(gaussian.denoise, path.prior_std * noise(), LinearSchedule()(80, 1, path, 1), path, noise))
        assert abs(y.mean().item() - 0.7) < 0.03
        return abs(y.var().item() / 0.4 - 1)

    assert variance_of(SDEDPMSolverPP2M()) < 0.035 < 0.055 < variance_of(DDIM(1.0))


def test_renoising_keeps_what_is_believed_and_forgets_the_rest() -> None:
    gaussian, levels = Gaussian.draw(Linear(), 1), torch.tensor([1.0, 0.6, 0.0], dtype=torch.float64)
    x, z = gaussian.start(levels[0], 0), torch.randn(gaussian.mean.shape, dtype=torch.float64)
    first, second = Renoise()(gaussian.denoise, x, levels, Linear(), lambda: z)
    torch.testing.assert_close(first.x, 0.4 * gaussian.denoise(x, levels[0]).x0 + 0.6 * z)
    torch.testing.assert_close(second.x, gaussian.denoise(first.x, levels[1]).x0)


def test_a_stride_that_reaches_the_next_timestep_changes_nothing() -> None:
    path = PATHS["vp"]
    gaussian = Gaussian.draw(path, 2)
    for steps, equal in ((8, True), (7, False)):
        levels = Trailing(True, 1000, False, True)(steps, 1, path, 1)
        x = gaussian.start(levels[0], 0)
        for solver in (DDIM(0.0), DPMSolverPP2M()):
            plain, strided = (
                end(each(gaussian.denoise, x, levels, path)) for each in (solver, FixedStride(solver, 1000))
            )
            assert torch.allclose(plain, strided, rtol=1e-9, atol=1e-9) == equal


def test_mistakes() -> None:
    gaussian = Gaussian.draw(Linear(), 0)
    levels = Shifted(3.0)(4, 1, Linear(), 1)
    for solver in (SDEDPMSolverPP2M(), Renoise()):
        with pytest.raises(ValueError, match="no source of noise was passed"):
            end(solver(gaussian.denoise, gaussian.mean, levels, Linear()))
    with pytest.raises(ValueError, match="fixed_stride is for one level for all frames"):
        matrix = Pyramid(Shifted(3.0), 1, 1)(4, 1, Linear(), 2)
        end(FixedStride(DDIM(0.0), 1000)(gaussian.denoise, gaussian.mean, matrix, Linear()))
