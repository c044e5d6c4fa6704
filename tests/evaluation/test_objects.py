"""Several objects in rich worlds are read right from pixels, and each way of spoiling a clip is noticed."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from data.worlds.load import load
from data.worlds.world import World
from dit.evaluation.objects.judge import CHECKS, Report
from dit.evaluation.objects.layers import Palette
from dit.evaluation.objects.physics import Physics, PhysicsReport, hold
from dit.evaluation.suites.promises import Promises
from tests.evaluation.spoilt_objects import SPOILT, real, spoilt, swapped, video

COUNT = 12
FREE = ("world_physics", "world_occlusion", "world_camera")
# The world in which each way of spoiling is tried.
WHERE = {name: "world_occlusion" if "wall" in name or name == "backwards" else "world_physics" for name in SPOILT}
WHERE["another background"] = "world_camera"


@pytest.fixture(scope="module")
def worlds() -> dict[str, World]:
    return {name: load(name) for name in FREE}


@pytest.mark.parametrize("name", [*FREE, "world_containers", "world_full"])
def test_real_clips_are_right(name: str) -> None:
    found = real(load(name), COUNT).metrics()
    wrong = {check: found[check] for check in (*CHECKS, "all") if found.get(check, 1.0) < 0.9}
    assert not wrong
    assert found["size_error"] < 0.04 and found["speed_error"] < 0.15


@pytest.mark.parametrize("name", SPOILT)
def test_spoilt_clips_are_noticed(name: str, worlds: dict[str, World]) -> None:
    report = spoilt(worlds[WHERE[name]], name, 6)
    assert isinstance(report, Report) and len(report.verdicts) >= 4
    found = report.metrics()
    assert {check: found[check] for check in SPOILT[name][1] if found[check] > 0.25} == {}
    assert all(verdict.reasons for verdict in report.verdicts if not verdict.all)


def test_clips_of_other_captions_are_wrong(worlds: dict[str, World]) -> None:
    found = swapped(worlds["world_physics"], COUNT).metrics()
    assert found["all"] == 0.0 and found["colour"] < 0.3 and found["presence"] < 0.5


def test_what_is_not_said_is_not_asked() -> None:
    world = load("world_full", caption_lengths={"short": 1})
    promises = Promises(world)
    clip = world.film("red circle moving right", 0)
    verdict = promises.reader.judge(video(clip.pixels), promises.of(clip.caption))
    assert verdict.size is None and verdict.size_error is None and verdict.speed is None and verdict.speed_error is None
    assert verdict.direction and verdict.all


def physics(world: World, spoil: str = "") -> PhysicsReport:
    """Of the first clips in which two objects collide, or one bounces; what follows the contact may be spoilt."""
    promises, found = Promises(world), []
    for index in range(COUNT + 4):
        clip = world.clip(index)
        state = clip.state
        touched = np.flatnonzero(state.contacts.any((1, 2)))
        touched = touched[(touched >= 3) & (touched <= 12)]
        if not len(touched):
            continue
        since, positions = int(touched[0]), state.positions.copy()
        steps = np.arange(1, len(positions) - since + 1)[:, None, None]
        if spoil == "through":
            positions[since:] = positions[since - 1] + steps * (positions[since - 1] - positions[since - 2])
        elif spoil == "stuck":
            positions[since:] = positions[since - 1]
        elif spoil == "back":
            back = positions[:since][::-1]
            positions[since : since + len(back)] = back[: len(positions) - since]
        pixels = world.paint(replace(state, positions=positions))
        promise = promises.of(clip.caption)
        scene = promises.reader.read(video(pixels), promise)
        found.append(hold(scene, promise, promises.course(state, 2), promises.reader.templates))
    return PhysicsReport(tuple(found))


def test_physics_of_real_clips_holds(worlds: dict[str, World]) -> None:
    found = physics(worlds["world_physics"]).metrics()
    assert found["trajectory_error"] < 0.3 and found["penetration"] < 0.02
    assert found["momentum_error"] < 0.1 and found["energy_error"] < 0.15 and found["bounce_error"] < 6.0


@pytest.mark.parametrize(
    "spoil, least",
    [
        ("through", {"trajectory_error": 1.5, "penetration": 0.1}),
        ("stuck", {"trajectory_error": 1.5, "momentum_error": 0.5, "energy_error": 0.5}),
        ("back", {"bounce_error": 15.0, "trajectory_error": 1.5}),
    ],
)
def test_spoilt_physics_is_noticed(spoil: str, least: dict[str, float], worlds: dict[str, World]) -> None:
    found = physics(worlds["world_physics"], spoil).metrics()
    assert all(found[name] > limit for name, limit in least.items()), found


def test_wrong_questions_are_refused(worlds: dict[str, World]) -> None:
    world = worlds["world_physics"]
    promises = Promises(world)
    promise = promises.of(world.clip(0).caption)
    with pytest.raises(ValueError, match=r"\(8, 64, 64\) frames, rows and columns"):
        promises.reader.judge(torch.zeros(3, 8, 64, 64), promise)
    with pytest.raises(ValueError, match="give one each"):
        promises.reader.evaluate([], [])
    with pytest.raises(ValueError, match="crimson and red"):
        Palette({"red": (230, 25, 25), "crimson": (220, 30, 30)})
    scene = promises.reader.read(video(world.clip(0).pixels), promise)
    course = promises.course(world.clip(0).state, 2)
    with pytest.raises(ValueError, match="is none of a clip"):
        hold(scene, promise, replace(course, visibility=course.visibility[:3]), promises.reader.templates)
    assert isinstance(hold(scene, promise, course, promises.reader.templates), Physics)
