"""Impossible clips are possible ones up to the event, and then break what they say and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from data.worlds.impossible import Cast, Film, Four
from data.worlds.load import load
from data.worlds.plots import CONTROL, KINDS, Impossible
from tests.data.worlds.plotted import fours, world_of
from tests.data.worlds.world_settings import simple

EVENTS = range(2, 7)
SWAPPED = [kind for kind in KINDS if kind not in ("through", "wall", CONTROL)]


@pytest.mark.parametrize("kind", list(KINDS))
def test_pairs_are_equal_until_the_event_and_differ_from_it_on(kind: str) -> None:
    made = fours(kind, 5)
    for index in range(6):
        four = made[index]
        assert four.kind == kind and (four.event in made.events or kind == CONTROL)
        for possible, impossible in zip(four.possible, four.impossible, strict=True):
            assert np.array_equal(possible.pixels[: four.event], impossible.pixels[: four.event])
            assert (possible.pixels[four.event] != impossible.pixels[four.event]).any()
            differing = (np.abs(possible.pixels.astype(int) - impossible.pixels) > 24).any(3).sum((1, 2))
            assert differing[four.event :].max() >= 8, "what happens is not to be seen"
            if "_hidden" not in kind:
                assert differing[four.event] >= 4
            assert possible.before is possible.after is impossible.before


@pytest.mark.parametrize("kind", SWAPPED)
def test_the_impossible_ones_are_made_of_the_frames_of_the_possible_ones(kind: str) -> None:
    four = fours(kind, 5)[0]
    (first, second), (odd, other) = ([film.pixels for film in films] for films in (four.possible, four.impossible))
    assert np.array_equal(odd, np.concatenate([first[: four.event], second[four.event :]]))
    assert np.array_equal(other, np.concatenate([second[: four.event], first[four.event :]]))


@pytest.mark.parametrize("kind", list(KINDS))
def test_each_breaks_what_it_says_and_nothing_else(kind: str) -> None:
    made = fours(kind, 1)
    for index in range(8):
        four = made[index]
        for film in four.impossible:
            check(four, film)


def same(first: Cast, second: Cast, *but: str) -> bool:
    """Whether two casts agree in all that is painted, but for some of it."""
    names = {"positions", "radii", "colours", "shapes"} - set(but)
    pairs = [(getattr(first.state, name), getattr(second.state, name)) for name in names]
    pairs += [] if "there" in but else [(first.there, second.there)]
    return first.state.slabs == second.state.slabs and all(np.array_equal(one, two) for one, two in pairs)


def check(four: Four, film: Film) -> None:
    before, after, since, item = film.before, film.after, film.since, four.item
    name = four.kind.removesuffix("_hidden")
    if name == "vanish":
        assert same(before, after, "there") and np.flatnonzero(before.there != after.there).tolist() == [item]
        return
    assert (before.there == after.there).all()
    if name in ("colour", "shape"):
        words = f"{name}s"
        assert same(before, after, words)
        changed = getattr(before.state, words) != getattr(after.state, words)
        assert np.flatnonzero(changed).tolist() == [item]
        return
    assert same(before, after, "positions")
    places, old = film.positions, before.state.positions
    steps = np.diff(places, axis=0)  # (F - 1, N, 2), of which number since - 1 leads over to what is impossible
    own = np.linalg.norm(old[1, item] - old[0, item])
    if name == "jump":
        assert np.linalg.norm(steps[since - 1, item]) > 1.2 * before.state.radii[item]
        np.testing.assert_allclose(np.diff(after.state.positions, axis=0), np.diff(old, axis=0), atol=1e-6)
    if name == "reverse":
        np.testing.assert_allclose(steps[since - 1, item], -steps[since - 2, item], atol=1e-6)
        np.testing.assert_allclose(np.diff(steps[since - 1 :, item], axis=0), 0, atol=1e-6)
    if name in ("through", "wall"):
        turns = np.linalg.norm(np.diff(steps[:, item], axis=0), axis=1)  # (F - 2,)
        alone = not after.state.slabs if name == "wall" else after.there.sum() == 1
        if alone:  # turns back from nothing
            assert turns.max() > 0.4 * own
        else:
            assert turns.max() < 0.2 * own, "goes straight on"
    if name == CONTROL:
        speeds = [np.linalg.norm(np.diff(cast.state.positions[:, item], axis=0), axis=1) for cast in (before, after)]
        np.testing.assert_allclose(speeds[0], speeds[1], atol=1e-6)
        assert np.array_equal(old[0], after.state.positions[0])


def test_what_passes_through_is_really_within() -> None:
    for kind in ("through", "wall"):
        made = fours(kind, 1)
        for index in range(5):
            four = made[index]
            film, state = four.impossible[0], four.impossible[0].after.state
            way = film.positions[:, four.item]
            if kind == "through":
                (other,) = [item for item in (0, 1) if item != four.item]
                gap = np.linalg.norm(way - film.positions[:, other], axis=1).min()
                assert gap < 0.7 * state.radii.sum()
            else:
                inside = [(s.left - 0.04 < way[:, 0]) & (way[:, 0] < s.right + 0.04) & (s.top - 0.04 < way[:, 1])
                          & (way[:, 1] < s.bottom + 0.04) for s in state.slabs]  # fmt: skip
                assert np.any(inside)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != CONTROL])
def test_the_first_possible_one_is_the_world_s_own(kind: str) -> None:
    world, four = world_of(kind), fours(kind, 2)[3]
    assert any(np.array_equal(four.possible[0].pixels, world.clip(index).pixels) for index in range(len(world)))
    (colour,) = {four.possible[0].before.state.colours[four.item]}
    assert world.parse(four.caption).objects[four.item].colour == list(world.colours)[colour]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "_hidden" in kind])
def test_what_is_hidden_happens_behind_the_wall(kind: str) -> None:
    """It is behind it at the time, and seen before and after."""
    made = fours(kind, 4)
    for index in range(5):
        four = made[index]
        film = four.possible[0]
        seen = film.before.state.visibility[:, four.item]
        assert seen[film.since - 1 : film.since + 1].max() < 0.05 and four.event >= film.since
        assert seen[: film.since].max() > 0.85 and seen[four.event :].max() > 0.85


def test_fours_are_a_function_of_seed_and_index() -> None:
    world = simple()
    one, again, other = (Impossible(world, "jump", seed, EVENTS) for seed in (1, 1, 2))
    assert np.array_equal(one[7].impossible[0].pixels, again[7].impossible[0].pixels)
    assert not np.array_equal(one[7].impossible[0].pixels, other[7].impossible[0].pixels)
    assert not np.array_equal(one[7].impossible[0].pixels, one[8].impossible[0].pixels)
    assert {one[index].event for index in range(40)} == set(EVENTS)


def test_worlds_show_what_they_can() -> None:
    """Whatever the seed: what is rare is no kind of a world."""
    world, absent = load("world_occlusion", height=32, width=32), {}
    for seed in (0, 3):
        for kind in KINDS:
            try:
                Impossible(world, kind, seed, range(2, 14))
            except ValueError as error:
                absent[kind, seed] = str(error)
    assert set(absent) == {(kind, seed) for kind in ("through", "wall") for seed in (0, 3)}
    assert "passes through another one" in absent["through", 0] and "not in 400 clips" in absent["through", 0]
    assert Impossible(load("world_containers", height=32, width=32), "wall", 0, range(2, 14))[1].kind == "wall"


def test_what_is_asked_wrongly_is_said_in_a_line() -> None:
    with pytest.raises(ValueError, match='kind "melt" is not one of: vanish, '):
        Impossible(simple(), "melt", 0, EVENTS)
    with pytest.raises(ValueError, match=r"events=\[\] must name frames from 2 to 7"):
        Impossible(simple(), "vanish", 0, [])
    with pytest.raises(ValueError, match=r"events=\[8\] must name frames from 2 to 7"):
        Impossible(simple(), "vanish", 0, [8])
