"""UniPC beyond what every solver is tested for (test_solvers.py, test_levels_of_frames.py, and beside diffusers)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dit.diffusion.path import Linear
from dit.diffusion.prediction import Estimate
from dit.sampling.schedule import Autoregressive, Shifted
from dit.sampling.schedule import Linear as LinearSchedule
from dit.sampling.solvers import DDIM, end, steps
from dit.sampling.unipc import UniPC, remaining
from tests.sampling.test_solvers import PATHS, Gaussian, slope, uniform_in_log_snr


@pytest.mark.parametrize(
    "solver, order",
    [
        (UniPC(1, "bh2", "x0", lower_order_final=False), 2),
        (UniPC(2, "bh1", "x0", lower_order_final=False), 3),
        (UniPC(2, "bh2", "eps", lower_order_final=False), 3),
        (UniPC(3, "bh2", "x0", lower_order_final=False), 3.75),  # 4 but for its first steps
        (UniPC(3, "bh1", "eps", lower_order_final=False), 3.75),
        (UniPC(2, "bh2", "x0", lower_order_final=True), 1.9),  # for its last step alone, which is of order 1
    ],
    ids=repr,
)
def test_a_corrected_predictor_gains_an_order(solver: UniPC, order: float) -> None:
    found = slope(solver, Gaussian.draw(PATHS["cosine"], 0), (0.95, 0.1), uniform_in_log_snr, 0, (16, 32, 64))
    assert order - 0.3 < found < order + 0.5, f"order {found:.2f}"


def test_one_evaluation_a_step_at_the_predicted_x() -> None:
    gaussian, asked = Gaussian.draw(PATHS["cosine"], 1), []

    def denoise(x: Tensor, t: Tensor) -> Estimate:
        asked.append(x)
        return gaussian.denoise(x, t)

    levels = LinearSchedule()(5, 1, gaussian.path, 1)
    states = list(UniPC(2, "bh2", "x0", lower_order_final=True)(denoise, gaussian.mean, levels, gaussian.path))
    assert len(asked) == 5 and all(torch.equal(x, state.x) for x, state in zip(asked[1:], states, strict=False))


def test_the_first_step_is_ddim_s_and_a_step_from_pure_noise_is_not_looked_back_on() -> None:
    gaussian = Gaussian.draw(Linear(), 2)
    for solver in (UniPC(2, "bh2", "x0", True), UniPC(3, "bh1", "eps", True)):
        for levels in ([1.0, 0.7, 0.5], [0.9, 0.7, 0.5]):
            levels = torch.tensor([*levels, 0.3], dtype=torch.float64)
            x = gaussian.start(levels[0], 0)
            ours, theirs = ([s.x for s in each(gaussian.denoise, x, levels, Linear())] for each in (solver, DDIM(0.0)))
            torch.testing.assert_close(ours[0], theirs[0])
            assert torch.allclose(ours[1], theirs[1]) == (levels[0] == 1)
            assert not torch.allclose(ours[2], theirs[2]) and bool(ours[2].isfinite().all())


def test_frames_that_go_one_after_another_go_as_they_would_alone() -> None:
    """A denoiser that looks at each frame alone: history, orders and corrections are each frame's own."""
    gaussian = Gaussian.draw(Linear(), 3)
    each = Shifted(3.0)

    def denoise(x: Tensor, t: Tensor) -> Estimate:
        if not t.ndim:
            return gaussian.denoise(x, t)
        frames = [alone(frame).denoise(x[:, :, frame : frame + 1], t[0, frame]) for frame in range(2)]
        return Estimate(*(torch.cat(parts, 2) for parts in zip(*frames, strict=True)))

    def alone(frame: int) -> Gaussian:
        part = slice(frame, frame + 1)
        return Gaussian(gaussian.path, gaussian.mean[:, :, part], gaussian.variance[:, :, part])

    x, path = torch.randn(gaussian.mean.shape, dtype=torch.float64), gaussian.path
    for solver in (UniPC(2, "bh2", "x0", True), UniPC(3, "bh1", "x0", True), UniPC(3, "bh2", "eps", False)):
        together = end(solver(denoise, x, each(6, 1, path, 1), path))
        staggered = end(solver(denoise, x, Autoregressive(each, 1)(6, 1, path, 2), path))
        torch.testing.assert_close(staggered, together, rtol=1e-9, atol=1e-9)


def test_remaining_steps() -> None:
    levels = torch.tensor([[1.0, 1.0], [0.5, 1.0], [0.0, 0.5], [0.0, 0.0]])
    assert remaining(steps(levels, Linear())).tolist() == [[2, 2], [1, 2], [0, 1]]
    assert remaining(steps(levels[:, 1].unique().flip(0), Linear())).tolist() == [[2], [1]]


def test_mistakes() -> None:
    for order in (0, 4):
        with pytest.raises(ValueError, match=f"solver.order={order} must be 1, 2 or 3"):
            UniPC(order, "bh2", "x0", True)
