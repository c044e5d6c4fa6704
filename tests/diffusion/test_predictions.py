"""Every prediction on every path: the target fed back as output returns x0, eps and velocity."""

import math

import pytest
import torch
from torch import Tensor

from dit.diffusion.denoiser import Denoiser
from dit.diffusion.path import VE, VP, Cosine, Linear, Path
from dit.diffusion.prediction import EDM, X0, Eps, Flow, FlowToData, Prediction, V

SHAPE = (2, 3, 4, 5, 6)


def truth(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    return torch.randn(SHAPE, dtype=dtype), torch.randn(SHAPE, dtype=dtype)


@pytest.mark.parametrize("frames", [1, 4])
def test_round_trip(path: Path, prediction: Prediction, frames: int) -> None:
    x0, eps = truth()
    t = torch.rand(2, frames, dtype=torch.float64) * 0.9 + 0.05
    x_t = path.mix(x0, eps, t)
    estimate = prediction.estimate(path, prediction.target(path, x0, eps, t), x_t, t)
    level = t.expand(2, 4)[:, None, :, None, None].clone().requires_grad_()
    moved = path.alpha(level) * x0 + path.sigma(level) * eps
    # d x_t / dt, place by place, by forward differentiation through a dummy weight of each place.
    weight = torch.ones_like(moved, requires_grad=True)
    (per_level,) = torch.autograd.grad((moved * weight).sum(), level, create_graph=True)
    (velocity,) = torch.autograd.grad(per_level.sum(), weight)
    torch.testing.assert_close(estimate.x0, x0, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(estimate.eps, eps, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(estimate.velocity, velocity, rtol=1e-9, atol=1e-9)


def test_round_trip_notices_a_wrong_output(path: Path, prediction: Prediction) -> None:
    x0, eps = truth()
    t = torch.rand(2, 4, dtype=torch.float64) * 0.9 + 0.05
    out = prediction.target(path, x0, eps, t)
    estimate = prediction.estimate(path, 1.01 * out, path.mix(x0, eps, t), t)
    assert max((estimate.x0 - x0).abs().max(), (estimate.eps - eps).abs().max()) > 1e-5


def test_any_output_explains_the_state(path: Path, prediction: Prediction) -> None:
    """x_t = alpha x0 + sigma eps and velocity = alpha' x0 + sigma' eps hold whatever the network says."""
    x_t, out = truth()
    t = torch.rand(2, 4, dtype=torch.float64) * 0.9 + 0.05
    estimate = prediction.estimate(path, out, x_t, t)
    e = t[:, None, :, None, None]
    torch.testing.assert_close(path.mix(estimate.x0, estimate.eps, t), x_t, rtol=1e-9, atol=1e-9)
    velocity = path.alpha_dot(e) * estimate.x0 + path.sigma_dot(e) * estimate.eps
    torch.testing.assert_close(estimate.velocity, velocity)


def test_finite_at_both_ends(path: Path, prediction: Prediction) -> None:
    """Arbitrary outputs too, in float32, with finite gradients."""
    x0, eps = truth(torch.float32)
    t = torch.tensor([[0.0, 1.0, 1e-7, 1 - 1e-7], [1.0, 0.0, 1.0, 0.0]])
    x_t = path.mix(x0, eps, t)
    x_in, t_in = prediction.network_input(path, x_t, t)
    assert x_in.isfinite().all() and t_in.isfinite().all() and t_in.shape == t.shape
    for out in (prediction.target(path, x0, eps, t), torch.randn(SHAPE)):
        out.requires_grad_()
        estimate = prediction.estimate(path, out, x_t, t)
        assert all(part.isfinite().all() for part in estimate)
        (gradient,) = torch.autograd.grad(sum(part.square().mean() for part in estimate), out)
        assert gradient.isfinite().all()


def test_clean_frames_come_back_clean(path: Path, prediction: Prediction) -> None:
    """At level 0 the right output gives back x0, though eps is no longer determined."""
    x0, eps = truth()
    t = torch.zeros(2, 4, dtype=torch.float64)
    estimate = prediction.estimate(path, prediction.target(path, x0, eps, t), path.mix(x0, eps, t), t)
    torch.testing.assert_close(estimate.x0, x0, rtol=1e-9, atol=1e-9)


def test_targets_are_those_of_the_papers() -> None:
    x0, eps = truth()
    t = torch.rand(2, 4, dtype=torch.float64)
    e = t[:, None, :, None, None]
    torch.testing.assert_close(Flow().target(Linear(), x0, eps, t), eps - x0)
    torch.testing.assert_close(FlowToData().target(Linear(), x0, eps, t), x0 - eps)
    angle = math.pi / 2 * e
    torch.testing.assert_close(V().target(Cosine(), x0, eps, t), angle.cos() * eps - angle.sin() * x0)
    # On a path that preserves variance with constant angular speed, velocity and v differ by that speed alone.
    torch.testing.assert_close(Flow().target(Cosine(), x0, eps, t), math.pi / 2 * V().target(Cosine(), x0, eps, t))
    torch.testing.assert_close(Eps(1e-3).target(VP(0.1, 20.0), x0, eps, t), eps)
    torch.testing.assert_close(X0(1e-3).target(VE(0.01, 50.0), x0, eps, t), x0)


def test_edm_is_table_1_of_karras_et_al(path: Path) -> None:
    """D(y; s) = c_skip y + c_out F(c_in y; c_noise) with y = x_t / alpha, s = sigma / alpha, as they write it."""
    data, (x0, eps) = 0.7, truth()
    t = torch.rand(2, 4, dtype=torch.float64) * 0.9 + 0.05
    e = t[:, None, :, None, None]
    x_t, s = path.mix(x0, eps, t), path.sigma(e) / path.alpha(e)
    y = x_t / path.alpha(e)
    c_skip = data**2 / (s**2 + data**2)
    c_out = s * data / (data**2 + s**2).sqrt()
    c_in = 1 / (s**2 + data**2).sqrt()
    edm = EDM(sigma_data=data)
    x_in, t_in = edm.network_input(path, x_t, t)
    torch.testing.assert_close(x_in, c_in * y)
    torch.testing.assert_close(t_in, (s.log() / 4)[:, 0, :, 0, 0])
    out = torch.randn(SHAPE, dtype=torch.float64)
    torch.testing.assert_close(edm.estimate(path, out, x_t, t).x0, c_skip * y + c_out * out, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(edm.target(path, x0, eps, t), (x0 - c_skip * y) / c_out, rtol=1e-6, atol=1e-9)


def test_edm_keeps_input_and_target_at_unit_variance(path: Path) -> None:
    data = 0.7
    x0, eps = data * torch.randn(1, 1, 4, 200, 200), torch.randn(1, 1, 4, 200, 200)
    t = torch.tensor([[0.02, 0.3, 0.7, 0.98]])
    x_in, _ = EDM(data).network_input(path, path.mix(x0, eps, t), t)
    for value in (x_in, EDM(data).target(path, x0, eps, t)):
        torch.testing.assert_close(value.std(dim=(0, 1, 3, 4)), torch.ones(4), rtol=0.03, atol=0)


def test_floors_are_reached_only_near_their_end() -> None:
    x_t, out = truth()
    high, low = torch.full((2, 1), 0.98, dtype=torch.float64), torch.full((2, 1), 0.02, dtype=torch.float64)
    for level, loose, tight in ((high, Eps(0.001), Eps(0.05)), (low, X0(0.001), X0(0.05))):
        exact, floored = loose.estimate(Linear(), out, x_t, level), tight.estimate(Linear(), out, x_t, level)
        torch.testing.assert_close(Linear().mix(exact.x0, exact.eps, level), x_t)
        assert not torch.allclose(Linear().mix(floored.x0, floored.eps, level), x_t, atol=1e-3)
        other = tight.estimate(Linear(), out, x_t, 1 - level)
        torch.testing.assert_close(Linear().mix(other.x0, other.eps, 1 - level), x_t)


def test_bfloat16_output_is_used_in_float32(path: Path, prediction: Prediction) -> None:
    x_t, out = truth(torch.float32)
    estimate = prediction.estimate(path, out.bfloat16(), x_t, torch.rand(2, 4) * 0.9 + 0.05)
    assert estimate.velocity.dtype == torch.float32


@pytest.mark.parametrize("shape", [(2, 1), (2, 4)])
def test_denoiser_joins_the_three_and_adds_nothing(path: Path, prediction: Prediction, shape: tuple[int, int]) -> None:
    x_t, scale = truth()
    t = torch.rand(shape, dtype=torch.float64) * 0.9 + 0.05
    cond = {"text": torch.randn(2, 3)}
    seen = []

    def net(x: Tensor, level: Tensor, given_cond: dict[str, Tensor]) -> Tensor:
        seen.append((x, level, given_cond))
        return scale * x

    estimate = Denoiser(net, path, prediction)(x_t, t, cond)
    x_in, t_in = prediction.network_input(path, x_t, t)
    assert torch.equal(seen[0][0], x_in) and torch.equal(seen[0][1], t_in) and seen[0][2] is cond
    assert seen[0][1].shape == shape
    for got, wanted in zip(estimate, prediction.estimate(path, scale * x_in, x_t, t), strict=True):
        assert torch.equal(got, wanted)


@pytest.mark.parametrize("wrong", [lambda: Eps(0.0), lambda: X0(-1.0), lambda: EDM(0.0)])
def test_mistakes_are_one_line(wrong) -> None:
    with pytest.raises(ValueError, match="must be above 0"):
        wrong()
