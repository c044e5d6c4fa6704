"""Objects of real multi-object clips are found where the state says; spoiled ones are not."""

import numpy as np
import pytest
import torch

from data.worlds.world import Clip, World
from dit.evaluation.trajectory import Paths, Truth, follow

WORLD = World(
    seed=0,
    num_clips=1000,
    num_frames=16,
    height=64,
    width=64,
    fps=16.0,
    shapes=["circle", "square", "triangle", "diamond"],
    colours={"red": (230, 25, 25), "green": (25, 200, 25), "blue": (40, 60, 255), "white": (250, 250, 250)},
    directions=["left", "right", "up", "down"],
    sizes={"plain": 0.1},
    speeds={"plain": 0.4},
    speed_jitter=0.2,
    motions={"straight": 0.2, "bounce": 0.4, "drop": 0.2, "throw": 0.2},
    num_objects={1: 0.3, 2: 0.5, 3: 0.2},
    gravity=1.5,
    background=(16, 16, 24),
    split="train",
    heldout_fraction=0.0,
)


def as_video(clip: Clip) -> torch.Tensor:
    return torch.from_numpy(clip.pixels.copy()).permute(3, 0, 1, 2).float() / 127.5 - 1.0


def truth_of(clip: Clip) -> Truth:
    state = clip.state
    colours = [WORLD.colours[item.colour] for item in state.spec.objects]
    return Truth(colours, state.radii * 64, state.positions * 64, state.visibility)


def read(clip: Clip, video: torch.Tensor) -> Paths:
    return follow(video, truth_of(clip), WORLD.background)


@pytest.mark.parametrize("noise", [0.0, 8.0])
def test_real_clips_are_followed_to_a_fraction_of_a_pixel(noise: float) -> None:
    generator = torch.Generator().manual_seed(0)
    errors, found = [], []
    for index in range(40):
        clip = WORLD.clip(index)
        video = as_video(clip)
        paths = read(clip, video + torch.randn(video.shape, generator=generator) * noise / 127.5)
        errors += paths.errors[truth_of(clip).asked].tolist()
        found.append(paths.found)
        # Objects of one colour that touch are one blob: allowed only there.
        if len({item.colour for item in clip.state.spec.objects}) == len(clip.state.spec.objects):
            assert paths.horizon == 16
    assert np.mean(errors) < 0.15 and np.quantile(errors, 0.95) < 0.4
    assert np.mean(found) > 0.99


def test_frozen_reversed_and_empty_videos_are_noticed() -> None:
    for index in range(10):
        clip = WORLD.clip(index)
        video = as_video(clip)
        right = np.nanmean(read(clip, video).errors)
        for spoiled in (video[:, :1].expand_as(video), video.flip(1)):
            assert np.nanmean(read(clip, spoiled).errors) > max(1.0, 5 * right)
        empty = read(clip, torch.full_like(video, -0.9))
        assert empty.found == 0.0 and empty.horizon == 0 and np.nanmin(empty.errors) >= 6.0


def test_the_horizon_ends_where_the_video_goes_wrong() -> None:
    for index in range(10):
        clip = WORLD.clip(index)
        video = as_video(clip)
        if not (truth_of(clip).asked).all():
            continue
        video[:, 9:] = float("nan")
        paths = read(clip, video)
        assert paths.horizon == 9 and paths.found == pytest.approx(9 / 16)


def test_gravity_is_read_from_free_fall() -> None:
    clip = WORLD.film("a red circle falls and bounces", 4)
    free = int(np.argmax(clip.state.contacts.any((1, 2)))) or 16
    measured = read(clip, as_video(clip)).acceleration(0, slice(0, free))
    expected = 1.5 * 64 / 16.0**2
    assert measured is not None
    assert measured == (pytest.approx(0.0, abs=0.03), pytest.approx(expected, rel=0.1))
    assert read(clip, as_video(clip)).acceleration(0, slice(0, 3)) is None
    still = read(clip, as_video(clip)[:, :1].expand(-1, 16, -1, -1)).acceleration(0, slice(0, free))
    assert still == (pytest.approx(0.0, abs=1e-6), pytest.approx(0.0, abs=1e-6))


def test_two_objects_of_one_colour_are_told_apart_by_place() -> None:
    clip = WORLD.film("a red circle moves right and a red square moves left", 3)
    assert read(clip, as_video(clip)).found > 0.6
    apart = np.linalg.norm(clip.state.positions[:, 0] - clip.state.positions[:, 1], axis=-1) > 0.35
    assert apart.any() and np.nanmax(read(clip, as_video(clip)).errors[apart]) < 0.3


def test_lengths_must_agree() -> None:
    clip = WORLD.clip(0)
    with pytest.raises(ValueError, match="15 frames cannot be held against the truth of 16"):
        read(clip, as_video(clip)[:, 1:])
