"""Balls move as physics says, are drawn as published, and come from the ranges that a split names."""

import hashlib
from itertools import product

import numpy as np
import pytest
import torch

from data.batch import Clips, Documented
from data.worlds.phyworld.dataset import GIVEN, PhyWorld
from data.worlds.phyworld.picture import SIZES, lattice, paint
from data.worlds.phyworld.scenario import (
    BOTH,
    GRAVITY,
    IN_DISTRIBUTION,
    LEAD,
    OUT_OF_DISTRIBUTION,
    RADIUS,
    SCENARIOS,
    SPEED,
    SPLITS,
    TRAIN,
    UNSEEN,
    WORLD,
    Scene,
)

ALL = tuple(SCENARIOS)
DEFAULTS = {"seed": 0, "num_clips": 100_000, "num_frames": 32, "fps": 10.0, "small_balls": False}


def clips(scenario: str, split: str = TRAIN, size: int = 16, **changes: object) -> PhyWorld:
    return PhyWorld(**{**DEFAULTS, "scenario": scenario, "split": split, "height": size, "width": size, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("split", [TRAIN, *UNSEEN])
def test_a_collision_keeps_momentum_and_energy(split: str) -> None:
    data, turned = clips("collision", split), 0
    for index in range(60):
        clip = data.clip(index)
        scene, masses = clip.scene, clip.scene.radii**2
        contact = scene.contact
        assert contact is not None and LEAD - 1e-9 <= contact <= 3.2 - LEAD + 1e-9
        momentum = (masses * clip.velocities[..., 0]).sum(1)
        energy = (masses * clip.velocities[..., 0] ** 2).sum(1)
        assert np.allclose(momentum, momentum[0], atol=1e-9) and np.allclose(energy, energy[0], rtol=1e-9)
        # Elastic: they part as fast as they met. They touch at the contact and never overlap.
        closing = clip.velocities[..., 0] @ np.array([1.0, -1.0])
        assert np.allclose(np.abs(closing), closing[0]) and closing[0] > 0 > closing[-1]
        gap = clip.positions[:, 1, 0] - clip.positions[:, 0, 0] - scene.radii.sum()
        assert gap.min() > -1e-9
        met = scene.at(np.array([contact]))[0]
        assert met[0, 1, 0] - met[0, 0, 0] == pytest.approx(scene.radii.sum())
        turned += clip.velocities[-1, 0, 0] < 0
    assert 0 < turned < 60  # a light ball flies back, a heavy one goes on


def test_equal_balls_swap_their_velocities() -> None:
    scene = Scene(np.array([1.0, 1.0]), np.array([[2.0, 5.0], [7.0, 5.0]]), np.array([[3.0, 0.0], [-1.0, 0.0]]), 0.0)
    assert scene.contact == pytest.approx(0.75)
    positions, velocities = scene.at(np.array([0.5, 0.75, 1.75]))
    assert velocities[:, :, 0].tolist() == [[3.0, -1.0], [-1.0, 3.0], [-1.0, 3.0]]
    assert positions[:, :, 0].tolist() == [[3.5, 6.5], [4.25, 6.25], [3.25, 9.25]]


def test_a_thrown_ball_follows_its_parabola() -> None:
    for index in range(20):
        clip = clips("parabola").clip(index)
        fall = np.diff(clip.positions[:, 0, 1], n=2) / 0.1**2
        assert np.allclose(fall, -GRAVITY) and np.allclose(np.diff(clip.positions[:, 0, 0], n=2), 0.0, atol=1e-12)
        assert clip.velocities[0, 0, 1] == 0.0 and np.allclose(np.diff(clip.velocities[:, 0, 1]), -GRAVITY * 0.1)
        highest = WORLD - 0.5 - clip.scene.radii[0]
        assert highest - 1.0 <= clip.positions[0, 0, 1] <= highest


def test_uniform_motion_keeps_its_velocity_and_stays_in_sight() -> None:
    for index in range(60):
        clip = clips("uniform").clip(index)
        radius, speed = clip.scene.radii[0], clip.scene.velocities[0, 0]
        assert np.allclose(np.diff(clip.positions[:, 0], axis=0), [0.1 * speed, 0.0])
        assert clip.positions[0, 0, 0] >= radius
        # 24 frames as a whole, unless it is so fast that it starts at the left edge
        assert clip.positions[24, 0, 0] <= WORLD - radius + 1e-9 or clip.positions[0, 0, 0] <= radius + 0.5


@pytest.mark.parametrize("scenario, split", product(ALL, SPLITS))
def test_radii_and_speeds_are_of_the_ranges_of_the_split(scenario: str, split: str) -> None:
    """As published: github.com/phyworld/phyworld, id_ood_data."""
    usual = {"uniform": (0.7, 1.4), "parabola": (0.7, 1.4), "collision": (0.5, 1.5)}[scenario]
    large = (1.7, 2.0) if scenario == "collision" else (1.5, 2.0)
    small = (0.3, 0.4) if scenario == "collision" else (0.3, 0.6)

    def within(values: np.ndarray, low: float, high: float) -> np.ndarray:
        return (values >= low) & (values <= high)

    sides = set()
    for small_balls, index in product((False, True), range(60)):
        scene, of = clips(scenario, split, small_balls=small_balls).scene(index)
        speeds = np.abs(scene.velocities[:, 0])
        known_radii, known_speeds = within(scene.radii, *usual), within(speeds, 1.0, 4.0)
        allowed = within(scene.radii, *large) | (within(scene.radii, *small) & small_balls)
        assert (known_radii | allowed).all()
        assert (known_speeds | within(speeds, 0.0, 0.8) | within(speeds, 4.5, 6.0)).all()
        unseen = (not known_radii.all(), not known_speeds.all())
        assert unseen == (of in (RADIUS, BOTH), of in (SPEED, BOTH)), (of, scene)
        assert of == split or split == OUT_OF_DISTRIBUTION
        sides |= {(part, side) for part, values in (("r", scene.radii), ("v", speeds)) for side in values > 1.45}
    if split in (SPEED, BOTH, OUT_OF_DISTRIBUTION):
        assert {("v", False), ("v", True)} <= sides


def test_splits_share_no_clip() -> None:
    """Also where their ranges are the same: other streams of random numbers."""
    seen = {
        (split, *clips("uniform", split).scene(index)[0].starts.ravel().tolist())
        for split, index in product((TRAIN, IN_DISTRIBUTION), range(500))
    }
    assert len({place for _, *place in seen for place in [tuple(place)]}) == len(seen) == 1000
    assert clips("uniform", seed=1).scene(0)[0].starts.tolist() != clips("uniform").scene(0)[0].starts.tolist()


def test_a_clip_is_the_same_whatever_the_length_size_and_rate() -> None:
    first = clips("collision").clip(7)
    other = clips("collision", size=64, num_clips=30_000, num_frames=63, fps=20.0).clip(7)
    assert np.array_equal(first.positions[:, 0], other.positions[::2, 0][:32])
    assert not np.array_equal(first.pixels, clips("collision").clip(8).pixels)


def published(positions: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """The picture of 256 pixels, pixel by pixel from its definition: (F, 256, 256, 3)."""
    y, x = np.meshgrid(WORLD - np.arange(256) * WORLD / 255, np.arange(256) * WORLD / 255, indexing="ij")
    frames = np.full((len(positions), 256, 256, 3), 255.0)
    for ball, colour in zip(range(len(radii)), ((255.0, 0.0, 0.0), (0.0, 0.0, 255.0)), strict=False):
        square = radii[ball] ** 2
        distance = (x - positions[:, ball, 0, None, None]) ** 2 + (y - positions[:, ball, 1, None, None]) ** 2
        cover = np.clip((square - distance) / (0.03 * square), 0.0, 1.0)[..., None]
        frames = (1.0 - cover) * frames + cover * np.array(colour)
    return frames.astype(np.uint8)


@pytest.mark.parametrize("scenario, split", [("uniform", SPEED), ("collision", RADIUS), ("parabola", TRAIN)])
def test_pictures_are_drawn_as_published_and_averaged(scenario: str, split: str) -> None:
    """Balls that leave the picture, too."""
    clip = clips(scenario, split).clip(3)
    want = published(clip.positions[::3], clip.scene.radii).transpose(3, 0, 1, 2).astype(np.int64)
    full = paint(clip.positions[::3], clip.scene.radii, 256).astype(np.int64)
    # A pixel of the rim may fall on the other side of a whole level, since products are taken in another order.
    assert np.abs(full - want).max() <= 1 and (full != want).mean() < 1e-4 and (full < 255).any()
    for size in SIZES[:-1]:
        block = 256 // size
        mean = full.reshape(*full.shape[:2], size, block, size, block).sum((3, 5)) / block**2
        small = paint(clip.positions[::3], clip.scene.radii, size)
        assert small.shape == (3, len(want[0]), size, size) and np.abs(small - mean).max() <= 0.5
        origin, pitch = lattice(size)
        assert origin + pitch * (size - 1) + origin == pytest.approx(WORLD)  # symmetrical in the world


def test_clips_are_the_same_bytes_everywhere() -> None:
    """A change here is another data set: runs made before could not go on."""
    made = hashlib.sha256(b"".join(clips(name, split, 32).clip(5).pixels.tobytes() for name in ALL for split in SPLITS))
    assert made.hexdigest()[:16] == "df135fe2b17a9ea6"


def test_items_are_what_training_takes() -> None:
    data = clips("collision", IN_DISTRIBUTION, 32)
    item = data[4]
    assert isinstance(data, Clips) and isinstance(data, Documented)
    assert isinstance(item["pixels"], torch.Tensor) and item["pixels"].shape == (3, 32, 32, 32)
    assert item["pixels"].dtype == torch.uint8 and item["fps"] == 10.0 and item["caption"]
    assert item["id"] == "phyworld-collision-in_distribution-0-4" and len(data) == 100_000
    assert data.document()["chosen_by"]["scenario"] == "collision" and GIVEN == 3
    with pytest.raises(IndexError, match="clip 100000 of 100000"):
        data[100_000]


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"scenario": "pendulum"}, "scenario=pendulum is none of uniform, collision, parabola"),
        ({"split": "test"}, "split=test is none of train, in_distribution"),
        ({"height": 48}, "height=48, width=16: the world is square"),
        ({"height": 96, "width": 96}, "are averaged to 16, 32, 64, 128, 256; give one of these as both"),
        ({"num_clips": 0}, "num_clips=0 must be at least 1"),
        ({"num_frames": 0}, "num_frames=0 must be at least 1"),
        ({"seed": -1}, "seed=-1 must be at least 0"),
        ({"fps": 0.0}, "fps=0.0 must be above 0"),
        ({"fps": float("nan")}, "fps=nan must be above 0"),
    ],
)
def test_what_cannot_be_is_said_in_a_line(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        PhyWorld(**{**DEFAULTS, "scenario": "uniform", "split": TRAIN, "height": 16, "width": 16, **changes})  # type: ignore[arg-type]
