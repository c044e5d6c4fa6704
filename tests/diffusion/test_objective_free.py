"""Errors that rank runs: one function of noisy clips has one set of them, however it was trained and whatever it puts
out; known mistakes have known errors."""

import random

import pytest
import torch
from diffusion_parts import random_path
from torch import Tensor

from dit.diffusion import prediction as predictions
from dit.diffusion.denoiser import Denoiser
from dit.diffusion.errors import errors, levels_of, shares
from dit.diffusion.path import Linear, Path
from dit.diffusion.prediction import Prediction

SHAPE = (1, 3, 4, 5, 6)
PREDICTIONS: dict[str, Prediction] = {
    "eps": predictions.Eps(alpha_floor=1e-3),
    "x0": predictions.X0(sigma_floor=1e-3),
    "v": predictions.V(),
    "flow": predictions.Flow(),
    "flow_to_data": predictions.FlowToData(),
    "edm": predictions.EDM(sigma_data=0.5),
}
PATHS = ("linear", "cosine", "vp", "ve")


def a_path(name: str) -> Path:
    return random_path(name, random.Random(3))


def clip(seed: int = 0) -> Tensor:
    return torch.randn(SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def noise() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def belief(y: Tensor, share: Tensor) -> Tensor:
    """Some function of x_t / (alpha + sigma) and the share of noise: what it takes x0 for."""
    return torch.tanh(y * (1.3 - share)) + 0.1 * share * y.flip(-1)


class Seen:
    """`belief` behind a path and a prediction: puts out what a network of that kind would."""

    def __init__(self, path: Path, prediction: Prediction) -> None:
        self.path, self.prediction = path, prediction
        self.batches: list[int] = []

    def __call__(self, x_in: Tensor, t_in: Tensor, cond: dict[str, Tensor]) -> Tensor:
        """EDM scales and relabels what the network sees, so the x_t and t behind it come in through `told`."""
        x_t, t = self.told
        self.batches.append(len(x_in))
        assert not cond["given"].any() and cond["given"].shape == (len(x_in), 1, *SHAPE[2:])
        assert cond["text"].shape == (len(x_in), 2, 7)
        alpha, sigma = (part[:, None, :, None, None] for part in (self.path.alpha(t), self.path.sigma(t)))
        x0 = belief(x_t / (alpha + sigma), sigma / (alpha + sigma))
        return self.prediction.target(self.path, x0, (x_t - alpha * x0) / sigma, t)


class Telling(Denoiser):
    def output(self, x_t: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        self.net.told = (x_t, t)
        return super().output(x_t, t, cond)


def measured(path: Path, prediction: Prediction, num_levels: int = 4) -> Tensor:
    net = Seen(path, prediction)
    found = errors(
        Telling(net, path, prediction), clip(), {"text": torch.zeros(1, 2, 7)}, shares(num_levels), [noise()]
    )[:, 0]
    assert net.batches == [num_levels] and found.shape == (3, num_levels, 4) and found.dtype == torch.float64
    return found


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_one_function_has_one_set_of_errors(path: str, prediction: str) -> None:
    reference = measured(Linear(), PREDICTIONS["flow"])
    torch.testing.assert_close(measured(a_path(path), PREDICTIONS[prediction]), reference, rtol=1e-6, atol=1e-9)


def test_errors_are_of_what_they_are_called() -> None:
    """Believing x0 + 0.1 everywhere: the error of x0 is 0.01, and of the others what x_t = (1 - t) x0 + t eps says."""

    class Off:
        def __call__(self, x_t: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
            return clip() + 0.1

    found = errors(Denoiser(Off(), Linear(), PREDICTIONS["x0"]), clip(), {}, [0.2, 0.5], [noise()])[:, 0]
    expected = torch.tensor([0.01, 0.01]), torch.tensor([0.01 * 16, 0.01]), torch.tensor([0.01 * 25, 0.04])
    for each, value in zip(found, expected, strict=True):
        torch.testing.assert_close(each, value.double()[:, None].expand(2, 4), rtol=1e-6, atol=0)


def test_frames_and_levels_are_told_apart() -> None:
    class Off:
        def __call__(self, x_t: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
            frame = torch.arange(4, dtype=torch.float64)
            return clip() + (t[:, :, None, None, None] * frame[None, None, :, None, None])

    found = errors(Denoiser(Off(), Linear(), PREDICTIONS["x0"]), clip(), {}, [0.25, 0.75], [noise()])[:, 0]
    expected = torch.tensor([0.25, 0.75], dtype=torch.float64)[:, None] * torch.arange(4, dtype=torch.float64)
    torch.testing.assert_close(found[0], expected**2)


def test_clips_together_are_as_each_alone() -> None:
    """Each with its own noise, text and levels."""

    class Told:
        def __call__(self, x_t: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
            return torch.tanh(x_t * t[:, :, None, None, None]) + cond["shift"][:, None, None, None, None]

    denoiser, x0, shift = Denoiser(Told(), Linear(), PREDICTIONS["flow"]), torch.cat([clip(0), clip(1)]), torch.rand(2)
    seeded = [[torch.Generator().manual_seed(seed) for seed in (5, 6)] for _ in range(2)]
    together = errors(denoiser, x0, {"shift": shift}, shares(3), seeded[0])
    assert together.shape == (3, 2, 3, 4)
    for i in range(2):
        alone = errors(denoiser, x0[i : i + 1], {"shift": shift[i : i + 1]}, shares(3), [seeded[1][i]])
        torch.testing.assert_close(together[:, i], alone[:, 0], rtol=1e-12, atol=0)


def test_a_perfect_network_has_none() -> None:
    class Perfect:
        def __call__(self, x_t: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
            return clip()

    found = errors(Denoiser(Perfect(), Linear(), PREDICTIONS["x0"]), clip(), {}, shares(5), [noise()])[:, 0]
    assert found.abs().max() < 1e-20


@pytest.mark.parametrize("path", PATHS)
def test_levels_have_the_share_of_noise_that_they_are_named_by(path: str) -> None:
    along = a_path(path)
    t = levels_of(along, shares(5))
    assert t.dtype == torch.float64 and (t.diff() > 0).all()
    torch.testing.assert_close(
        along.sigma(t) / (along.alpha(t) + along.sigma(t)), torch.tensor(shares(5), dtype=torch.float64)
    )
    torch.testing.assert_close(levels_of(Linear(), shares(5)), torch.tensor(shares(5), dtype=torch.float64))


def test_shares_are_the_middles_of_equal_intervals() -> None:
    assert shares(5) == [0.1, 0.3, 0.5, 0.7, 0.9] and shares(1) == [0.5] and shares(0) == []
