"""Motion against closed forms: straight lines, parabolas, mirrors, conserved energy and momentum."""

import numpy as np
import pytest

from data.worlds.simulate import WALLS, Start, simulate


def start(motion: str, position: tuple[float, float], velocity: tuple[float, float], radius: float = 0.05) -> Start:
    return Start("circle", radius, motion, position, velocity)


@pytest.mark.parametrize("fps", [7.0, 8.0, 24.0, 29.97])
def test_straight_motion_is_a_line_and_passes_through_everything(fps: float) -> None:
    rng = np.random.default_rng(int(fps))
    places, speeds = rng.uniform(0, 1, (3, 2)), rng.uniform(-0.5, 0.5, (3, 2))
    starts = [start("straight", tuple(p), tuple(v)) for p, v in zip(places, speeds, strict=True)]
    seen = simulate(starts, gravity=2.0, aspect=1.0, num_frames=12, fps=fps)
    times = np.arange(12)[:, None, None] / fps
    np.testing.assert_allclose(seen.positions, places + times * speeds, atol=2e-7)
    np.testing.assert_allclose(seen.velocities, np.broadcast_to(speeds, (12, 3, 2)), atol=2e-7)
    assert not seen.contacts.any()


@pytest.mark.parametrize("fps", [8.0, 24.0, 29.97])
def test_gravity_gives_parabolas(fps: float) -> None:
    frames = int(0.4 * fps)
    seen = simulate([start("throw", (0.3, 0.6), (0.5, -0.4))], gravity=1.5, aspect=1.0, num_frames=frames, fps=fps)
    times = np.arange(frames) / fps
    np.testing.assert_allclose(seen.positions[:, 0, 0], 0.3 + 0.5 * times, atol=1e-6)
    # Steps of 1/240 s: the position is off by half a step's gain of speed at most.
    np.testing.assert_allclose(seen.positions[:, 0, 1], 0.6 - 0.4 * times + 0.75 * times**2, atol=2e-3)
    np.testing.assert_allclose(seen.velocities[:, 0, 1], -0.4 + 1.5 * times, atol=1.5 / 240 + 1e-6)


def test_walls_mirror_a_bouncing_object_for_ever() -> None:
    seen = simulate([start("bounce", (0.5, 0.5), (0.7, -0.45))], gravity=9.0, aspect=1.6, num_frames=60, fps=10.0)
    times = np.arange(60) / 10.0
    for axis, (place, speed, size) in enumerate([(0.5, 0.7, 1.6), (0.5, -0.45, 1.0)]):
        room = size - 0.1  # the centre stays a radius away from both walls
        unfolded = np.mod(place - 0.05 + speed * times, 2 * room)
        expected = 0.05 + np.minimum(unfolded, 2 * room - unfolded)
        np.testing.assert_allclose(seen.positions[:, 0, axis], expected, atol=0.03)
    speeds = np.linalg.norm(seen.velocities[:, 0], axis=-1)
    np.testing.assert_allclose(speeds, np.hypot(0.7, 0.45), rtol=1e-5)
    hit = seen.contacts[:, 0, 1:].any(0)
    assert hit.all() and len(hit) == len(WALLS)


@pytest.mark.parametrize(("motion", "bounces"), [("fall", False), ("drop", True)])
def test_falling_things_land_and_only_dropped_ones_bounce(motion: str, bounces: bool) -> None:
    seen = simulate([start(motion, (0.5, 0.4), (0.0, 0.0))], gravity=2.0, aspect=1.0, num_frames=80, fps=40.0)
    height, contact = 1.0 - seen.positions[:, 0, 1], seen.contacts[:, 0, 1 + WALLS.index("bottom")]
    first = int(np.argmax(contact))
    assert first / 40.0 == pytest.approx(np.sqrt(2 * 0.55 / 2.0), abs=2 / 40)
    assert height.min() > 0.05 - 0.01
    # A bounce that keeps 0.8 of the speed rises to 0.64 of the height.
    assert height[first:].max() - 0.05 == pytest.approx(0.64 * 0.55 if bounces else 0.0, abs=0.03)


def test_collisions_keep_momentum_and_energy() -> None:
    pair = [start("bounce", (0.3, 0.5), (0.5, 0.0), 0.05), start("bounce", (0.7, 0.52), (-0.3, 0.0), 0.1)]
    seen = simulate(pair, gravity=0.0, aspect=1.0, num_frames=14, fps=16.0)
    mass = np.array([0.05**2, 0.1**2])
    assert seen.contacts[:, 0, 1].any() and (seen.contacts[:, 0, 1] == seen.contacts[:, 1, 0]).all()
    assert not seen.contacts[:, :, 2:].any()
    momentum = (mass[None, :, None] * seen.velocities).sum(1)
    energy = (mass[None, :] * (seen.velocities**2).sum(-1)).sum(1)
    np.testing.assert_allclose(momentum, np.broadcast_to(momentum[0], momentum.shape), atol=1e-6)
    np.testing.assert_allclose(energy, energy[0], rtol=1e-3)
    assert np.abs(seen.velocities[-1] - seen.velocities[0]).max() > 0.3


def test_what_floats_stays_up_while_something_falls() -> None:
    pair = [start("bounce", (0.2, 0.5), (0.2, 0.0)), start("drop", (0.8, 0.3), (0.0, 0.0))]
    seen = simulate(pair, gravity=1.5, aspect=1.0, num_frames=8, fps=16.0)
    np.testing.assert_allclose(seen.positions[:, 0, 1], 0.5, atol=1e-6)
    assert seen.positions[-1, 1, 1] > 0.4


def test_the_frame_rate_only_chooses_when_to_look() -> None:
    pair = [start("drop", (0.4, 0.3), (0.1, 0.0)), start("bounce", (0.6, 0.8), (-0.4, -0.2), 0.1)]
    slow = simulate(pair, gravity=2.0, aspect=1.0, num_frames=16, fps=8.0)
    fast = simulate(pair, gravity=2.0, aspect=1.0, num_frames=46, fps=24.0)
    np.testing.assert_allclose(slow.positions, fast.positions[::3], atol=1e-6)
