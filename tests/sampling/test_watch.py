"""`pipeline.watch`: intermediate estimates while samples are made, and a loop that may be left."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch

from dit.sampling.guidance import NoGuidance
from dit.sampling.pipeline import Pipeline
from dit.sampling.schedule import Autoregressive, Linear
from dit.sampling.solvers import DPMSolverPP2M, Euler, Heun, Solver
from dit.sampling.tasks import ImageToVideo, LongTextToVideo
from tests.sampling.test_pipeline import PROMPTS, SEEDS, VIDEO, pipeline


@pytest.fixture
def made(tmp_path: Path) -> Pipeline:
    return pipeline(tmp_path)


@pytest.mark.parametrize("solver", [Euler(), Heun(), DPMSolverPP2M()], ids=repr)
def test_the_last_estimate_is_the_sample(made: Pipeline, solver: Solver) -> None:
    wanted = made(PROMPTS[:2], SEEDS[:2], solver=solver, negative_prompt="green")
    steps, estimates = zip(*made.watch(PROMPTS[:2], SEEDS[:2], solver=solver, negative_prompt="green"), strict=True)
    assert steps == (1, 2, 3, 4) and [each.clip for each in estimates] == [0] * 4
    assert torch.equal(estimates[-1].latents, wanted.latents) and torch.equal(estimates[-1].pixels(), wanted.pixels)
    assert estimates[-1].levels == 0 and estimates[0].levels > estimates[1].levels
    assert not any(torch.equal(each.latents, wanted.latents) for each in estimates[:-1])


def test_an_estimate_is_what_the_network_believes(made: Pipeline) -> None:
    """By hand: no guidance, v-prediction on the linear path, x0 = (x - t v) / (1 - 2 t + 2 t^2) with v = a e - s x0."""
    net: Any = made.net
    first = next(iter(made.watch("red", 3, guidance=NoGuidance(), num_steps=4)))[1]
    x, t, cond = net.asked[0]
    out, t = net(x, t, cond), t[:, None, :, None, None]
    torch.testing.assert_close(first.latents, ((1 - t) * x - t * out) / (t**2 + (1 - t) ** 2))


def test_whoever_leaves_the_loop_stops_the_network(made: Pipeline) -> None:
    net: Any = made.net
    made.net.train()
    for step, estimate in made.watch("red", 3):  # noqa: B007 the last one is looked at
        assert made.net.training and torch.is_grad_enabled(), "outside a step all is as it was"
        if step == 2:
            break
    assert len(net.asked) == 2 and estimate.pixels().shape == (1, 3, 6, 8, 10)
    assert made.net.training and not net.asked[0][0].requires_grad


def test_nothing_is_decoded_that_nobody_asks_for(made: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    decode = made.codec.decode  # type: ignore[operator]
    monkeypatch.setattr(made.codec, "decode", lambda latents: (calls.append(1), decode(latents))[1])
    estimates = [estimate for _, estimate in made.watch("red", 3)]
    decoded = len(calls)  # the sample itself
    estimates[1].pixels()
    assert decoded == 1 and len(calls) == 2


def test_given_frames_are_in_every_estimate(made: Pipeline) -> None:
    for _, estimate in made.watch(PROMPTS[:2], SEEDS[:2], ImageToVideo(VIDEO[:, 0])):
        assert torch.equal(estimate.latents[:, :, 0], VIDEO[None, :, 0].expand(2, -1, -1, -1))


def test_batches_and_clips_follow_one_another(tmp_path: Path) -> None:
    maker = pipeline(tmp_path, batch_size=2)
    task = LongTextToVideo(2, 2)
    found = [(step, each.clip, len(each.latents)) for step, each in maker.watch(PROMPTS[:3], SEEDS[:3], task)]
    wanted = [(clip, batch) for batch in (2, 1) for clip in (0, 1) for _ in range(4)]
    assert found == [(step, *each) for step, each in enumerate(wanted, 1)]


def test_frames_that_are_done_are_shown_as_they_are(made: Pipeline) -> None:
    schedule = Autoregressive(Linear(), 2)
    wanted = made("red", 3, schedule=schedule, num_steps=2).latents
    for step, estimate in made.watch("red", 3, schedule=schedule, num_steps=2):
        done = estimate.levels == 0
        assert estimate.levels.shape == (6,) and int(done.sum()) == 2 * (step // 2)
        assert torch.equal(estimate.latents[:, :, done], wanted[:, :, done])


def test_two_loops_at_once(made: Pipeline) -> None:
    wanted = [made(prompt, 3).latents for prompt in ("red", "blue")]
    loops = zip(made.watch("red", 3), made.watch("blue", 3), strict=True)
    *_, last = loops
    assert all(torch.equal(each.latents, latents) for (_, each), latents in zip(last, wanted, strict=True))


class Reuse:
    """What a network may know of a text while it is entered; remembers the calls that were made inside."""

    def __init__(self, net: Any) -> None:
        self.net, self.calls = net, 0

    def __enter__(self) -> None:
        self.before = len(self.net.asked)

    def __exit__(self, *_: object) -> None:
        self.calls += len(self.net.asked) - self.before


def test_texts_are_reused_in_each_clip(made: Pipeline) -> None:
    """One for a clip, around every call of the network, and around nothing between two steps."""
    net: Any = made.net
    reuses: list[Reuse] = []
    net.text_reuse = lambda: (reuses.append(Reuse(net)), reuses[-1])[1]
    task = LongTextToVideo(2, 2)
    for step, _ in made.watch("red", 3, task):
        net.asked.append(None)  # as if somebody else had called it
        assert [each.calls for each in reuses] == ([step] if step <= 4 else [4, step - 4])
    assert len(reuses) == 2
    made("red", 3, task, reuse_text=False)
    assert len(reuses) == 2


def test_it_takes_what_a_call_takes(made: Pipeline) -> None:
    """And says what is wrong at once, not when the loop begins."""
    called = set(inspect.signature(made.__call__).parameters) - {"progress", "changes"}
    assert called == set(inspect.signature(made.job).parameters)
    noise = torch.randn(1, 3, 6, 8, 10)
    *_, (_, last) = made.watch("red", 3, noise=noise, signals={}, labels=None, negative_prompt="x", num_frames=6)
    assert torch.equal(last.latents, made("red", 3, noise=noise, negative_prompt="x").latents)
    for wrong, message in [
        (lambda: made.watch("red", 3, num_steps=0), "num_steps=0 must be a whole number"),
        (lambda: made.watch("red", 3, num_step=2), "num_step is no setting of a pipeline; did you mean num_steps"),
        (lambda: made.watch([], []), "each sample, one or more, needs both"),
    ]:
        with pytest.raises(ValueError, match=message):
            wrong()
