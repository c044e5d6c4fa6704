"""Schedules: exact ends, strictly falling, and each one's own formula."""

from __future__ import annotations

import math
import random

import pytest
import torch

from dit.diffusion.path import VE, VP, Cosine, Linear, Path
from dit.sampling import schedule
from dit.sampling.schedule import Schedule

PATHS: list[Path] = [Linear(), Cosine(), VP(0.1, 20.0), VE(0.002, 80.0), VE(0.02, 30.0)]
SCHEDULES: list[Schedule] = [
    schedule.Linear(),
    schedule.Shifted(5.0),
    schedule.Shifted(0.3),
    schedule.ShiftedByTokens(64),
    schedule.Cosine(),
    schedule.Karras(0.002, 80.0, 7.0),
]


@pytest.mark.parametrize("made", SCHEDULES, ids=repr)
@pytest.mark.parametrize("path", PATHS, ids=lambda p: type(p).__name__)
def test_falls_from_one_to_zero_exactly(made: Schedule, path: Path) -> None:
    for steps in [1, 2, 3, *random.Random(0).sample(range(4, 200), 4)]:
        levels = made(steps, 100, path, 1)
        assert levels.shape == (steps + 1,) and levels.dtype == torch.float64
        assert levels[0].item() == 1.0 and levels[-1].item() == 0.0
        assert bool((levels.diff() < 0).all())


def test_shift_is_the_logit_moved_by_its_log() -> None:
    """s t / (1 + (s - 1) t) adds log s to the logit of t."""
    for shift in (0.5, 1.0, 3.0, 7.3):
        plain, moved = (made(9, 100, Linear(), 1)[1:-1] for made in (schedule.Linear(), schedule.Shifted(shift)))
        torch.testing.assert_close(torch.logit(moved), torch.logit(plain) + math.log(shift))


def test_shift_grows_with_the_root_of_the_tokens() -> None:
    made = schedule.ShiftedByTokens(50)
    for tokens in (50, 200, 777):
        assert torch.equal(made(8, tokens, Linear(), 1), schedule.Shifted(math.sqrt(tokens / 50))(8, 1, Linear(), 1))
    assert not torch.equal(made(8, 51, Linear(), 1), made(8, 50, Linear(), 1))


def test_karras_is_a_ramp_in_the_root_of_sigma_over_alpha() -> None:
    for path in (Linear(), Cosine(), VP(0.1, 20.0)):
        levels = schedule.Karras(0.01, 20.0, 7.0)(12, 1, path, 1)[1:-1]  # the ends are put at 1 and 0
        root = torch.exp(-path.log_snr(levels) / 2) ** (1 / 7)
        step = (0.01 ** (1 / 7) - 20 ** (1 / 7)) / 11
        torch.testing.assert_close(root.diff(), torch.full((10,), step, dtype=torch.float64))


def test_karras_ends_where_a_path_jumps_to_clean() -> None:
    """VE has no level between sigma_min and 0: the last step must take that jump, not repeat it."""
    path = VE(0.02, 30.0)
    levels = schedule.Karras(0.002, 80.0, 7.0)(10, 1, path, 1)
    root = path._sigma_above_zero(levels) ** (1 / 7)
    torch.testing.assert_close(root.diff(), root.diff()[0].expand(10))


def test_cosine_takes_its_smallest_step_first() -> None:
    steps = -schedule.Cosine()(10, 1, Linear(), 1).diff()
    assert bool((steps.diff() > 0).all())


def test_mistakes() -> None:
    for wrong, message in [
        (lambda: schedule.Linear()(0, 1, Linear(), 1), "num_steps=0 must be at least 1"),
        (lambda: schedule.Shifted(0.0), "shift=0.0 must be above 0"),
        (lambda: schedule.ShiftedByTokens(0), "base_tokens=0"),
        (lambda: schedule.Karras(1.0, 0.5, 7.0), "below sigma_max=0.5"),
        (lambda: schedule.Karras(0.1, 0.5, 0.0), "rho=0.0"),
    ]:
        with pytest.raises(ValueError, match=message):
            wrong()
