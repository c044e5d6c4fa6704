"""Paths in whole timesteps, and what networks are told of them."""

from __future__ import annotations

import math

import pytest
import torch

from dit.diffusion import levels
from dit.diffusion.discrete import Betas, Discrete, LinearBetas, ScaledLinearBetas, SquaredCosineBetas
from dit.diffusion.path import VP, Linear
from dit.diffusion.prediction import Eps, Flow, V
from dit.diffusion.shift import ExponentialShift, LinearShift
from dit.diffusion.timesteps import DiscreteTimesteps, WholeLevels, WholeTimesteps


def discrete(timesteps: int = 1000, betas: Betas | None = None, **changes: object) -> Discrete:
    usual = {"precision": "float64", "snr_shift": 1.0, "zero_terminal_snr": False, "least_alpha_bar": 0.0}
    return Discrete(timesteps, betas or LinearBetas(1e-4, 0.02), **{**usual, **changes})  # type: ignore[arg-type]


def at_timesteps(path: Discrete) -> torch.Tensor:
    """alpha_bar at every timestep."""
    return path.alpha(torch.arange(1, path.timesteps + 1, dtype=torch.float64) / path.timesteps) ** 2


def test_alpha_bar_is_the_product_of_ho_et_al() -> None:
    beta = [1e-4 + (0.02 - 1e-4) * n / 999 for n in range(1000)]
    for n in (0, 1, 500, 999):
        wanted = math.prod(1 - b for b in beta[: n + 1])
        assert at_timesteps(discrete())[n].item() == pytest.approx(wanted, rel=1e-10)
    root = [math.sqrt(0.00085) + (math.sqrt(0.012) - math.sqrt(0.00085)) * n / 999 for n in range(1000)]
    found = at_timesteps(discrete(betas=ScaledLinearBetas(0.00085, 0.012)))[700].item()
    assert found == pytest.approx(math.prod(1 - r**2 for r in root[:701]), rel=1e-10)


def test_squared_cosine_is_that_of_nichol_and_dhariwal() -> None:
    found = at_timesteps(discrete(betas=SquaredCosineBetas(0.999)))
    for n in (10, 500, 950):
        t = (n + 1) / 1000
        wanted = (math.cos((t + 0.008) / 1.008 * math.pi / 2) / math.cos(0.008 / 1.008 * math.pi / 2)) ** 2
        assert found[n].item() == pytest.approx(wanted, rel=1e-9)


def test_it_is_the_continuous_path_between_many_timesteps() -> None:
    """VP is the limit of DDPM (Song et al. 2021)."""
    path, t = (
        discrete(20_000, LinearBetas(0.1 / 20_000, 20 / 20_000)),
        torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64),
    )
    torch.testing.assert_close(path.alpha(t), VP(0.1, 20.0).alpha(t), rtol=3e-3, atol=0)
    torch.testing.assert_close(path.sigma_dot(t), VP(0.1, 20.0).sigma_dot(t), rtol=1e-2, atol=0)


def test_the_ratio_is_linear_between_timesteps() -> None:
    path, t = discrete(), torch.tensor([499.0, 499.25, 500.0], dtype=torch.float64) / 1000
    ratio = path.sigma(t) / path.alpha(t)
    assert (ratio[1] - ratio[0]).item() == pytest.approx((ratio[2] - ratio[0]).item() / 4, rel=1e-9)


@pytest.mark.parametrize(
    "betas", [LinearBetas(1e-4, 0.02), ScaledLinearBetas(0.00085, 0.012), SquaredCosineBetas(0.999)]
)
def test_zero_terminal_snr(betas: Betas) -> None:
    """Lin et al. 2024, algorithm 1: alpha is moved and scaled, the first one stays, the last is 0."""
    plain, path = discrete(betas=betas), discrete(betas=betas, zero_terminal_snr=True)
    before, after = at_timesteps(plain).sqrt(), at_timesteps(path).sqrt()
    assert after[-1] == 0 and after[0].item() == pytest.approx(before[0].item(), rel=1e-9)
    torch.testing.assert_close(
        after, (before - before[-1]) * before[0] / (before[0] - before[-1]), rtol=1e-8, atol=1e-12
    )
    ends = torch.tensor([0.0, 0.9995, 1.0], dtype=torch.float64)
    assert path.log_snr(ends)[-1] == -math.inf and bool((path.alpha(ends).diff() < 0).all())
    torch.testing.assert_close(path.t_from_log_snr(path.log_snr(ends)), ends, rtol=0, atol=1e-12)
    assert bool(path.sigma_dot(ends).isfinite().all()) and bool(path.alpha_dot(ends).isfinite().all())
    kept = discrete(betas=betas, zero_terminal_snr=True, least_alpha_bar=1e-12)
    assert at_timesteps(kept)[-1].item() == pytest.approx(1e-12)


def test_snr_shift_divides_the_ratio_of_signal_to_noise() -> None:
    t = torch.tensor([0.2, 0.7, 1.0], dtype=torch.float64)
    torch.testing.assert_close(discrete(snr_shift=3.0).log_snr(t), discrete().log_snr(t) - math.log(3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_whole_timesteps_are_told_exactly(dtype: torch.dtype) -> None:
    """The network multiplies by its scale: levels of float32 must not miss the timestep."""
    wanted = torch.arange(1000, dtype=torch.float64)
    t = ((wanted + 1) / 1000).to(dtype)[None]
    _, told = DiscreteTimesteps(V(), 1000, 1000.0).network_input(discrete(), torch.zeros(1), t)
    assert torch.equal((told * 1000).round(), wanted[None]) and torch.equal(told, wanted[None] / 1000)
    between = torch.tensor([[0.4, 500.4, 0.0]], dtype=dtype) / 1000
    _, told = DiscreteTimesteps(V(), 1000, 1000.0).network_input(discrete(), torch.zeros(1), between)
    torch.testing.assert_close(told * 1000, torch.tensor([[0.0, 499.4, 0.0]], dtype=torch.float64), rtol=0, atol=1e-4)
    _, told = WholeTimesteps(Flow(), 1000, 1000.0).network_input(Linear(), torch.zeros(1), between + 0.001)
    assert (told * 1000).round().tolist() == [[1, 501, 1]]


def test_a_prediction_that_is_told_timesteps_means_what_it_meant() -> None:
    path, x, out = discrete(), *torch.randn(2, 2, 3, 4, 5, 6, dtype=torch.float64)
    t = torch.rand(2, 4, dtype=torch.float64)
    for plain in (V(), Eps(1e-6), Flow()):
        for told in (DiscreteTimesteps(plain, 1000, 1000.0), WholeTimesteps(plain, 1000, 1000.0)):
            assert torch.equal(told.target(path, x, out, t), plain.target(path, x, out, t))
            mine, theirs = told.estimate(path, out, x, t), plain.estimate(path, out, x, t)
            assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))


def test_whole_levels_are_timesteps_all_alike() -> None:
    drawn = WholeLevels(levels.Uniform(), 10)(50_000, 1, 1, torch.Generator().manual_seed(0), "cpu") * 10
    values, counts = drawn.round().unique(return_counts=True)
    assert values.tolist() == list(range(1, 11)) and torch.equal(drawn, drawn.round())
    assert bool((counts - 5000).abs().max() < 400)
    assert WholeLevels(levels.PerFrame(levels.Uniform()), 10).per_frame
    assert WholeLevels(levels.Uniform(), 10).from_uniform(torch.zeros(1), 1).item() == pytest.approx(0.1)


def test_shifts_along_a_line() -> None:
    assert ExponentialShift(1024, 4096, 0.95, 2.05)(1024) == pytest.approx(math.exp(0.95))
    assert ExponentialShift(1024, 4096, 0.95, 2.05)(4096) == pytest.approx(math.exp(2.05))
    assert LinearShift(100, 300, 1.0, 2.0)(200) == pytest.approx(1.5)
    assert LinearShift(100, 300, 1.0, 2.0)(500) == pytest.approx(3.0)
    for wrong, message in [
        (lambda: ExponentialShift(10, 10, 1.0, 2.0), "max_tokens=10 must be above base_tokens=10"),
        (lambda: LinearShift(100, 300, 1.0, 2.0)(-200), "-200 tokens give the shift"),
        (lambda: ExponentialShift(1, 2, 1.0, 2.0)(1000), "1000 tokens give the shift inf"),
    ]:
        with pytest.raises(ValueError, match=message):
            wrong()


@pytest.mark.parametrize(
    "wrong, message",
    [
        (lambda: discrete(1), "timesteps=1 must be from 2 to 100000"),
        (lambda: discrete(200_000), "timesteps=200000 must be"),
        (lambda: discrete(betas=LinearBetas(0.0, 0.1)), "first=0.0: a beta is between 0 and 1"),
        (lambda: discrete(betas=ScaledLinearBetas(0.1, 1.0)), "last=1.0: a beta is between 0 and 1"),
        (lambda: discrete(betas=SquaredCosineBetas(1.0)), "largest=1.0: a beta"),
        (
            lambda: discrete(zero_terminal_snr=True, least_alpha_bar=2.0**-24),
            "noise does not grow from timestep 998 to 999",
        ),
    ],
)
def test_mistakes(wrong, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        wrong()
