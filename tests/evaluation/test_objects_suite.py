"""`suite=objects` on tiny runs: rows, what is given and pressed, floors, and what is left out in a line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data.worlds.load import load
from dit.encoders import to_bytes
from dit.evaluation.harness.result import Result, as_report
from dit.evaluation.harness.work import Work
from dit.evaluation.objects.flow import flow_error
from dit.evaluation.objects.response import respond
from dit.evaluation.suites.floors import FROZEN, NOISE, OTHERS, frozen, noise
from dit.evaluation.suites.object_clips import OTHER_KEYS, Continued, Pressed, Prompted
from dit.evaluation.suites.objects import CEILING, CODED, ObjectsSuite
from dit.evaluation.suites.of_world import exact_flow, of_objects, pixels
from dit.evaluation.suites.promises import Promises
from dit.sampling.ranks import Ranks
from tests.evaluation.checkpoints import make_run, subject
from tests.evaluation.parts import part

STEERED = ("data=world_steered", "data.height=32", "data.width=32", "data.num_frames=8")
HEARS = ("signals=action", "net.vectors.action.num_actions=16")


def suite(**changes: Any) -> ObjectsSuite:
    own: dict[str, Any] = {
        "num_prompts": 2, "num_continued": 2, "num_scenes": 1, "given": None, "flow": part("flow", "pyramid"),
        "seed": 1000, "sheet_clips": 2,
    }  # fmt: skip
    return ObjectsSuite(**(own | changes))


def measured(run: Path, asked: ObjectsSuite) -> Result:
    own = subject(run)
    asked.check(own)
    return asked.measure(own, Work(own, "objects", 1, None, Ranks(0, 1)))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("objects") / "steered", *STEERED, *HEARS)


def test_a_run_that_hears_keys_is_asked_all_three_things(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Any, int, torch.Tensor]] = []
    for kind in (Continued, Pressed):
        look = kind.look

        def kept(self: Any, index: int, video: torch.Tensor, look: Any = look) -> Any:
            seen.append((self, index, video))
            return look(self, index, video)

        monkeypatch.setattr(kind, "look", kept)
    result = measured(run, suite())
    assert list(result.rows) == ["samples (raw)", CEILING, OTHERS, FROZEN, NOISE, OTHER_KEYS]
    samples = [each for each in seen if each[2].dtype.is_floating_point]
    assert len(samples) == 2 + 5  # two that go on, and one scene under no key and under each of four
    for kind, index, video in samples:
        assert torch.equal(to_bytes(video[:, :2]), kind.real(index)[:, :2])
    presses = [kind.request(index).signals["action"] for kind, index, _ in samples if isinstance(kind, Pressed)]
    assert presses == [" ".join(["0"] + [bits] * 7) for bits in "01248"]
    heard = subject(run).pipeline.condition([kind.request(index) for kind, index, _ in samples[-5:]], _canvas(run))
    assert heard["action"][:, 0].tolist() == [0] * 5 and heard["action"][:, -1].tolist() == [0, 1, 2, 4, 8]

    own, real = result.rows["samples (raw)"], result.rows[CEILING]
    assert {"presence", "trajectory_error", "flow_error", "response", "response_left"} <= set(own)
    assert real["all"].value == 1.0 and own["all"].value == 0.0
    assert real["response"].value == pytest.approx(1.0, abs=0.1) and result.rows[OTHER_KEYS]["response"].value < 0.5
    assert (
        real["trajectory_error"].value
        < 0.3
        < min(result.rows[row]["trajectory_error"].value for row in (OTHERS, NOISE))
    )
    assert result.protocol["given frames"] == 2 and result.protocol["flow_error"]["network"] == "pyramid"
    report = as_report("objects", "", {}, result)
    assert json.loads(json.dumps(report, allow_nan=False))["measures"]["response_jump"]["title"] == "response to jump"
    assert (result.folder / result.clips["samples (raw)"][0]["file"]).is_file()

    monkeypatch.setattr("dit.sampling.pipeline.Pipeline.make", lambda *_: iter(()))  # all is kept
    monkeypatch.setattr(Prompted, "look", None)
    assert measured(run, suite()).rows == result.rows


def _canvas(run: Path) -> Any:
    return subject(run).pipeline.canvas()


def test_what_a_run_cannot_be_asked_is_a_line_and_the_rest_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:  # a codec that loses all motion
        patched.setattr("dit.evaluation.suites.objects.through", lambda _, clips, size: [frozen(c, 0) for c in clips])
        deaf = measured(make_run(tmp_path / "deaf", *STEERED), suite(num_prompts=1))
    assert list(deaf.rows) == ["samples (raw)", CEILING, CODED, FROZEN, NOISE]  # of one prompt there is no other
    assert deaf.rows[CODED] == deaf.rows[FROZEN] != deaf.rows[NOISE]
    assert any(line.startswith("left out: how given frames go on, and what keys do") for line in deaf.said)
    assert "presence" in deaf.rows[CEILING] and not {"trajectory_error", "response"} & set(deaf.rows[CEILING])
    plain = ("data=world_physics", "data.height=32", "data.width=32", "data.num_frames=8", "conditioning=none")
    run = make_run(tmp_path / "plain", *plain)
    blind = measured(run, suite(flow=None))
    assert any("never shown first frames alone (suite.objects.given=2" in line for line in blind.said)
    assert "trajectory_error" not in blind.rows[CEILING] and "given frames" in blind.protocol
    told = measured(run, suite(flow=None, given=3))
    assert "trajectory_error" in told.rows[CEILING] and "flow_error" not in told.rows[CEILING]


def test_runs_that_cannot_be_measured_are_a_line(tmp_path: Path, run: Path) -> None:
    with pytest.raises(ValueError, match=r"suite.objects.given=8 leaves nothing of 8 frames"):
        suite(given=8).check(subject(run))
    with pytest.raises(ValueError, match=r"validated on split train of a world that it was trained on"):
        suite().check(subject(make_run(tmp_path / "seen", "data.val.split=train")))
    suite().check(subject(make_run(tmp_path / "other", *STEERED, "data.val.split=train", "data.val.seed=1")))
    longer = ("data=world_physics", "data.height=32", "data.width=32", "data.num_frames=8", "data.val.split=longer")
    with pytest.raises(ValueError, match=r"makes 8 frames of 32x32, and its world of validation shows 32"):
        suite().check(subject(make_run(tmp_path / "longer", *longer)))
    with pytest.raises(ValueError, match="only worlds can be measured"):
        suite().check(subject(make_run(tmp_path / "balls", "data=phyworld")))
    suite().check(subject(make_run(tmp_path / "faster", *STEERED, "data.val.split=faster")))


def test_flow_counts_where_objects_are_seen() -> None:
    """Spoilt clips are noticed: nothing moves, something else moves, everything moves more slowly."""
    world = load("world_camera")
    clips = [world.clip(index) for index in range(3)]
    estimate = part("flow", "pyramid")("cpu")
    found: dict[str, list[float]] = {"real": [], "frozen": [], "other": [], "slow": []}
    for clip, other in zip(clips, clips[1:] + clips[:1], strict=True):
        exact, visible = exact_flow(world, clip.state)
        counted = visible & of_objects(world, clip.state)
        video = pixels(clip)
        slow = video[:, np.arange(16) // 2]
        videos = {"real": video, "frozen": video[:, :1].expand_as(video), "other": pixels(other), "slow": slow}
        for name, each in videos.items():
            error = flow_error(each, exact, counted, 1, estimate)
            assert error is not None
            found[name].append(error)
    mean = {name: float(np.mean(each)) for name, each in found.items()}
    assert mean["real"] < 0.35 and min(mean["frozen"], mean["other"], mean["slow"]) > 2 * mean["real"], mean
    assert flow_error(video, exact, torch.zeros_like(counted), 1, estimate) is None
    asked = Continued(Promises(world), 3, 2, 0, estimate)
    assert asked.look(2, video)["flow_error"] == flow_error(video, exact, counted, 2, estimate)
    exactly = flow_error(video, exact, counted, 3, lambda first, second: exact[2:])
    assert exactly == 0.0  # what is given does not count
    with pytest.raises(ValueError, match="is none of a clip of 15 frames"):
        flow_error(video[:, 1:], exact, counted, 1, estimate)


def test_response_is_the_share_of_the_true_displacement() -> None:
    still = np.zeros((4, 2, 2))
    pressed = still.copy()
    pressed[:, 0, 0] = [1.0, 2.0, 3.0, 4.0]
    right = respond(pressed + 7.0, still + 7.0, pressed, still)
    assert right is not None and right.response == 1.0 and right.response_error == 0.0
    assert right.displacement == right.true == (4.0, 0.0)
    half, deaf, wrong = (respond(share * pressed, still, pressed, still) for share in (0.5, 0.0, -1.0))
    assert half is not None and half.response == 0.5 and half.response_error == pytest.approx(1.25)
    assert deaf is not None and deaf.response == 0.0 and wrong is not None and wrong.response == -1.0
    lost = respond(np.full_like(pressed, np.nan), still, pressed, still)
    assert lost is not None and lost.response == 0.0
    assert respond(pressed, still, still + 0.2, still) is None  # the key moves nothing in truth


def test_what_is_never_found_is_farther_off_than_what_stands_still() -> None:
    """Or an empty clip would have a smaller error than a frozen one."""
    world = load("world_physics")
    asked = Continued(Promises(world), 1, 2, 0, None)
    shown = asked.real(0)
    nothing, still, real = (asked.look(0, each) for each in (noise(shown, 0, 0), asked.spoilt(0)[FROZEN], shown))
    assert nothing["trajectory_error"] == pytest.approx(4 * 64 * world.clip(0).state.radii.mean(), rel=0.05)
    assert nothing["trajectory_error"] > still["trajectory_error"] > 10 * real["trajectory_error"]


@pytest.mark.parametrize("scene", [4, 19, 90, 122])
def test_a_push_is_answered_by_what_is_pushed(scene: int) -> None:
    """Here something is within reach behind six frames. Clips under another key and frozen ones are noticed."""
    asked = Pressed(Promises(load("world_steered")), scene + 1, 6, 0, "action")
    none = scene * asked.variants
    push = none + 1 + asked.keys.index("push")
    true, still = asked._true(push), asked._true(none)
    assert np.abs(true - still)[:, 0].max() < np.abs(true - still)[:, 1:].max()

    def answer(video: torch.Tensor, free: torch.Tensor) -> float:
        own, other = (
            np.array(asked.look(index, pixels)["places"], np.float64) for index, pixels in ((push, video), (none, free))
        )
        found = respond(own, other, true, still)
        assert found is not None
        return found.response

    clip, free, spoilt = asked.real(push), asked.real(none), asked.spoilt(push)
    assert answer(clip, free) == pytest.approx(1.0, abs=0.01)
    assert answer(spoilt[OTHER_KEYS], free) < 0.5
    assert answer(spoilt[FROZEN], asked.spoilt(none)[FROZEN]) == 0.0
