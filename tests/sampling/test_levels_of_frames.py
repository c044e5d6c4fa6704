"""A noise level for each frame: scheduling matrices, and every solver under them against an exact answer.

Frames of the data are N(mean, covariance), coupled with one another, so what a frame becomes depends on the levels of
all. The denoiser is linear, and so is the whole way of a solver: x -> M x + b. Whatever way levels take, the flow must
carry N(A mean, A cov A + S^2) of the first ones to that of the last ones (A, S: alpha and sigma of each frame).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from dit.diffusion import levels as training
from dit.diffusion.path import Linear, Path
from dit.diffusion.prediction import Estimate
from dit.sampling import schedule
from dit.sampling.given import Given, hold
from dit.sampling.schedule import Autoregressive, Pyramid, Schedule, over_frames, start_at
from dit.sampling.solvers import DDIM, DPMSolverPP2M, Euler, Heun, Solver, State, choose, end, on
from dit.sampling.stochastic import Renoise, SDEDPMSolverPP2M
from dit.sampling.unipc import UniPC
from tests.sampling.test_solvers import MULTISTEP, PATHS, SOLVERS

FRAMES = 3
MATRICES: dict[str, Callable[[Schedule, int], Schedule]] = {
    "one level": lambda each, steps: each,
    "all at once": lambda each, steps: Pyramid(each, 1, 0),
    "pyramid of 3 steps": lambda each, steps: Pyramid(each, 1, 3),
    "pyramid of a third": lambda each, steps: Pyramid(each, 1, steps // 3),
    "pyramid in pairs": lambda each, steps: Pyramid(each, 2, steps // 2),
    "autoregressive": lambda each, steps: Autoregressive(each, 1),
}


@dataclass(frozen=True)
class Between(Schedule):
    """Equal steps in log-SNR from one level to another."""

    start: float
    end: float

    def __call__(self, num_steps: int, num_tokens: int, path: Path, frames: int) -> Tensor:
        first, last = path.log_snr(torch.tensor([self.start, self.end], dtype=torch.float64)).tolist()
        return path.t_from_log_snr(torch.linspace(first, last, num_steps + 1, dtype=torch.float64))


@dataclass(frozen=True)
class Coupled:
    """Frames N(mean (F,), covariance (F, F)), their perfect denoiser, and the law of x at any levels."""

    path: Path
    mean: Tensor
    covariance: Tensor

    @classmethod
    def draw(cls, path: Path, seed: int = 0) -> Coupled:
        generator = torch.Generator().manual_seed(seed)
        root = torch.randn(FRAMES, FRAMES, generator=generator, dtype=torch.float64)
        mean = torch.randn(FRAMES, generator=generator, dtype=torch.float64)
        return cls(path, mean, root @ root.T / FRAMES + 0.2 * torch.eye(FRAMES, dtype=torch.float64))

    def law(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and covariance of x at levels 0-dim, (F,) or (1, F)."""
        t = t.expand(1, FRAMES)[0]
        alpha = self.path.alpha(t)
        return alpha * self.mean, alpha[:, None] * self.covariance * alpha + torch.diag(self.path.sigma(t) ** 2)

    def denoise(self, x: Tensor, t: Tensor) -> Estimate:
        assert t.dtype == torch.float64 and t.shape in ((), (1, FRAMES))
        mean, covariance = self.law(t)
        path, t = self.path, t.expand(1, FRAMES)[0]
        surprise = torch.linalg.solve(covariance, (x[:, 0, :, 0, 0] - mean).T).T  # (B, F)
        x0 = self.mean + surprise * path.alpha(t) @ self.covariance
        eps = path.sigma(t) * surprise
        velocity = path.alpha_dot(t) * x0 + path.sigma_dot(t) * eps
        return Estimate(*(part[:, None, :, None, None] for part in (x0, eps, velocity)))

    def error(self, solver: Solver, levels: Tensor) -> float:
        """Distance of the law at the end from what it must be."""
        (mean, covariance), (wanted, spread) = self.law(levels[0]), self.law(levels[-1])
        units = torch.cat([torch.zeros(1, FRAMES, dtype=torch.float64), torch.eye(FRAMES, dtype=torch.float64)])
        x = mean + units @ torch.linalg.cholesky(covariance).T
        y = end(solver(self.denoise, x[:, None, :, None, None], levels, self.path))[:, 0, :, 0, 0]
        root = (y[1:] - y[0]).T  # M times the root of the first covariance
        return (y[0] - wanted).norm().item() + (root @ root.T - spread).norm().item()


def order(solver: Solver, path: Path, matrix: Callable[[Schedule, int], Schedule], each: Schedule, seed: int) -> float:
    """Minus the slope of log error over log steps."""
    steps, gaussian = [16, 32, 64, *([] if isinstance(solver, UniPC) else [128])], Coupled.draw(path, seed)
    errors = [gaussian.error(solver, matrix(each, count)(count, 1, path, FRAMES)) for count in steps]
    assert all(math.isfinite(error) for error in errors)
    logs, values = torch.tensor(steps).double().log(), torch.tensor(errors).double().log()
    return -(((logs - logs.mean()) * (values - values.mean())).sum() / (logs - logs.mean()).pow(2).sum()).item()


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(
    "matrix, path",
    [*((matrix, "linear") for matrix in MATRICES), *(("pyramid of a third", path) for path in ("cosine", "vp", "ve"))],
)
def test_each_solver_keeps_its_order_under_each_matrix(matrix: str, path: str, solver: str) -> None:
    method, wanted = SOLVERS[solver]
    found = order(method, PATHS[path], MATRICES[matrix], Between(0.95, 0.1), 0)
    assert wanted - 0.2 < found < wanted + 0.6, f"order {found:.2f}, expected {wanted}"


@pytest.mark.parametrize("matrix", ["pyramid of a third", "autoregressive"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_from_pure_noise_to_clean(solver: str, matrix: str) -> None:
    """The whole way, where alpha(1) = 0 and sigma(0) = 0: frames wait at the one and stay at the other."""
    method, wanted = SOLVERS[solver]
    found = order(method, PATHS["linear"], MATRICES[matrix], schedule.Linear(), 1)
    lost = 0.7 if isinstance(method, MULTISTEP) else 0.2  # as with one level: equal steps in t are long ones in log-SNR
    assert found > min(wanted, 2) - lost, f"order {found:.2f}, expected {wanted}"


class Spoiled:
    """Second-order solvers that forget that frames have levels of their own: the order test must notice."""

    class HeunThatLooksAheadAtTheOldLevels(Solver):
        def walk(self, denoise: Any, x: Tensor, steps: Iterable[Any], path: Path, noise: Any) -> Iterator[State]:
            return Heun().walk(denoise, x, (replace(step, end=step.start) for step in steps), path, noise)

    class HeunThatMovesNoOtherFrame(Solver):
        def walk(self, denoise: Any, x: Tensor, steps: Iterable[Any], path: Path, noise: Any) -> Iterator[State]:
            for step in steps:
                estimate, change = denoise(x, step.start), on(x, step.s - step.t)
                slope = estimate.velocity
                if not step.last:
                    slope = choose(step.ends, slope, (slope + denoise(x, step.end).velocity) / 2)
                x = step.move(x, x + change * slope)
                yield State(x, estimate)

    class MultistepThatForgetsWhoStoodStill(Solver):
        def walk(self, denoise: Any, x: Tensor, steps: Iterable[Any], path: Path, noise: Any) -> Iterator[State]:
            return DPMSolverPP2M().walk(denoise, x, (replace(step, moves=None) for step in steps), path, noise)

    class CorrectorThatForgetsWhoStoodStill(Solver):
        def walk(self, denoise: Any, x: Tensor, steps: Iterable[Any], path: Path, noise: Any) -> Iterator[State]:
            unipc, taken = UniPC(2, "bh2", "x0", lower_order_final=True), [replace(step, moves=None) for step in steps]
            return unipc.walk(denoise, x, taken, path, noise)

    class MultistepOfOneStep(Solver):
        def walk(self, denoise: Any, x: Tensor, steps: Iterable[Any], path: Path, noise: Any) -> Iterator[State]:
            return DDIM(0.0).walk(denoise, x, steps, path, noise)


@pytest.mark.parametrize("way", [name for name in vars(Spoiled) if not name.startswith("_")])
def test_the_order_test_sees_a_spoiled_solver(way: str) -> None:
    try:
        found = order(getattr(Spoiled, way)(), PATHS["linear"], MATRICES["pyramid of a third"], Between(0.95, 0.1), 0)
    except (AssertionError, torch.linalg.LinAlgError):  # not finite
        return
    assert found < 1.8


ALL: list[Solver] = [*(method for method, _ in SOLVERS.values()), DDIM(0.7), SDEDPMSolverPP2M(), Renoise()]
SHAPE = (2, 3, FRAMES, 4, 5)


def sampled(
    solver: Solver, levels: Tensor, path: Path, given: Given | None = None
) -> tuple[list[Tensor], list[Tensor]]:
    """All states (the first one too), float32, and the levels of which the network was asked. What it says of eps and
    velocity of clean frames is not finite."""
    generator = torch.Generator().manual_seed(0)
    asked: list[Tensor] = []

    def denoise(x: Tensor, t: Tensor) -> Estimate:
        asked.append(t)
        t = path.expand(t)
        x0 = torch.tanh(x + x.mean(2, keepdim=True) - t)
        eps = (x - path.alpha(t) * x0) / path.sigma(t)
        return Estimate(x0, eps, path.alpha_dot(t) * x0 + path.sigma_dot(t) * eps)

    def noise() -> Tensor:
        return torch.randn(SHAPE, generator=generator)

    x = path.prior_std * noise()
    held = hold(denoise, given, x / path.prior_std, path)
    return [x, *(state.x for state in solver(held, x, levels, path, noise))], asked


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("solver", ALL, ids=repr)
def test_equal_levels_of_frames_are_one_level_bit_for_bit(solver: Solver, path: str) -> None:
    each, one = schedule.Shifted(3.0), sampled(solver, schedule.Shifted(3.0)(6, 1, PATHS[path], FRAMES), PATHS[path])
    found = sampled(solver, Pyramid(each, 1, 0)(6, 1, PATHS[path], FRAMES), PATHS[path])
    assert torch.equal(one[0][-1], found[0][-1]) and bool(found[0][-1].isfinite().all())
    assert one[1][0].shape == (2, 1) and found[1][0].shape == (2, FRAMES)


@pytest.mark.parametrize("matrix", [Pyramid(schedule.Linear(), 1, 2), Autoregressive(schedule.Linear(), 1)], ids=repr)
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("solver", ALL, ids=repr)
def test_frames_whose_level_does_not_change_stand_still(solver: Solver, path: str, matrix: Schedule) -> None:
    levels = matrix(4, 1, PATHS[path], FRAMES)
    states, asked = sampled(solver, levels, PATHS[path])
    assert len(states) == len(levels) == (9 if isinstance(matrix, Pyramid) else 13)
    for before, after, falls in zip(states, states[1:], levels.diff(dim=0) < 0, strict=False):
        still = (before == after).all(-1).all(-1).all(1).all(0)  # (F,)
        assert torch.equal(still, ~falls)
        assert bool(after.isfinite().all())
    for row in asked:  # the network is told where each frame is
        assert any(torch.equal(row, each.float().expand(2, -1)) for each in levels)


@pytest.mark.parametrize("solver", ALL, ids=repr)
def test_given_frames_go_with_any_matrix(solver: Solver) -> None:
    path, generator = PATHS["linear"], torch.Generator().manual_seed(1)
    known = torch.tensor([True, False, False])
    given = Given(torch.randn(SHAPE, generator=generator), known.expand(2, -1))
    levels = over_frames(Autoregressive(schedule.Linear(), 1)(4, 1, path, 2), known, 1)
    assert levels.shape == (9, 3) and torch.equal(levels[:, 0], levels.amax(1))
    states, asked = sampled(solver, levels, path, given)
    assert torch.equal(given.put_back(states[-1])[:, :, 0], given.latents[:, :, 0])
    assert bool(states[-1].isfinite().all())
    assert all(bool((row[:, 0] == 0).all()) and bool((row[:, 1] <= row[:, 2]).all()) for row in asked)


def test_matrices() -> None:
    def rows(made: Schedule, frames: int = 3) -> list[list[float]]:
        return made(2, 1, Linear(), frames).tolist()

    each = schedule.Linear()  # 1, 0.5, 0
    assert rows(Pyramid(each, 1, 0)) == [[1, 1, 1], [0.5, 0.5, 0.5], [0, 0, 0]]
    assert rows(Pyramid(each, 1, 1)) == [[1, 1, 1], [0.5, 1, 1], [0, 0.5, 1], [0, 0, 0.5], [0, 0, 0]]
    assert rows(Pyramid(each, 2, 1)) == [[1, 1, 1], [0.5, 0.5, 1], [0, 0, 0.5], [0, 0, 0]]
    assert rows(Autoregressive(each, 1), 2) == [[1, 1], [0.5, 1], [0, 1], [0, 0.5], [0, 0]]
    assert rows(Autoregressive(each, 2), 2) == rows(Pyramid(each, 1, 0), 2)
    assert rows(Pyramid(each, 1, 9)) == rows(Autoregressive(each, 1)), "a longer lag would let all frames wait"
    assert Pyramid(None, 1, 1).change(schedule.Shifted(3.0)) == Pyramid(schedule.Shifted(3.0), 1, 1)
    assert Pyramid(None, 1, 1).change(Autoregressive(each, 1)) == Pyramid(each, 1, 1)
    assert Pyramid(each, 1, 1).change(schedule.Shifted(3.0)) == Pyramid(each, 1, 1)


def test_latent_frames_of_a_token_share_its_level_and_known_ones_wait() -> None:
    levels = torch.tensor([[1.0, 1.0], [0.5, 1.0], [0.0, 0.5], [0.0, 0.0]])
    known = torch.tensor([True, True, True, False, False, False])  # three tokens of two frames, the first all known
    whole = over_frames(levels, known, 2)
    assert whole.tolist() == [[1, 1, 1, 1, 1, 1], [1, 1, 0.5, 0.5, 1, 1], [0.5, 0.5, 0, 0, 0.5, 0.5], [0] * 6]


def test_start_at_leaves_out_steps_in_which_nothing_falls() -> None:
    levels = Autoregressive(schedule.Linear(), 1)(4, 1, Linear(), 2)
    wanted = [[0.6, 0.6], [0.5, 0.6], [0.25, 0.6], [0, 0.6], [0, 0.5], [0, 0.25], [0, 0]]
    torch.testing.assert_close(start_at(levels, 0.6), torch.tensor(wanted, dtype=torch.float64))


def test_which_training_levels_are_of_frames() -> None:
    one = training.LogitNormal(0.0, 1.0)
    own = training.PerFrame(one)
    shift = training.ConstantShift(3.0)
    assert not any(each.per_frame for each in (one, training.Stratified(one), training.Shifted(one, shift)))
    assert all(each.per_frame for each in (own, training.Stratified(own), training.Shifted(own, shift)))
    for parts, found in (({"a": one, "b": own}, True), ({"a": one, "b": one}, False)):
        assert training.Mixture(parts, {"a": 1.0, "b": 1.0}).per_frame == found


def test_mistakes() -> None:
    x, denoise = torch.zeros(SHAPE), Coupled.draw(Linear()).denoise
    for rows in ([[1.0, 0.5], [1.0, 0.7]], [[1.0, 1.0], [1.0, 1.0]], [[1.0, 1.0]]):
        with pytest.raises(ValueError, match="none rising, one falling each step"):
            Euler()(denoise, x, torch.tensor(rows), Linear())
    for wrong, message in [
        (lambda: Pyramid(schedule.Linear(), 1, -1), "schedule.lag=-1 must be at least 0"),
        (lambda: Pyramid(schedule.Linear(), 0, 1), "schedule.group=0 must be at least 1"),
        (lambda: Pyramid(Pyramid(schedule.Linear(), 1, 1), 1, 1), "is itself of levels that differ"),
        (lambda: Pyramid(None, 1, 1)(4, 1, Linear(), 2), "schedule.schedule=null is a checkpoint's own"),
    ]:
        with pytest.raises(ValueError, match=message):
            wrong()
