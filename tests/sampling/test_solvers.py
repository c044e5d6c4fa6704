"""Solvers against the closed-form flow of a Gaussian, at their known order of convergence.

If every coordinate of the data is N(mu, S), then x_t is N(alpha mu, v) with v = alpha^2 S + sigma^2, the best guess of
x0 is linear in x_t, and the probability-flow ODE keeps (x_t - alpha mu) / sqrt(v) constant.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from dit.diffusion.path import VE, VP, Cosine, Linear, Path
from dit.diffusion.prediction import Estimate
from dit.sampling.schedule import Karras
from dit.sampling.schedule import Linear as LinearSchedule
from dit.sampling.solvers import DDIM, DPMSolverPP2M, Euler, Heun, Solver, State, end
from dit.sampling.unipc import UniPC

PATHS: dict[str, Path] = {"linear": Linear(), "cosine": Cosine(), "vp": VP(0.1, 20.0), "ve": VE(0.01, 20.0)}
SOLVERS: dict[str, tuple[Solver, int]] = {
    "euler": (Euler(), 1),
    "ddim": (DDIM(0.0), 1),
    "heun": (Heun(), 2),
    "dpmpp_2m": (DPMSolverPP2M(), 2),
    "unipc_2": (UniPC(2, "bh2", "x0", lower_order_final=False), 3),  # as corrected
}
MULTISTEP = (DPMSolverPP2M, UniPC)


@dataclass
class Gaussian:
    """Data N(mean, variance) in each coordinate, its perfect denoiser and its exact flow."""

    path: Path
    mean: Tensor
    variance: Tensor

    @classmethod
    def draw(cls, path: Path, seed: int, shape: tuple[int, ...] = (2, 3, 2, 2, 2)) -> Gaussian:
        generator = torch.Generator().manual_seed(seed)
        mean = torch.randn(shape, generator=generator, dtype=torch.float64)
        variance = 0.3 + torch.rand(shape, generator=generator, dtype=torch.float64)
        return cls(path, mean, variance)

    def total(self, t: Tensor) -> Tensor:
        return self.path.alpha(t) ** 2 * self.variance + self.path.sigma(t) ** 2

    def denoise(self, x: Tensor, t: Tensor) -> Estimate:
        assert t.ndim == 0 and t.dtype == torch.float64
        path, alpha, sigma = self.path, self.path.alpha(t), self.path.sigma(t)
        surprise = (x - alpha * self.mean) / self.total(t)
        x0 = self.mean + alpha * self.variance * surprise
        eps = sigma * surprise
        return Estimate(x0, eps, path.alpha_dot(t) * x0 + path.sigma_dot(t) * eps)

    def exact(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        unit = (x - self.path.alpha(t) * self.mean) / self.total(t).sqrt()
        return self.path.alpha(s) * self.mean + self.total(s).sqrt() * unit

    def start(self, t: Tensor, seed: int) -> Tensor:
        noise = torch.randn(self.mean.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        return self.path.alpha(t) * self.mean + self.total(t).sqrt() * noise


def uniform(path: Path, steps: int, ends: tuple[float, float]) -> Tensor:
    return torch.linspace(*ends, steps + 1, dtype=torch.float64)


def uniform_in_log_snr(path: Path, steps: int, ends: tuple[float, float]) -> Tensor:
    high, low = path.log_snr(torch.tensor(ends, dtype=torch.float64)).tolist()
    return path.t_from_log_snr(torch.linspace(high, low, steps + 1, dtype=torch.float64))


def slope(
    solver: Solver,
    gaussian: Gaussian,
    ends: tuple[float, float],
    grid: Callable[[Path, int, tuple[float, float]], Tensor],
    seed: int = 0,
    steps: tuple[int, ...] = (32, 64, 128, 256),
) -> float:
    """Order of convergence: minus the slope of log error over log steps."""
    errors = []
    for count in steps:
        levels = grid(gaussian.path, count, ends)
        x = gaussian.start(levels[0], seed)
        y = end(solver(gaussian.denoise, x, levels, gaussian.path))
        error = (y - gaussian.exact(x, levels[0], levels[-1])).pow(2).mean().sqrt().item()
        assert math.isfinite(error)
        errors.append(math.log(error))
    logs = torch.tensor([math.log(count) for count in steps])
    values = torch.tensor(errors)
    return -(((logs - logs.mean()) * (values - values.mean())).sum() / (logs - logs.mean()).pow(2).sum()).item()


@pytest.mark.parametrize("grid", [uniform, uniform_in_log_snr])
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_order_between_noisy_ends(solver: str, path: str, grid: Callable[..., Tensor]) -> None:
    method, order = SOLVERS[solver]
    steps = (32, 64, 128) if order == 3 else (32, 64, 128, 256)
    for seed in range(2):
        found = slope(method, Gaussian.draw(PATHS[path], seed), (0.95, 0.1), grid, seed, steps)
        assert order - 0.05 * order**2 < found < order + 0.35, f"order {found:.2f}, expected {order}"


@pytest.mark.parametrize("path", ["linear", "cosine", "vp"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_order_from_pure_noise_to_clean(solver: str, path: str) -> None:
    """The whole way, where alpha(1) may be 0 and sigma(0) is."""
    method, order = SOLVERS[solver]
    found = slope(method, Gaussian.draw(PATHS[path], 5), (1.0, 0.0), uniform, steps=(16, 64, 256))
    # Steps of equal size in t are ever longer in log-SNR towards both ends: extrapolation there loses a log(n), and
    # what is of third order between is of second at the ends.
    lost = 0.7 if isinstance(method, MULTISTEP) else 0.2
    assert found > min(order, 2) - lost, f"order {found:.2f}, expected {order}"


@dataclass
class Spoiled:
    """Second-order solvers with a term dropped or turned round: the order test must notice."""

    def heun_without_correction(self, denoise, x, levels, path, noise=None):  # type: ignore[no-untyped-def]
        return Euler()(denoise, x, levels, path)

    def wrong_sign(self, denoise, x, levels, path, noise=None):  # type: ignore[no-untyped-def]
        def flipped(x: Tensor, t: Tensor) -> Estimate:
            estimate = denoise(x, t)
            return Estimate(estimate.x0, -estimate.eps, -estimate.velocity)

        return Heun()(flipped, x, levels, path)

    def first_order_multistep(self, denoise, x, levels, path, noise=None):  # type: ignore[no-untyped-def]
        return DDIM(0.0)(denoise, x, levels, path)


@pytest.mark.parametrize("way", [name for name in vars(Spoiled) if not name.startswith("_")])
def test_the_order_test_sees_a_spoiled_solver(way: str) -> None:
    found = slope(getattr(Spoiled(), way), Gaussian.draw(PATHS["cosine"], 1), (0.95, 0.1), uniform_in_log_snr)
    assert found < 1.85


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_finite_and_accurate_from_level_one_to_zero(solver: str, path: str) -> None:
    """With Karras's levels on every path, in one dtype throughout, and never asking for the last level."""
    gaussian, asked = Gaussian.draw(PATHS[path], 3), []

    def denoise(x: Tensor, t: Tensor) -> Estimate:
        asked.append(t.item())
        assert x.dtype == torch.float32
        estimate = gaussian.denoise(x.double(), t)
        return Estimate(*(part.float() for part in estimate))

    levels = Karras(0.005, 80.0, 7.0)(200, 8, gaussian.path, 1)
    x = gaussian.start(levels[0], 0)
    method, order = SOLVERS[solver]
    y = end(method(denoise, x.float(), levels, gaussian.path))
    assert y.dtype == torch.float32 and asked[0] == 1.0 and min(asked) > 0
    torch.testing.assert_close(
        y.double(), gaussian.exact(x, levels[0], levels[-1]), rtol=0, atol=0.15 if order == 1 else 0.02
    )


def test_one_step_is_the_first_order_formula() -> None:
    gaussian = Gaussian.draw(PATHS["linear"], 2)
    levels = LinearSchedule()(1, 8, gaussian.path, 1)
    x = gaussian.start(levels[0], 0)
    for method, _ in SOLVERS.values():
        torch.testing.assert_close(end(method(gaussian.denoise, x, levels, gaussian.path)), gaussian.mean)


def test_ddim_with_noise_keeps_the_marginals() -> None:
    """eta = 1 in many small steps must end in the data's own mean and variance, as ancestral sampling does."""
    path, count = PATHS["vp"], 20_000
    mean, variance = torch.tensor(0.7, dtype=torch.float64), torch.tensor(0.4, dtype=torch.float64)
    gaussian = Gaussian(path, mean.expand(count, 1, 1, 1, 1), variance.expand(count, 1, 1, 1, 1))
    generator = torch.Generator().manual_seed(0)

    def noise() -> Tensor:
        return torch.randn((count, 1, 1, 1, 1), generator=generator, dtype=torch.float64)

    levels = LinearSchedule()(200, 1, path, 1)
    ends = {}
    for eta in (0.0, 1.0):
        y = end(DDIM(eta)(gaussian.denoise, path.prior_std * noise(), levels, path, noise))
        ends[eta] = y
        assert abs(y.mean().item() - 0.7) < 0.03 and abs(y.var().item() / 0.4 - 1) < 0.05
    assert (ends[1.0] - ends[0.0]).abs().max() > 0.5
    spoiled = end(DDIM(1.0)(gaussian.denoise, noise(), levels, path, lambda: 1.5 * noise()))
    assert abs(spoiled.var().item() / 0.4 - 1) > 0.1


def test_every_step_is_yielded_and_none_is_made_that_nobody_asks_for() -> None:
    gaussian = Gaussian.draw(PATHS["cosine"], 4)
    levels = LinearSchedule()(5, 8, gaussian.path, 1)
    for method, _ in SOLVERS.values():
        asked: list[float] = []

        def denoise(x: Tensor, t: Tensor, asked: list[float] = asked) -> Estimate:
            asked.append(t.item())
            return gaussian.denoise(x, t)

        states = list(method(denoise, gaussian.mean, levels, gaussian.path))
        whole = len(asked)
        assert len(states) == 5 and all(isinstance(state, State) for state in states)
        x0 = gaussian.denoise(gaussian.mean, levels[0]).x0
        assert torch.equal(states[0].estimate.x0, x0), "the estimate at the step's start"
        assert torch.equal(end(method(gaussian.denoise, gaussian.mean, levels, gaussian.path)), states[-1].x)
        asked.clear()
        stopped = method(denoise, gaussian.mean, levels, gaussian.path)
        assert not asked and torch.equal(next(stopped).x, states[0].x) and len(asked) < whole / 2


def test_mistakes() -> None:
    gaussian = Gaussian.draw(PATHS["linear"], 0)
    with pytest.raises(ValueError, match="fall strictly"):
        Euler()(gaussian.denoise, gaussian.mean, torch.tensor([0.0, 1.0]), gaussian.path)
    with pytest.raises(ValueError, match=r"eta=1.5 is outside \[0, 1\]; nearest: 1.0"):
        DDIM(1.5)
    with pytest.raises(ValueError, match="source of noise"):
        end(DDIM(1.0)(gaussian.denoise, gaussian.mean, torch.tensor([1.0, 0.0]), gaussian.path))
