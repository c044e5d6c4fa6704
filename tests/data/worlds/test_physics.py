"""What meets, falls, is held and is hidden does so as physics has it."""

import numpy as np
import pytest
from numpy.typing import NDArray
from world_settings import preset

from data.worlds.motion import MATERIALS
from data.worlds.simulate import STEP, WALLS
from data.worlds.state import State

COLLISIONS = {"events": {"collide": 1.0}, "motions": {"glide": 0.7, "rest": 0.3}, "height": 8, "width": 8}


def between(state: State) -> tuple[int, int]:
    """The last frame before the first contact of two objects, and the first behind it with no contact."""
    touch = state.contacts[:, 0, 1]
    first = int(np.argmax(touch))
    return first - 1, first + 1 + int(np.argmax(~touch[first + 1 :])) if first + 1 < len(touch) else len(touch) - 1


def momentum(state: State) -> NDArray[np.float64]:
    return np.asarray((state.masses[None, :, None] * state.velocities).sum(1))


def energy(state: State) -> NDArray[np.float64]:
    return np.asarray(0.5 * (state.masses * (state.velocities**2).sum(-1)).sum(1))


@pytest.mark.parametrize("index", range(40))
def test_collisions_keep_momentum_and_energy_between_different_masses(index: int) -> None:
    state = preset("physics", **COLLISIONS).clip(index).state
    assert state.spec.event == "collide" and state.contacts[:, 0, 1].any()
    walls = state.contacts[:, :, 2 : 2 + len(WALLS)].any((1, 2))
    until = int(np.argmax(walls)) if walls.any() else len(walls)  # walls take momentum, and no energy
    before = momentum(state)[0]
    scale = (state.masses[:, None] * np.abs(state.velocities[0])).sum()
    np.testing.assert_allclose(momentum(state)[:until], np.broadcast_to(before, (until, 2)), atol=1e-5 * scale)
    np.testing.assert_allclose(energy(state), energy(state)[0], rtol=1e-6)
    assert np.abs(state.velocities[-1] - state.velocities[0]).max() > 0.01


def test_head_on_collisions_have_the_velocities_of_the_textbook() -> None:
    world = preset("physics", **(COLLISIONS | {"shapes": ["square"]}))  # faces that meet squarely: one dimension
    ratios = set()
    for index in range(30):
        state = world.clip(index).state
        axis = int(np.argmax(np.abs(state.velocities[0]).max(0)))
        (m, n), (u, v) = state.masses, state.velocities[0, :, axis]
        after = between(state)[1]
        if state.contacts[: after + 1, :, 2:].any():
            continue
        expected = [((m - n) * u + 2 * n * v) / (m + n), ((n - m) * v + 2 * m * u) / (m + n)]
        np.testing.assert_allclose(state.velocities[after, :, axis], expected, atol=2e-3)
        ratios.add(round(m / n, 6))
    assert max(ratios) > 10.0 and min(ratios) < 0.2


@pytest.mark.parametrize("split", ["train", "larger"])
def test_what_meets_others_starts_apart_from_them(split: str) -> None:
    for name in ("physics", "containers", "steered"):
        world = preset(name, split=split, height=8, width=8)
        for index in range(40):
            state = world.clip(index).state
            for one in range(len(state.radii)):
                away = np.linalg.norm(state.positions[0, :one] - state.positions[0, one], axis=-1)
                assert (away > 0.85 * (state.radii[:one] + state.radii[one])).all(), (name, index)


def test_materials_are_masses_for_an_area() -> None:
    world = preset("physics", height=8, width=8)
    seen = set()
    for index in range(40):
        state = world.clip(index).state
        for item, mass, radius in zip(state.spec.objects, state.masses, state.radii, strict=True):
            assert mass == pytest.approx(np.pi * radius**2 * MATERIALS[item.material])
            seen.add(item.material)
    assert seen == set(MATERIALS)


@pytest.mark.parametrize("motion", ["drop", "throw"])
def test_what_flies_follows_a_parabola(motion: str) -> None:
    world = preset("physics", motions={motion: 1.0}, num_objects={1: 1.0}, events={"plain": 1.0}, height=8, width=8)
    for index in range(20):
        state = world.clip(index).state
        free = int(np.argmax(state.contacts.any((1, 2)))) if state.contacts.any() else len(state.positions)
        time = np.arange(free) / world.fps
        start, speed = state.positions[0, 0], state.velocities[0, 0]
        fall = np.array([0.0, world.gravity])
        # A step of Chipmunk moves bodies first: they begin by half a step's gravity too slowly.
        parabola = start + time[:, None] * (speed - 0.5 * STEP * fall) + 0.5 * time[:, None] ** 2 * fall
        np.testing.assert_allclose(state.positions[:free, 0], parabola, atol=1e-5)
        second = np.diff(state.positions[:free, 0], 2, axis=0) * world.fps**2
        np.testing.assert_allclose(second, np.broadcast_to(fall, second.shape), atol=1e-3)


@pytest.mark.parametrize("scenery", ["box", "cup"])
def test_containers_keep_what_is_in_them(scenery: str) -> None:
    world = preset("containers", sceneries={scenery: 1.0}, height=8, width=8)
    touched = False
    for index in range(40):
        state = world.clip(index).state
        assert state.spec.scenery == scenery and all(slab.solid for slab in state.slabs)
        left, right, floor = state.slabs[0].right, state.slabs[1].left, state.slabs[2].top
        x, y = state.positions[..., 0], state.positions[..., 1]
        assert (x > left).all() and (x < right).all() and (y < floor).all()
        if scenery == "box":
            assert (y > state.slabs[3].bottom).all()
        assert not state.contacts[:, :, len(state.radii) : len(state.radii) + 4].any()  # never a wall of the room
        touched |= bool(state.contacts[:, :, len(state.radii) + 4 :].any())
    assert touched


@pytest.mark.parametrize("index", range(25))
def test_walls_hide_what_passes_behind_them_and_give_it_back(index: int) -> None:
    world = preset("occlusion", num_objects={1: 1.0})
    clip = world.clip(index)
    visibility = clip.state.visibility[:, 0]
    assert visibility[0] > 0.99 and visibility[-1] > 0.99 and visibility.min() < 0.02
    hidden = int(np.argmin(visibility))
    colour = np.array(world.colours[clip.state.spec.objects[0].colour])
    away = np.abs(clip.pixels[hidden].astype(int) - colour).sum(-1)
    assert away.min() > 60  # no pixel of it is left
    # It goes on behind the wall as it went before.
    np.testing.assert_allclose(np.diff(clip.state.positions[:, 0], 2, axis=0), 0.0, atol=1e-6)


def test_walls_that_nothing_comes_out_behind_are_refused() -> None:
    with pytest.raises(ValueError, match=r"needs 0\.\d\d to come out behind a wall; raise speeds"):
        preset("occlusion", speeds={"plain": 0.3})
    with pytest.raises(ValueError, match="is too large for a"):
        preset("containers", sizes={"plain": 0.3}, motions={"bounce": 1.0}, sceneries={"box": 1.0})
    with pytest.raises(ValueError, match="does not fit into a frame of 0.5 by 1"):
        preset("containers", width=32)
    with pytest.raises(
        ValueError, match="do not fit side by side into 1 frame heights, so they cannot come to collide"
    ):
        preset("physics", split="larger", outside_sizes={"huge": 0.17})
