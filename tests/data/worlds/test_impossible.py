"""Impossible clips are possible ones up to the event, and then break what they say and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from data.worlds.impossible import CONTROL, KINDS, Cast, Film, Four, Impossible, cast_of, kinds_of, paint
from data.worlds.world import World
from tests.data.worlds.world_settings import rich, simple

EVENTS = range(2, 7)


def meeting_world() -> World:
    """Two objects that bounce off one another."""
    return simple(num_frames=16, fps=16.0, motions={"bounce": 1.0}, num_objects={2: 1.0})


def world_of(kind: str) -> tuple[World, range]:
    return (meeting_world(), range(2, 14)) if kind == "through" else (simple(), EVENTS)


def words(cast: Cast) -> list[tuple[str, str, float]]:
    return list(zip(cast.shapes, cast.colours, cast.radii.tolist(), strict=True))


@pytest.mark.parametrize("kind", list(KINDS))
def test_pairs_are_equal_until_the_event_and_differ_from_it_on(kind: str) -> None:
    world, events = world_of(kind)
    fours = Impossible(world, kind, 5, events)
    for index in range(6):
        four = fours[index]
        assert four.kind == kind and (four.event in events or kind == CONTROL)
        for possible, impossible in zip(four.possible, four.impossible, strict=True):
            assert np.array_equal(possible.pixels[: four.event], impossible.pixels[: four.event])
            differing = (possible.pixels[four.event].astype(int) != impossible.pixels[four.event]).any(2).sum()
            assert differing >= 4, "the first frame of the event shows nothing"
            assert possible.before is possible.after is impossible.before


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("through", CONTROL)])
def test_the_impossible_ones_are_made_of_the_frames_of_the_possible_ones(kind: str) -> None:
    world, events = world_of(kind)
    four = Impossible(world, kind, 5, events)[0]
    (first, second), (odd, other) = ([film.pixels for film in films] for films in (four.possible, four.impossible))
    assert np.array_equal(odd, np.concatenate([first[: four.event], second[four.event :]]))
    assert np.array_equal(other, np.concatenate([second[: four.event], first[four.event :]]))


@pytest.mark.parametrize("kind", list(KINDS))
def test_each_breaks_what_it_says_and_nothing_else(kind: str) -> None:
    world, events = world_of(kind)
    fours = Impossible(world, kind, 1, events)
    for index in range(8):
        four = fours[index]
        for film in four.impossible:
            check(four, film, world)


def check(four: Four, film: Film, world: World) -> None:
    before, after, event, item = film.before, film.after, four.event, four.item
    now, then = after.positions[event], before.positions[event - 1]
    if four.kind == "vanish":
        larger, smaller = sorted((before, after), key=lambda cast: -len(cast.radii))
        assert words(smaller) == words(larger.without(item)) and len(larger.radii) == len(smaller.radii) + 1
        return
    changed = [one != two for one, two in zip(words(before), words(after), strict=True)]
    if four.kind in ("colour", "shape"):
        assert np.array_equal(before.positions, after.positions)
        assert changed == [place == item for place in range(len(changed))]
        same, other = ("shapes", "colours") if four.kind == "colour" else ("colours", "shapes")
        assert getattr(before, same) == getattr(after, same) and getattr(before, other) != getattr(after, other)
        return
    assert not any(changed)
    step = before.positions[event - 1] - before.positions[event - 2] if event > 1 else None
    if four.kind == "jump":
        assert np.linalg.norm(now[item] - then[item]) > 1.2 * before.radii[item]
        ways = [np.diff(cast.positions[:, item], axis=0) for cast in (before, after)]
        np.testing.assert_allclose(ways[0], ways[1], atol=1e-6)  # goes on as fast, in the same direction
    if four.kind == "reverse":
        assert step is not None
        np.testing.assert_allclose(now[item] - then[item], -step[item], atol=1e-6)
    if four.kind == "through" and len(before.radii) == 2:
        assert step is not None
        np.testing.assert_allclose(now - then, step, atol=0.1 * np.linalg.norm(step[0]))  # both go on as they were
        gap = np.linalg.norm(after.positions[event:, 0] - after.positions[event:, 1], axis=1).min()
        assert (
            gap
            < 0.7 * before.radii.sum()
            < np.linalg.norm(before.positions[:, 0] - before.positions[:, 1], axis=1).min()
        )
    if four.kind == "through" and len(before.radii) == 1:
        assert step is not None and np.linalg.norm((now - then) - step) > 0.4 * np.linalg.norm(step)
    if four.kind == CONTROL:
        speeds = [np.linalg.norm(np.diff(cast.positions[:, item], axis=0), axis=1) for cast in (before, after)]
        np.testing.assert_allclose(speeds[0], speeds[1], atol=1e-6)
        assert np.array_equal(before.positions[0], after.positions[0])


@pytest.mark.parametrize("kind", list(KINDS))
def test_the_first_possible_one_is_the_world_s_own(kind: str) -> None:
    world, events = world_of(kind)
    four = Impossible(world, kind, 2, events)[3]
    if kind != CONTROL:
        assert any(np.array_equal(four.possible[0].pixels, world.clip(index).pixels) for index in range(len(world)))
    assert world.parse(four.caption).objects[four.item].colour == four.possible[0].before.colours[four.item]
    for film in four.possible:
        assert all(film.before.stays_inside(item, 1.0) for item in range(len(film.before.radii))) or kind == "through"


@pytest.mark.parametrize("world", [simple(), meeting_world(), rich()], ids=["simple", "meeting", "rich"])
def test_a_clip_that_is_painted_again_is_the_same(world: World) -> None:
    for index in range(20):
        clip = world.clip(index)
        pixels, seen = paint(world, clip, cast_of(world, clip))
        assert np.array_equal(pixels, clip.pixels) and np.array_equal(seen, clip.state.visibility)


def test_fours_are_a_function_of_seed_and_index() -> None:
    world = simple()
    one, same, other = (Impossible(world, "jump", seed, EVENTS) for seed in (1, 1, 2))
    assert np.array_equal(one[7].impossible[0].pixels, same[7].impossible[0].pixels)
    assert not np.array_equal(one[7].impossible[0].pixels, other[7].impossible[0].pixels)
    assert not np.array_equal(one[7].impossible[0].pixels, one[8].impossible[0].pixels)
    events = {one[index].event for index in range(40)}
    assert events == set(EVENTS)


def test_what_cannot_happen_is_said_in_a_line() -> None:
    found = dict(kinds_of(simple(), 0, EVENTS))
    assert [kind for kind, each in found.items() if isinstance(each, str)] == ["through"]
    assert "passes through another one" in str(found["through"])
    with pytest.raises(ValueError, match='kind "melt" is not one of: vanish, '):
        Impossible(simple(), "melt", 0, EVENTS)
    with pytest.raises(ValueError, match=r"events=\[\] must name frames from 2 to 7"):
        Impossible(simple(), "vanish", 0, [])
    with pytest.raises(ValueError, match=r"events=\[8\] must name frames from 2 to 7"):
        Impossible(simple(), "vanish", 0, [8])
