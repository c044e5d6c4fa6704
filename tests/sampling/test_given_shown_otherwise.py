"""Given frames of which the network is told a level just above 0, or that of the others, and noise drawn anew."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from dit.diffusion.conditioning import FirstFrame, RandomTasks, Unconditional
from dit.diffusion.given import Held, HeldAfresh, HeldAtLevel, Shown
from dit.diffusion.levels import LogNormal
from dit.diffusion.loss import Noised, Objective
from dit.diffusion.path import VE, Linear, Path
from dit.diffusion.prediction import EDM, Flow, Prediction
from dit.diffusion.space import Output
from dit.diffusion.weighting import Uniform
from dit.sampling.given import Given, hold
from dit.sampling.schedule import Shifted
from dit.sampling.solvers import DDIM, end
from tests.sampling.test_given import SHAPE, Spy

FIRST = RandomTasks({"i2v": FirstFrame()}, {"i2v": 1.0}, 0.0)


def asked(
    how: Held, path: Path, prediction: Prediction, context: float = 0.0
) -> tuple[Tensor, Spy, Given, list[Tensor]]:
    generator = torch.Generator().manual_seed(0)
    noise, latents = (torch.randn(SHAPE, generator=generator) for _ in range(2))
    known = torch.arange(SHAPE[2]).expand(SHAPE[0], -1) < 2
    given, spy, drawn = Given(latents, known), Spy(path), []

    def fresh() -> Tensor:
        drawn.append(torch.randn(SHAPE, generator=generator))
        return drawn[-1]

    denoise = hold(spy, given, noise, path, context, how=how, prediction=prediction, draw=fresh)
    x = end(DDIM(0.0)(denoise, path.prior_std * noise, Shifted(2.0)(5, 1, path, 1), path))
    return given.put_back(x), spy, given, drawn


def test_a_level_just_above_zero_is_told_of_clean_frames() -> None:
    x, spy, given, drawn = asked(HeldAtLevel("nearest", level=0.125), Linear(), Flow())
    assert not drawn and torch.equal(x[:, :, :2], given.latents[:, :, :2])
    for seen, told in spy.asked:
        assert torch.equal(seen[:, :, :2], given.latents[:, :, :2])
        assert torch.equal(told[:, :2], told[:, 2:4].clamp(max=0.125))


def test_noise_of_the_context_is_drawn_anew_at_each_step() -> None:
    x, spy, given, drawn = asked(HeldAfresh("nearest"), Linear(), Flow(), context=0.125)
    assert torch.equal(x[:, :, :2], given.latents[:, :, :2]) and len(drawn) == len(spy.asked) == 5
    for (seen, told), noise in zip(spy.asked, drawn, strict=True):
        wanted = Linear().mix(given.latents, noise, told)
        assert bool((told[:, :2] == 0.125).all()) and torch.equal(seen[:, :, :2], wanted[:, :, :2])
    clean = asked(HeldAfresh("nearest"), Linear(), Flow())
    assert not clean[3] and bool((clean[1].asked[0][1][:, :2] == 0).all()), "without noise none is drawn"


def test_frames_enter_the_network_with_their_own_noise_whatever_level_it_is_told() -> None:
    path, prediction = VE(0.01, 20.0), EDM(0.5)
    x, spy, given, drawn = asked(HeldAfresh("nearest", noise=0.25), path, prediction)
    assert torch.equal(x[:, :, :2], given.latents[:, :, :2]) and len(drawn) == 5
    for (seen, told), noise in zip(spy.asked, drawn, strict=True):
        assert bool((told == told[:, -1:]).all())
        fed, _ = prediction.network_input(path, seen, told)
        wanted = (given.latents + 0.25 * noise) / (0.25**2 + 0.5**2) ** 0.5
        torch.testing.assert_close(fed[:, :, :2], wanted[:, :, :2], rtol=1e-5, atol=1e-5)
    assert all(not torch.equal(a, b) for a, b in pairwise(drawn))


def test_training_shows_the_level_that_sampling_tells() -> None:
    shown = Shown(torch.zeros(2, 3, 4, 1, 1), (torch.arange(4) == 0).view(1, 1, 4, 1, 1).expand(2, 1, 4, 1, 1))
    how, t = HeldAtLevel("nearest", level=0.125), torch.tensor([[0.5], [0.75]])
    assert how.levels(Unconditional(), t, shown, None) is t, "one level a clip, where no frames are ever given"
    levels = how.levels(FIRST, t, shown, None)
    assert levels.tolist() == [[0.125, 0.5, 0.5, 0.5], [0.125, 0.75, 0.75, 0.75]]


def test_training_shows_frames_with_their_own_noise_whatever_level_is_told() -> None:
    """As nvidia-cosmos/cosmos-predict1 trains: the logarithm of its ratio is normal, anew for each clip; there is no
    loss in given frames."""
    path, prediction, generator = VE(0.01, 20.0), EDM(0.5), torch.Generator().manual_seed(0)

    def noised(x0: Tensor, log_std: float) -> tuple[Objective, Noised, Tensor]:
        """With what the network is fed of the given frame."""
        how = HeldAfresh("nearest", noise=0.001, log_mean=-1.0, log_std=log_std)
        objective = Objective(path, prediction, LogNormal(path, 0.0, 1.0), Uniform(), FIRST, Output(), how)
        made = objective.noise(x0, 3, generator)
        assert made.t.shape == (len(x0), 1) and made.given.tolist() == [[True, False, False]] * len(x0)
        return objective, made, prediction.network_input(path, made.x_t, made.t)[0][:, :, 0]

    x0 = torch.randn(400, 2, 3, 1, 1, generator=generator)
    objective, made, fed = noised(x0, 0.0)
    ratio = torch.tensor(-1.0).exp()
    torch.testing.assert_close(fed, (x0 + ratio * made.eps)[:, :, 0] / (ratio**2 + 0.5**2).sqrt())
    torch.testing.assert_close(made.x_t[:, :, 1:], path.mix(x0, made.eps, made.t)[:, :, 1:])
    loss = objective.compare(made, torch.zeros_like(x0))
    assert (loss.per_frame[:, 0] == 0).all() and (loss.per_frame[:, 1:] > 0).all()

    _, made, fed = noised(torch.zeros_like(x0), 0.5)
    share = (fed / made.eps[:, :, 0]).square()  # ratio^2 / (ratio^2 + 0.5^2)
    logs = (0.5 * (share / (1 - share)).sqrt()).log()
    torch.testing.assert_close(logs[:, 0], logs[:, 1], rtol=1e-3, atol=1e-3)  # one a clip
    assert logs.mean().item() == pytest.approx(-1.0, abs=0.1) and logs.std().item() == pytest.approx(0.5, abs=0.07)


def test_a_level_of_given_frames_that_nobody_is_told_is_refused() -> None:
    told = RandomTasks({"i2v": FirstFrame()}, {"i2v": 1.0}, 0.1)
    with pytest.raises(ValueError, match=r"^conditioning.context_noise=0.1 .*: conditioning.context_noise=0$"):
        HeldAfresh("nearest", noise=0.001).check(told)
    HeldAfresh("nearest").check(told)
    HeldAfresh("nearest", noise=0.001).check(FIRST)
