"""Weights against the formulas of their papers, and their exact conversion between compared spaces."""

import math

import pytest
import torch
from torch import Tensor

from dit.diffusion.path import VP, Cosine, Linear, Path
from dit.diffusion.prediction import EDM as EDMPrediction
from dit.diffusion.prediction import X0 as X0Prediction
from dit.diffusion.prediction import Flow, Prediction, V
from dit.diffusion.space import X0, Eps, Output, Space, Velocity, weight_conversion
from dit.diffusion.weighting import EDM, ClippedVelocity, MinSNR, Sigmoid, Uniform, Weighting

SPACES = [X0(), Eps(), Velocity(), Output()]
WEIGHTINGS = [MinSNR(5.0), Sigmoid(1.0), EDM(0.6), ClippedVelocity(0.3)]


def between(count: int = 50) -> Tensor:
    return torch.rand(count, 1, dtype=torch.float64) * 0.9 + 0.05


def snr_of(path: Path, t: Tensor) -> Tensor:
    return path.alpha(t) ** 2 / path.sigma(t) ** 2


def test_table_of_conversions(path: Path) -> None:
    """The table at the head of space.py, spelt out."""
    t = between()
    alpha, sigma = path.alpha(t), path.sigma(t)
    d = path.alpha_dot(t) * sigma - path.sigma_dot(t) * alpha
    table = {
        (X0, Eps): sigma**2 / alpha**2,
        (Eps, X0): alpha**2 / sigma**2,
        (X0, Velocity): sigma**2 / d**2,
        (Velocity, X0): d**2 / sigma**2,
        (Eps, Velocity): alpha**2 / d**2,
        (Velocity, Eps): d**2 / alpha**2,
        (Velocity, Velocity): torch.ones_like(t),
    }
    for (source, target), expected in table.items():
        torch.testing.assert_close(weight_conversion(source(), target(), path, Flow(), t), expected)


@pytest.mark.parametrize("target", SPACES, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("source", SPACES, ids=lambda s: type(s).__name__)
def test_converted_loss_is_the_same_loss(path: Path, prediction: Prediction, source: Space, target: Space) -> None:
    """w |error|^2 in one space is the converted w times |error|^2 in the other, for an arbitrary wrong output."""
    t = between(4)
    x0, eps, wrong = torch.randn(3, 4, 2, 1, 3, 3, dtype=torch.float64)
    x_t, target_out = path.mix(x0, eps, t), prediction.target(path, x0, eps, t)

    def error(space: Space) -> Tensor:
        value, truth = (space.value(path, prediction, out, x_t, t) for out in (target_out + wrong, target_out))
        return (value - truth).square().mean(dim=(1, 3, 4))

    conversion = weight_conversion(source, target, path, prediction, t)
    torch.testing.assert_close(error(source), conversion * error(target), rtol=1e-6, atol=1e-12)


def test_truth_of_each_space(path: Path, prediction: Prediction) -> None:
    t = between(2)
    x0, eps = torch.randn(2, 2, 3, 1, 4, 4, dtype=torch.float64)
    e = t[:, :, None, None, None]
    out, x_t = prediction.target(path, x0, eps, t), path.mix(x0, eps, t)
    expected = [x0, eps, path.alpha_dot(e) * x0 + path.sigma_dot(e) * eps, out]
    for space, truth in zip(SPACES, expected, strict=True):
        value = space.value(path, prediction, out, x_t, t)
        p, q = space.coefficients(path, prediction, e)
        torch.testing.assert_close(value, truth, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(p * x0 + q * eps, truth, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("path", [Cosine(), VP(0.1, 20.0)], ids=["cosine", "vp"])
def test_min_snr_is_the_paper_s_table(path: Path) -> None:
    gamma, t = 5.0, between()
    snr = snr_of(path, t)
    assert (snr > gamma).any() and (snr < gamma).any()
    clipped = torch.minimum(snr, torch.tensor(gamma))
    in_v = MinSNR(gamma).in_space(Output(), path, V(), t)
    torch.testing.assert_close(MinSNR(gamma).in_space(X0(), path, V(), t), clipped)
    torch.testing.assert_close(MinSNR(gamma).in_space(Eps(), path, V(), t), clipped / snr)
    torch.testing.assert_close(in_v, clipped / (snr + 1))
    assert not torch.allclose(in_v, clipped / snr, rtol=0.05), "the form for eps must not pass as the form for v"


def test_sigmoid_is_that_of_kingma_and_gao(path: Path) -> None:
    """-1/2 dl/dt sigmoid(bias - l) on the error of eps, dl/dt by autograd."""
    bias, t = 1.3, between().requires_grad_()
    l = path.log_snr(t)
    (slope,) = torch.autograd.grad(l.sum(), t, create_graph=True)
    expected = -slope / 2 * torch.sigmoid(bias - l)
    weight = Sigmoid(bias).in_space(Eps(), path, Flow(), t)
    torch.testing.assert_close(weight, expected, rtol=1e-8, atol=1e-12)
    assert not torch.allclose(weight, Sigmoid(bias + 0.1)(path, t), rtol=0.01)


def test_sigmoid_does_not_depend_on_the_path() -> None:
    """Over a given range of log-SNR the weights integrate to the same number on every path."""
    low, high = torch.tensor(-3.0, dtype=torch.float64), torch.tensor(4.0, dtype=torch.float64)
    totals = []
    for path in (Linear(), Cosine(), VP(0.1, 20.0)):
        start, end = path.t_from_log_snr(high).item(), path.t_from_log_snr(low).item()
        t = torch.linspace(start, end, 20_001, dtype=torch.float64)
        totals.append(torch.trapezoid(Sigmoid(0.5).in_space(Eps(), path, Flow(), t), t).item())
    # 1/2 int sigmoid(b - l) dl in closed form.
    exact = 0.5 * (math.log1p(math.exp(0.5 + 3.0)) - math.log1p(math.exp(0.5 - 4.0)))
    assert totals == pytest.approx([exact] * 3, rel=1e-5)


def test_edm_is_that_of_karras_et_al(path: Path) -> None:
    data, t = 0.6, between()
    s = path.sigma(t) / path.alpha(t)
    expected = (s**2 + data**2) / (s * data) ** 2
    torch.testing.assert_close(EDM(data).in_space(X0(), path, Flow(), t), expected, rtol=1e-9, atol=1e-12)
    on_output = EDM(data).in_space(Output(), path, EDMPrediction(data), t)
    torch.testing.assert_close(on_output, torch.ones_like(t), rtol=1e-9, atol=1e-12)
    assert not torch.allclose(EDM(data).in_space(Output(), path, EDMPrediction(0.5), t), torch.ones_like(t), rtol=0.01)


def test_clipped_velocity_divides_by_the_clamped_sigma() -> None:
    """On the linear path: the x0 error over max(t, floor), squared (Li & He 2025)."""
    t = torch.rand(50, 1, dtype=torch.float64)
    weight = ClippedVelocity(0.3).in_space(X0(), Linear(), X0Prediction(0.001), t.clamp(min=0.01))
    torch.testing.assert_close(weight, 1 / t.clamp(min=0.3) ** 2)


def test_uniform_is_one_in_every_space(path: Path, prediction: Prediction) -> None:
    for space in SPACES:
        assert (Uniform().in_space(space, path, prediction, torch.rand(3, 4)) == 1).all()


@pytest.mark.parametrize("weighting", [Uniform(), *WEIGHTINGS], ids=lambda w: type(w).__name__)
def test_finite_everywhere(path: Path, prediction: Prediction, weighting: Weighting) -> None:
    """In its own space and in all others, at the ends and beside them, in float32, in the shape of t."""
    t = torch.tensor([[0.0, 1e-7, 0.5], [1 - 1e-7, 1.0, 1e-3]])
    for weight in (weighting(path, t), *(weighting.in_space(space, path, prediction, t) for space in SPACES)):
        assert weight.shape == t.shape and weight.isfinite().all() and (weight >= 0).all()


@pytest.mark.parametrize("wrong", [lambda: MinSNR(0.0), lambda: EDM(-1.0), lambda: ClippedVelocity(0.0)])
def test_mistakes_are_one_line(wrong) -> None:
    with pytest.raises(ValueError, match="must be above 0"):
        wrong()
