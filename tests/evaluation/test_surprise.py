"""The denoising loss of both clips of a pair, under the same noise at the same levels."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from data.worlds.plots import CONTROL, Impossible
from dit.diffusion.conditioning import (
    Conditioning,
    FirstAndLastFrame,
    FirstFrame,
    FirstFrames,
    NoFrame,
    Pattern,
    RandomPrefix,
    RandomTasks,
    Unconditional,
)
from dit.diffusion.errors import shares
from dit.evaluation.harness.work import Work
from dit.evaluation.suites.given_frames import first_frames, prefixes
from dit.evaluation.suites.of_world import worlds
from dit.evaluation.suites.surprise import Scorer, SurpriseSuite
from dit.sampling.ranks import Ranks
from tests.evaluation.checkpoints import make_run, subject

SETTINGS: dict[str, Any] = {
    "kinds": ["vanish", "reverse"], "num_fours": 2, "num_levels": 2, "num_noises": 1, "seed": 0,
}  # fmt: skip


def suite(**changes: Any) -> SurpriseSuite:
    return SurpriseSuite(**{**SETTINGS, **changes})


class Told(nn.Module):
    """Stands in the place of a network, and keeps what it is asked. x0: what it believes the clean clips to be."""

    def __init__(self, net: nn.Module, x0: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.in_channels, self.patch, self.reads = net.in_channels, net.patch, net.reads
        self.num_tokens, self.x0 = net.num_tokens, x0
        self.asked: list[tuple[Tensor, Tensor, dict[str, Tensor]]] = []

    def forward(self, x: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        self.asked.append((x, t, cond))
        return self.x0(x)


def scorer(run: Path, x0: Callable[[Tensor], Tensor]) -> tuple[Scorer, Told]:
    mine = subject(run)
    told = Told(mine.pipeline.net, x0)
    mine.pipeline.placement.net = told
    return Scorer(mine.pipeline, prefixes(mine), shares(2), 1), told


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "demo")


def fours(run: Path, kind: str, count: int = 2) -> list[Any]:
    _, world = worlds(subject(run).checkpoint)
    made = Impossible(world, kind, 0, range(3, 6))
    return [made[index] for index in range(count)]


def test_all_clips_of_a_four_meet_the_same_noise_at_the_same_levels(demo: Path) -> None:
    """And the frames that are given are clean, at level 0, the same in both of a pair, and count for nothing."""
    made = fours(demo, "colour")
    score, told = scorer(demo, torch.zeros_like)
    losses = score(made, [5, 6])
    assert losses.shape == (2, 4, 2) and losses.dtype == torch.float64 and len(told.asked) == 2
    for (x, t, cond), share in zip(told.asked, shares(2), strict=True):
        for place, four in enumerate(made):
            event, rows = four.event, slice(4 * place, 4 * place + 4)
            clean = torch.stack(
                [torch.from_numpy(film.pixels).permute(3, 0, 1, 2) for film in (*four.possible, *four.impossible)]
            )
            clean = clean / 127.5 - 1
            torch.testing.assert_close(x[rows][:, :, :event], clean[:, :, :event], atol=1e-5, rtol=0)
            eps = (x[rows] - (1 - share) * clean)[:, :, event:] / share  # of the linear path
            assert all(torch.allclose(eps[0], other, atol=1e-4) for other in eps[1:])
            assert eps.std() == pytest.approx(1, abs=0.05)
            assert (t[rows][:, :event] == 0).all() and torch.allclose(t[rows][:, event:], torch.tensor(share))
            assert (cond["given"][rows].flatten(2).any(2)[:, 0].shape) == (4,)
            assert torch.equal(x[rows][0, :, :event], x[rows][2, :, :event])  # of a pair


def test_the_loss_is_that_of_the_velocity_in_the_frames_that_are_not_given(demo: Path) -> None:
    made = fours(demo, "vanish", 1)
    score, _ = scorer(demo, torch.zeros_like)
    losses = score(made, [5])[0]
    for row, film in enumerate((*made[0].possible, *made[0].impossible)):
        clean = torch.from_numpy(film.pixels.copy()).double().permute(3, 0, 1, 2) / 127.5 - 1
        # An estimate of x0 that is 0 is off by x0, and that of the velocity by x0 / share.
        wanted = [clean[:, made[0].event :].square().mean() / share**2 for share in shares(2)]
        torch.testing.assert_close(losses[row], torch.stack(wanted), rtol=1e-4, atol=1e-6)


def test_a_network_that_believes_in_what_stays_is_surprised(demo: Path) -> None:
    """One that says the last given frame goes on for ever tells clips that stand still from those that jump about."""

    def stays(x: Tensor) -> Tensor:
        return x[:, :, :2].mean(2, keepdim=True).expand_as(x)

    made = fours(demo, "colour", 8)
    losses = scorer(demo, stays)[0](made, list(range(8)))
    assert (losses[:, 2:].sum((1, 2)) > losses[:, :2].sum((1, 2))).float().mean() > 0.9


def test_nobody_says_what_the_clips_show(demo: Path) -> None:
    """All clips are told the same as a sample without a prompt."""
    score, told = scorer(demo, torch.zeros_like)
    score(fours(demo, "shape"), [1, 2])
    text: Any = score.pipeline.text
    for key, value in text([""]).items():
        assert torch.equal(told.asked[0][2][key], value.expand(8, *value.shape[1:]))


TASKS: dict[str, Pattern] = {"nothing": NoFrame(), "first": FirstFrame(), "three": FirstFrames(3)}


@pytest.mark.parametrize(
    "conditioning, lengths",
    [
        (Unconditional(), [0]),
        (RandomTasks({"i2v": FirstFrame()}, {"i2v": 1.0}, 0.0), [1]),
        (RandomTasks(TASKS, dict.fromkeys(TASKS, 1.0), 0.0), [0, 1, 3]),
        (RandomTasks({"extend": RandomPrefix()}, {"extend": 1.0}, 0.0), [1, 2, 3, 4, 5, 6, 7]),
        (RandomTasks({"ends": FirstAndLastFrame()}, {"ends": 1.0}, 0.0), []),
    ],
)
def test_how_many_first_frames_a_run_was_trained_with(conditioning: Conditioning, lengths: list[int]) -> None:
    assert first_frames(conditioning, 8) == lengths


def test_as_many_frames_are_given_as_fit_in_front_of_the_event(demo: Path) -> None:
    assert prefixes(subject(demo)) == list(range(8))
    score, _ = scorer(demo, torch.zeros_like)
    assert [score.given(event) for event in (2, 5)] == [2, 5]
    some = replace(score, prefixes=[1, 3])
    assert [some.given(event) for event in (2, 3, 5)] == [1, 3, 3] and some.gives
    assert replace(score, prefixes=[0]).given(4) == 0 and replace(score, prefixes=[4]).given(3) is None


def test_the_suite_measures_the_demo(demo: Path) -> None:
    mine = subject(demo, batch_size=8)
    asked = suite(kinds=["vanish", CONTROL], num_fours=3)
    asked.check(mine)
    result = asked.measure(mine, Work(mine, "surprise", 1, None, Ranks(0, 1)))
    (own, chance) = result.rows
    assert own == "denoising loss (raw)" and chance == "chance"
    assert list(result.rows[own]) == ["pairs", "fours", "vanish", "control", "noise_0.25", "noise_0.75", "surprise"]
    assert set(result.rows[chance]) == set(result.rows[own]) - {"surprise"}
    assert all(0 <= score.value <= 1 for name, score in result.rows[own].items() if name != "surprise")
    assert result.rows[own]["pairs"] == result.rows[own]["vanish"]  # the control counts by itself alone
    assert len(result.clips[own]) == 6 and result.protocol["given frames"] == "up to the event"
    assert json.loads(json.dumps(result.clips[own], allow_nan=False)) == result.clips[own]
    again = asked.measure(mine, Work(mine, "surprise", 1, None, Ranks(0, 1)))
    assert again.folder == result.folder and again.rows == result.rows


def test_what_it_cannot_be_asked_of_is_said_in_a_line(tmp_path: Path, demo: Path) -> None:
    with pytest.raises(ValueError, match=r"kinds: melt is not one of vanish, "):
        suite(kinds=["melt"])
    with pytest.raises(ValueError, match="kinds is empty"):
        suite(kinds=[])
    short = make_run(tmp_path / "short", "data.num_frames=2", "data.fps=4")
    with pytest.raises(ValueError, match="makes clips of 2 frames; something can happen in clips of at least 4"):
        suite().check(subject(short))
    ends = subject(make_run(tmp_path / "ends", "conditioning=first_last"))
    with pytest.raises(ValueError, match="was never trained without given frames, or with so few"):
        suite().measure(ends, Work(ends, "surprise", 1, None, Ranks(0, 1)))
    mine = subject(demo)
    with pytest.raises(ValueError, match="passes through another one"):
        suite(kinds=["through"]).measure(mine, Work(mine, "surprise", 1, None, Ranks(0, 1)))
