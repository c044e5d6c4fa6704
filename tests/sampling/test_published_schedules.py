"""Levels of published samplers: their own formulas, and what every schedule promises."""

from __future__ import annotations

import pytest
import torch

from dit.diffusion.discrete import Discrete, ScaledLinearBetas
from dit.diffusion.levels import ConstantShift
from dit.diffusion.path import VE, Linear, Path
from dit.diffusion.shift import ExponentialShift
from dit.sampling import schedule as schedules
from dit.sampling.published_schedules import Leading, LinearQuadratic, Linspace, Ramp, RatioRamp, Trailing
from dit.sampling.schedule import Autoregressive, Pyramid, Schedule

DISCRETE = Discrete(1000, ScaledLinearBetas(0.00085, 0.012), "float64", 1.0, True, 0.0)
NONE = ConstantShift(1.0)
ALL: list[tuple[Schedule, Path]] = [
    (Ramp(True, 1.0, 0.001, False, ConstantShift(3.0), None, 1 - 1e-6, 1000), Linear()),
    (Ramp(True, 1.0, 0.02, True, ConstantShift(7.0), None, 1.0, 1000), Linear()),
    (Ramp(True, 1.0, 0.0, False, ExponentialShift(1024, 4096, 0.95, 2.05), 0.1, 1.0, 1000), Linear()),
    (LinearQuadratic(0.025), Linear()),
    (RatioRamp(True, 0.002, 80.0, 7.0, to_clean=True), Linear()),
    (RatioRamp(False, 0.002, 80.0, 7.0, to_clean=False), VE(0.002, 80.0)),
    (RatioRamp(True, 0.01, 200.0, None, to_clean=False), Linear()),
    (Leading(True, 1000, True, True, 1), DISCRETE),
    (Leading(True, 1000, False, False, 0), DISCRETE),
    (Trailing(True, 1000, False, True), DISCRETE),
    (Linspace(True, 1000, False, True, whole=False), DISCRETE),
    (Linspace(True, 1000, True, False, whole=True), DISCRETE),
]


def test_the_last_x_of_a_ramp_of_ratios_is_data_and_noise_of_the_smallest_ratio() -> None:
    ramp = RatioRamp(False, 0.002, 80.0, 7.0, to_clean=False)
    for each in (ramp, Pyramid(ramp, group=1, lag=1)):
        for path, wanted in ((Linear(), 1.002), (VE(0.002, 80.0), 1.0)):
            level = ramp(7, 1, path, 1)[-1].item()
            assert each.end_scale(path, level) == pytest.approx(wanted, rel=1e-6)
    assert Leading(True, 1000, False, False, 0).end_scale(DISCRETE, 0.001) == 1


@pytest.mark.parametrize("made, path", ALL, ids=lambda each: type(each).__name__)
def test_levels_fall_within_zero_and_one(made: Schedule, path: Path) -> None:
    for steps in (2, 3, 7, 50, 333):
        levels = made(steps, 2000, path, 1)
        assert levels.dtype == torch.float64 and len(levels) in (steps, steps + 1)
        assert bool((levels.diff() < 0).all()) and levels[-1] >= 0 and levels[0] <= 1
        if not isinstance(path, Discrete):
            assert torch.equal(levels[:-1], levels[:-1].float().double()), "numbers of float32"


def test_spacings_are_those_of_the_table() -> None:
    """Lin et al. 2024, table 2, for 10 of 1000 timesteps, which they count from 1: level times 1000."""
    wanted = {
        Linspace(True, 1000, False, True, whole=True): [1000, 889, 778, 667, 556, 445, 334, 223, 112, 1],
        Leading(True, 1000, False, True, 0): [901, 801, 701, 601, 501, 401, 301, 201, 101, 1],
        Trailing(True, 1000, False, True): [1000, 900, 800, 700, 600, 500, 400, 300, 200, 100],
        Leading(True, 1000, True, True, 0): [901, 811, 721, 631, 541, 451, 361, 271, 181, 91],
        Linspace(True, 1000, True, True, whole=True): [1000, 900, 800, 700, 600, 501, 401, 301, 201, 101],
    }
    for made, timesteps in wanted.items():
        assert (made(10, 1, DISCRETE, 1) * 1000).round().tolist() == [*timesteps, 0]
    assert (Leading(True, 1000, False, False, 5)(2, 1, DISCRETE, 1) * 1000).round().tolist() == [506, 6, 1]
    assert len(Leading(True, 1000, False, False, 0)(10, 1, DISCRETE, 1)) == 10, "no step from timestep 0 to itself"


def test_trailing_gives_as_many_steps_as_asked_for() -> None:
    for steps in range(1, 1001):
        assert len(Trailing(True, 1000, False, True)(steps, 1, DISCRETE, 1)) == steps + 1


def test_a_ramp_of_one_to_zero_is_the_shifted_schedule() -> None:
    for shift in (1.0, 5.0):
        found = Ramp(True, 1.0, 0.0, False, ConstantShift(shift), None, 1.0, 1000)(9, 1, Linear(), 1)
        torch.testing.assert_close(found, schedules.Shifted(shift)(9, 1, Linear(), 1), rtol=1e-6, atol=1e-7)


def test_terminal_is_the_last_level_above_zero() -> None:
    made = Ramp(True, 1.0, 0.0, False, ConstantShift(4.0), 0.1, 1.0, 1000)
    levels, plain = made(8, 1, Linear(), 1), schedules.Shifted(4.0)(8, 1, Linear(), 1)
    assert levels[-2].item() == pytest.approx(0.1) and levels[0] == 1
    ratio = (1 - levels[1:-1]) / (1 - plain[1:-1])
    torch.testing.assert_close(ratio, ratio[:1].expand(7), rtol=1e-5, atol=0)
    assert made(1, 1, Linear(), 1).tolist() == [1, 0], "a single step has nothing to be stretched to"


def test_levels_are_not_rounded_across_a_whole_timestep() -> None:
    """A network that is told timesteps without their fraction would be told another one."""
    for first in torch.linspace(0.5, 1, 400, dtype=torch.float64).tolist():
        exact = first * 1000
        level = Ramp(True, first, 0.0, False, NONE, None, 1.0, 1000)(3, 1, Linear(), 1)[0]
        assert (level * 1000).floor() == torch.tensor(exact, dtype=torch.float64).floor()
    for whole in range(1, 1000):  # just above and just below one, nearer than float32 can tell
        for nudge in (-1e-10, 1e-10):
            first = whole / 1000 + nudge
            level = Ramp(True, first, 0.0, False, NONE, None, 1.0, 1000)(1, 1, Linear(), 1)[0]
            assert (level * 1000).floor().item() == (whole if nudge > 0 else whole - 1)


def test_linear_quadratic_begins_with_equal_steps_that_grow_later() -> None:
    levels = LinearQuadratic(0.025)(64, 1, Linear(), 1)
    steps = -levels.diff()
    torch.testing.assert_close(steps[:32], torch.full((32,), 0.025 / 32, dtype=torch.float64), rtol=1e-3, atol=0)
    assert levels[32].item() == pytest.approx(0.975) and bool((steps[33:].diff() > 0).all())
    assert LinearQuadratic(0.025)(1, 1, Linear(), 1).tolist() == [1, 0]


def test_ratios_are_a_ramp_in_their_root() -> None:
    for path in (Linear(), VE(0.002, 80.0)):
        levels = RatioRamp(True, 0.002, 80.0, 7.0, to_clean=False)(12, 1, path, 1)
        root = torch.exp(-path.log_snr(levels) / 2) ** (1 / 7)
        torch.testing.assert_close(root.diff(), root.diff()[0].expand(11), rtol=1e-3, atol=0)
        assert root[0].item() == pytest.approx(80 ** (1 / 7), rel=1e-5)
    ratio = RatioRamp(True, 0.1, 10.0, None, to_clean=True)(3, 1, Linear(), 1)
    torch.testing.assert_close(
        ratio[:-1] / (1 - ratio[:-1]), torch.tensor([10, 1, 0.1], dtype=torch.float64), rtol=1e-5, atol=0
    )


def test_frames_one_behind_another_go_through_a_schedule_that_leaves_out_a_step() -> None:
    each = RatioRamp(True, 0.002, 80.0, 7.0, to_clean=False)
    levels = Pyramid(each, 1, 2)(6, 1, Linear(), 3)
    alone = each(6, 1, Linear(), 1)
    for frame in range(3):
        moving = levels[2 * frame : 2 * frame + len(alone), frame]
        assert torch.equal(moving, alone)
    assert Autoregressive(each, 1)(6, 1, Linear(), 2)[-1].tolist() == [alone[-1].item()] * 2


def test_mistakes() -> None:
    ramp = (NONE, None, 1.0, 1000)
    for wrong, message in [
        (lambda: Ramp(True, 0.2, 0.5, False, *ramp), "schedule.last=0.5 must be below schedule.first=0.2"),
        (lambda: Ramp(True, 1.0, 0.0, True, *ramp), "use schedule.reaches_last=false"),
        (lambda: Ramp(True, 1.0, 0.0, False, NONE, 1.0, 1.0, 1000), "schedule.terminal=1.0 must be between"),
        (lambda: Ramp(True, 1.0, 0.0, False, *ramp)(0, 1, Linear(), 1), "num_steps=0 must be at least 1"),
        (
            lambda: Ramp(True, 1.0, 0.001, True, ConstantShift(1e9), None, 1.0, 1000)(9, 1, Linear(), 1),
            "no 9 levels that",
        ),
        (lambda: RatioRamp(True, 0.1, 1.0, 1e-30, True)(9, 1, Linear(), 1), "no 9 levels that float32 tells apart"),
        (lambda: LinearQuadratic(0.0), "schedule.threshold=0.0 must be"),
        (lambda: RatioRamp(True, 1.0, 0.5, 7.0, True), "below sigma_max=0.5"),
        (lambda: RatioRamp(True, 0.1, 1.0, 7.0, False)(1, 1, Linear(), 1), "num_steps=1 must be at least 2"),
        (lambda: Linspace(True, 1000, False, True, True)(1, 1, DISCRETE, 1), "num_steps=1 would be the cleanest"),
        (lambda: Trailing(True, 1000, False, True)(1001, 1, DISCRETE, 1), "num_steps=1001 is more than the 1000"),
        (lambda: Leading(True, 1000, False, True, 900)(2, 1, DISCRETE, 1), "begins at timestep 1400"),
    ]:
        with pytest.raises(ValueError, match=message) as error:
            wrong()
        assert "\n" not in str(error.value)
