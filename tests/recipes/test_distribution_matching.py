"""Distribution matching where everything is known: teacher and critic are exact denoisers of Gaussians, in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dit.diffusion import path as paths
from dit.diffusion import prediction as predictions
from dit.diffusion.conditioning import FirstFrame, RandomTasks
from dit.diffusion.given import HELD
from dit.diffusion.levels import LogitNormal, PerFrame
from dit.diffusion.loss import Noised, Objective
from dit.diffusion.path import Path
from dit.diffusion.prediction import Prediction
from dit.diffusion.space import X0
from dit.diffusion.timesteps import DiscreteTimesteps
from dit.diffusion.weighting import Uniform
from dit.recipes.aligned import Aligned
from dit.recipes.base import Clips
from dit.recipes.distribution_matching import CRITIC, TEACHER, DistributionMatching, pulled

SHAPE = (4, 2, 3, 2, 2)
PARTS = [
    (paths.Linear(), predictions.X0(1e-9)),
    (paths.Linear(), predictions.Flow()),
    (paths.Cosine(), predictions.V()),
    (paths.Linear(), predictions.EDM(0.5)),
]


class Gaussian(nn.Module):
    """The exact denoiser of N(mean + shift, std^2), where `cond["shift"]` says something of each clip."""

    def __init__(self, path: Path, prediction: Prediction, mean: float, std: float) -> None:
        super().__init__()
        self.path, self.prediction = path, prediction
        self.mean = nn.Parameter(torch.tensor([mean], dtype=torch.float64))
        self.log_std = nn.Parameter(torch.tensor([std], dtype=torch.float64).log())

    def num_tokens(self, frames: int, height: int, width: int) -> int:
        return frames * height * width

    def moments(self, t: Tensor, cond: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Mean of x0, and variance of x_t."""
        variance = (self.path.alpha(t) * self.log_std.exp()).square() + self.path.sigma(t).square()
        return self.mean + cond["shift"][:, None, None, None, None], variance

    def score(self, x_t: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        t = self.path.expand(t)
        mean, variance = self.moments(t, cond)
        return (self.path.alpha(t) * mean - x_t) / variance

    def forward(self, x: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        if isinstance(self.prediction, predictions.EDM):  # undo its preconditioning of the input
            t = self.path.t_from_log_snr(-8 * t)
            x = x * self.prediction._norm(self.path, self.path.expand(t))
        at = self.path.expand(t)
        mean, variance = self.moments(at, cond)
        alpha, sigma = self.path.alpha(at), self.path.sigma(at)
        eps = sigma * (x - alpha * mean) / variance
        x0 = mean + alpha * self.log_std.exp().square() * (x - alpha * mean) / variance
        return self.prediction.target(self.path, x0, eps, t)


class Student(nn.Module):
    """A one-step generator: x = offset + scale z, whatever it is told."""

    def __init__(self, path: Path, prediction: Prediction, offset: Tensor, scale: float) -> None:
        super().__init__()
        self.path, self.prediction = path, prediction
        self.offset = nn.Parameter(offset)
        self.scale = nn.Parameter(torch.tensor([scale], dtype=torch.float64))

    def num_tokens(self, frames: int, height: int, width: int) -> int:
        return frames * height * width

    def forward(self, x: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        assert not cond["given"].any()
        if isinstance(self.prediction, predictions.EDM):
            t = torch.ones_like(t)
            x = x * self.prediction._norm(self.path, self.path.expand(t))
        return self.prediction.target(self.path, self.offset + self.scale * x, x, t)


class Seen(DistributionMatching):
    """Keeps what the student made and how it was noised."""

    def gradient(self, nets: Any, noised: Noised, clips: Clips) -> Tensor:
        self.noised = noised
        return super().gradient(nets, noised, clips)


def recipe(path: Path, prediction: Prediction, kind: type[DistributionMatching] = Seen, **changes: Any) -> Any:
    levels = PerFrame(LogitNormal(0.0, 1.0)) if changes.pop("per_frame", False) else LogitNormal(0.0, 1.0)
    tasks = RandomTasks({"first": FirstFrame()}, {"first": 1}, 0.0)  # which no student is asked
    objective = Objective(path, prediction, levels, Uniform(), tasks, X0(), HELD)
    settings = {"critic_optim": torch.optim.SGD, "student_every": 1, "teacher_guidance": 1.0, **changes}
    return kind(objective, **settings)


def clips(shift: float = 0.0) -> Clips:
    cond = {"shift": torch.full((SHAPE[0],), shift, dtype=torch.float64)}
    uncond = {"shift": torch.zeros(SHAPE[0], dtype=torch.float64)}
    return Clips(torch.zeros(SHAPE, dtype=torch.float64), torch.zeros(1), cond, lambda: uncond)


def networks(path: Path, prediction: Prediction, critic: tuple[float, float], teacher: tuple[float, float]) -> Any:
    offset = torch.randn(SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    return {
        "net": Student(path, prediction, offset, 0.7),
        CRITIC: Gaussian(path, prediction, *critic),
        TEACHER: Gaussian(path, prediction, *teacher).requires_grad_(False),
    }


@pytest.mark.parametrize("per_frame", [False, True])
@pytest.mark.parametrize(("path", "prediction"), PARTS)
def test_the_gradient_is_the_difference_of_the_scores(path: Path, prediction: Prediction, per_frame: bool) -> None:
    """Eq. 7 with the weight of eq. 8, written down with the scores of two Gaussians."""
    made, given = recipe(path, prediction, per_frame=per_frame), clips(shift=0.25)
    nets = networks(path, prediction, critic=(0.3, 0.8), teacher=(-0.5, 1.1))
    losses = made.losses(nets, given, step=0)
    losses["net"].total.backward()
    x, x_t, level, _, nothing, _ = made.noised
    assert not nothing.any() and level.shape == (SHAPE[0], SHAPE[2] if per_frame else 1)
    t = path.expand(level).double()
    alpha, sigma = path.alpha(t), path.sigma(t)
    real, fake = (nets[name].score(x_t, level, given.cond) for name in (TEACHER, CRITIC))
    mu_real = (x_t + sigma**2 * real) / alpha  # Tweedie
    for clip in range(SHAPE[0]):
        numbers = x[clip].numel()
        weight = (sigma**2 / alpha)[clip] * numbers / (mu_real - x)[clip].abs().sum()
        wanted = weight * alpha[clip] * (fake - real)[clip]
        found = nets["net"].offset.grad[clip] * SHAPE[0] * numbers  # dx/doffset = 1; the loss is a mean
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-9)
        assert wanted.abs().max() > 0.01
    assert losses["net"].per_sample.shape == (SHAPE[0],) and losses["net"].total > 0


@pytest.mark.parametrize(("path", "prediction"), PARTS)
def test_nothing_pulls_a_student_whose_critic_equals_the_teacher(path: Path, prediction: Prediction) -> None:
    nets = networks(path, prediction, critic=(0.3, 0.8), teacher=(0.3, 0.8))
    loss = recipe(path, prediction).losses(nets, clips(), step=0)["net"]
    loss.total.backward()
    assert loss.total == 0
    assert (nets["net"].offset.grad == 0).all() and (nets["net"].scale.grad == 0).all()


def test_each_loss_reaches_its_own_network_alone() -> None:
    path, prediction = PARTS[1]
    nets = networks(path, prediction, critic=(0.3, 0.8), teacher=(-0.5, 1.1))
    losses = recipe(path, prediction).losses(nets, clips(), step=0)
    losses["net"].total.backward()
    assert all(p.grad is None for name in (CRITIC, TEACHER) for p in nets[name].parameters())
    student = [p.grad.clone() for p in nets["net"].parameters()]
    losses[CRITIC].total.backward()
    assert all(p.grad is not None for p in nets[CRITIC].parameters())
    assert all(torch.equal(p.grad, before) for p, before in zip(nets["net"].parameters(), student, strict=True))
    assert all(p.grad is None for p in nets[TEACHER].parameters())


def test_the_critics_loss_is_the_objective_on_what_the_student_makes() -> None:
    path, prediction = PARTS[0]
    nets = networks(path, prediction, critic=(0.3, 0.8), teacher=(-0.5, 1.1))
    made = recipe(path, prediction, student_every=2)
    torch.manual_seed(1)
    found = made.losses(nets, clips(), step=1)[CRITIC].total
    torch.manual_seed(1)
    x = nets["net"].offset + nets["net"].scale * torch.randn(SHAPE, dtype=torch.float64)
    assert torch.equal(found, made.objective(nets[CRITIC], x.detach(), clips().cond).loss)


def test_the_student_may_wait_for_its_critic() -> None:
    path, prediction = PARTS[0]
    nets, made = networks(path, prediction, (0.3, 0.8), (-0.5, 1.1)), recipe(path, prediction, student_every=3)
    named = [list(made.losses(nets, clips(), step)) for step in range(5)]
    assert named == [["net", CRITIC], [CRITIC], [CRITIC], ["net", CRITIC], [CRITIC]]
    assert made.passes == 4 + 4 / 3 and recipe(path, prediction).passes == 8


def test_the_teacher_may_be_guided() -> None:
    """A Gaussian of another mean: guidance moves it from the unconditional through the conditional one and beyond."""
    path, prediction = PARTS[0]
    nets = networks(path, prediction, critic=(0.3, 0.8), teacher=(-0.5, 1.1))
    given = clips(shift=0.4)
    torch.manual_seed(0)
    made = recipe(path, prediction, teacher_guidance=3.0)
    made.losses(nets, given, step=0)
    guided = super(Seen, made).gradient(nets, made.noised, given)
    plain = recipe(path, prediction)
    beyond = clips(shift=1.2)  # a shift of 0.4, three times
    real = plain.denoised(nets[TEACHER], made.noised.x_t, made.noised.t, beyond.cond)
    fake = plain.denoised(nets[CRITIC], made.noised.x_t, made.noised.t, given.cond)
    apart = (real - made.noised.x0).abs().mean(dim=(1, 2, 3, 4), keepdim=True)
    torch.testing.assert_close(guided, path.alpha(path.expand(made.noised.t)) * (fake - real) / apart)


def test_a_student_learns_the_teachers_gaussian() -> None:
    """From N(0.2, 0.3^2) to the teacher's N(1.5, 0.6^2), by a critic that learns beside it, ten times as fast."""
    torch.manual_seed(0)
    path, prediction = PARTS[0]
    made = recipe(path, prediction, DistributionMatching)
    nets = {
        "net": Student(path, prediction, torch.full((1,), 0.2, dtype=torch.float64), 0.3),
        CRITIC: Gaussian(path, prediction, 1.5, 0.6),
        TEACHER: Gaussian(path, prediction, 1.5, 0.6).requires_grad_(False),
    }
    rates = {"net": 0.005, CRITIC: 0.05}
    optimizers = {name: torch.optim.Adam(nets[name].parameters(), lr, (0.0, 0.99)) for name, lr in rates.items()}
    given = clips()._replace(x0=torch.zeros(64, 2, 3, 2, 2, dtype=torch.float64), cond={"shift": torch.zeros(64)})
    for step in range(450):
        for optimizer in optimizers.values():
            optimizer.zero_grad()
        sum(loss.total for loss in made.losses(nets, given, step).values()).backward()
        for optimizer in optimizers.values():
            optimizer.step()
    assert nets["net"].offset.item() == pytest.approx(1.5, abs=0.1)
    assert nets["net"].scale.item() == pytest.approx(0.6, abs=0.1)
    assert nets[CRITIC].mean.item() == pytest.approx(1.5, abs=0.1)


def test_a_pull_is_its_gradient() -> None:
    x, wanted = torch.randn(SHAPE, requires_grad=True), torch.randn(SHAPE)
    pulled(x, wanted).sum().backward()
    torch.testing.assert_close(x.grad, wanted / x[0].numel())


def test_what_cannot_be_distilled_is_refused() -> None:
    with pytest.raises(ValueError, match="prediction=eps says nothing of the clip at pure noise"):
        recipe(paths.Linear(), predictions.Eps(1e-3))
    with pytest.raises(ValueError, match="prediction=eps says nothing of the clip at pure noise"):
        recipe(paths.Linear(), DiscreteTimesteps(predictions.Eps(1e-3), 1000, 1000.0))
    recipe(paths.VE(0.01, 80.0), predictions.Eps(1e-3))
    with pytest.raises(ValueError, match="compares what the network sees of a clip, and Seen shows it none"):
        Aligned(recipe(*PARTS[0]), lambda width: None)  # type: ignore[arg-type, return-value]
