"""alpha, sigma, their derivatives and the log-SNR of every path, against closed forms and autograd."""

import math

import pytest
import torch
from torch import Tensor

from dit.diffusion.path import SMALLEST_VP_LEVEL, VE, VP, Cosine, Linear, Path


def between(count: int = 200) -> Tensor:
    return torch.rand(count, dtype=torch.float64) * 0.98 + 0.01


def test_closed_forms() -> None:
    for t in between(20).tolist():
        level = torch.tensor(t, dtype=torch.float64)
        for path, alpha, sigma in (
            (Linear(), 1 - t, t),
            (Cosine(), math.cos(math.pi * t / 2), math.sin(math.pi * t / 2)),
            (VE(0.01, 50.0), 1.0, 0.01 * 5000.0**t),
        ):
            assert path.alpha(level).item() == pytest.approx(alpha, rel=1e-12)
            assert path.sigma(level).item() == pytest.approx(sigma, rel=1e-12)


def test_vp_is_the_limit_of_ddpm() -> None:
    """alpha^2 is the cumulative product of 1 - beta_i with beta_i = beta(t_i) / N (Ho et al. 2020), as N grows."""
    path, steps = VP(beta_min=0.1, beta_max=20.0), 200_000
    grid = torch.arange(1, steps + 1, dtype=torch.float64) / steps
    product = torch.cumprod(1 - (0.1 + 19.9 * grid) / steps, dim=0)
    chosen = torch.tensor([0.1, 0.37, 0.8])
    at = (chosen * steps).long() - 1
    torch.testing.assert_close(path.alpha(grid[at]) ** 2, product[at], rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(path.alpha(grid) ** 2 + path.sigma(grid) ** 2, torch.ones(steps, dtype=torch.float64))


def test_derivatives_are_autograd_s(path: Path) -> None:
    t = between().requires_grad_()
    for value, derivative in ((path.alpha, path.alpha_dot), (path.sigma, path.sigma_dot)):
        # A constant alpha (VE) has no graph; adding 0 t gives it one.
        (expected,) = torch.autograd.grad((value(t) + 0 * t).sum(), t)
        torch.testing.assert_close(derivative(t), expected, rtol=1e-10, atol=1e-12)


def test_log_snr_is_that_of_alpha_and_sigma_and_falls(path: Path) -> None:
    t = between().sort().values
    expected = (path.alpha(t) ** 2 / path.sigma(t) ** 2).log()
    torch.testing.assert_close(path.log_snr(t), expected, rtol=1e-9, atol=1e-9)
    assert (path.log_snr(t).diff() < 0).all()


def test_log_snr_inverse(path: Path) -> None:
    t = between()
    torch.testing.assert_close(path.t_from_log_snr(path.log_snr(t)), t, rtol=1e-9, atol=1e-10)
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(path.t_from_log_snr(path.log_snr(ends)), ends, rtol=0, atol=1e-12)


def test_log_snr_out_of_reach_is_the_nearer_end(path: Path) -> None:
    extremes = torch.tensor([math.inf, 200.0, -200.0, -math.inf], dtype=torch.float64)
    t = path.t_from_log_snr(extremes)
    torch.testing.assert_close(t, torch.tensor([0.0, 0.0, 1.0, 1.0], dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ends(path: Path, dtype: torch.dtype) -> None:
    ends = torch.tensor([0.0, 1.0], dtype=dtype)
    alpha, sigma = path.alpha(ends), path.sigma(ends)
    assert alpha[0] == 1 and sigma[0] == 0
    assert alpha[1] >= 0 and (alpha[1] / sigma[1]) < 0.3
    assert sigma[1].item() == pytest.approx(path.prior_std, rel=1e-6)
    assert path.log_snr(ends)[0] == math.inf
    for derivative in (path.alpha_dot(ends), path.sigma_dot(ends)):
        assert derivative.isfinite().all() and derivative.dtype == dtype


def test_prior_std() -> None:
    assert Linear().prior_std == Cosine().prior_std == 1
    assert VP(0.1, 20.0).prior_std == pytest.approx(math.sqrt(1 - math.exp(-10.05)))
    assert VE(0.002, 80.0).prior_std == pytest.approx(80)


def test_float32_is_as_precise_as_float32_can_be(path: Path) -> None:
    """Beside both ends: no cancellation eats the digits."""
    t = torch.cat([torch.logspace(-6, -1, 50), 1 - torch.logspace(-6, -1, 50)])
    for function in (path.alpha, path.sigma, path.alpha_dot, path.sigma_dot):
        torch.testing.assert_close(function(t).double(), function(t.double()), rtol=3e-5, atol=1e-12)


def test_mix_broadcasts_one_level_a_frame(path: Path) -> None:
    x0, eps = torch.randn(2, 2, 3, 4, 5, 6, dtype=torch.float64)
    t = torch.rand(2, 4, dtype=torch.float64)
    mixed = path.mix(x0, eps, t)
    for b in range(2):
        for f in range(4):
            alpha, sigma = path.alpha(t[b, f]).item(), path.sigma(t[b, f]).item()
            torch.testing.assert_close(mixed[b, :, f], alpha * x0[b, :, f] + sigma * eps[b, :, f])
    torch.testing.assert_close(path.mix(x0, eps, t[:, :1]), path.mix(x0, eps, t[:, :1].expand(2, 4)))
    torch.testing.assert_close(path.mix(x0, eps, t[0, 0]), path.mix(x0, eps, t[0, 0].expand(2, 4)))


def test_level_zero_is_clean_to_the_bit(path: Path) -> None:
    x0, eps = torch.randn(2, 2, 3, 4, 5, 6)
    assert torch.equal(path.mix(x0, eps, torch.zeros(2, 4)), x0)
    assert not torch.equal(path.mix(x0, eps, torch.full((2, 4), 0.01)), x0)


def test_nothing_is_written_in_place(path: Path) -> None:
    t = torch.rand(2, 4)
    t[0, 0] = 0
    before = t.clone()
    for function in (path.alpha, path.sigma, path.alpha_dot, path.sigma_dot, path.log_snr, path.t_from_log_snr):
        function(t)
        assert torch.equal(t, before)


def test_vp_derivative_holds_below_the_smallest_level() -> None:
    path = VP(0.1, 20.0)
    t = torch.tensor([0.0, SMALLEST_VP_LEVEL / 2, SMALLEST_VP_LEVEL], dtype=torch.float64)
    assert path.sigma_dot(t).unique().numel() == 1


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: VP(0.0, 20.0),
        lambda: VP(2.0, 1.0),
        lambda: VE(0.0, 80.0),
        lambda: VE(3.0, 2.0),
        lambda: Linear().expand(torch.zeros(2)),
        lambda: Linear().expand(torch.zeros(2, 1, 3)),
    ],
)
def test_mistakes_are_one_line(wrong) -> None:
    with pytest.raises(ValueError) as error:
        wrong()
    assert "\n" not in str(error.value)
