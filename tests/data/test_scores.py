"""Brightness, motion, looks and cuts say what pictures show, and doubles are found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data import scores
from data.decode import Frames, Timeline
from data.duplicates import NEAR, duplicates
from tests.data.videos import write_numbered


def scene(seed: int, frames: int = 16, size: int = 96, step: int = 2) -> Frames:
    """Blurred noise that moves to the right by `step` pixels a frame: (frames, size, size, 3)."""
    noise = np.random.default_rng(seed).integers(0, 255, (12, 24, 3), np.uint8)
    wide = np.asarray(Image.fromarray(noise).resize((2 * size + step * frames, size), Image.Resampling.BICUBIC))
    return np.stack([wide[:, frame * step : frame * step + size] for frame in range(frames)])


def test_brightness_is_the_mean_luma() -> None:
    grey = np.full((3, 20, 30, 3), 100, np.uint8)
    assert scores.brightness(grey) == 100
    grey[:, :, :15] = 200
    assert scores.brightness(grey) == 150
    green = np.zeros((1, 8, 8, 3), np.uint8)
    green[..., 1] = 255
    assert scores.brightness(green) == pytest.approx(0.587 * 255, abs=0.6)


def test_motion_tells_moving_pictures_from_still_ones_and_does_not_mind_a_cut() -> None:
    still, slow, fast = scene(0, step=0), scene(0, step=1), scene(0, step=4)
    measured = [scores.motion(each[:-1], each[1:]) for each in (still, slow, fast)]
    assert measured[0] == 0 and 0 < measured[1] < measured[2]
    cut = np.concatenate([still[:8], scene(1, step=0)[:8]])
    assert scores.motion(cut[:-1], cut[1:]) == 0
    tall = np.zeros((2, 4000, 2, 3), np.uint8)
    assert scores.motion(tall[:1], tall[1:]) == 0


@pytest.mark.parametrize("fps, apart", [(24, 3), (8, 1), (2, 1), (40, 5)])
def test_partners_are_an_eighth_of_a_second_away(fps: int, apart: int) -> None:
    timeline = Timeline(np.arange(40) / fps, fps)
    part = np.arange(5, 30)
    assert scores.partners(timeline, [5, 12], part) == [5 + apart, 12 + apart]
    assert scores.partners(timeline, [29], part) == [29 - apart], "at the end the earlier one"
    assert scores.partners(timeline, [7], np.array([7])) == [7]


def distance(a: str, b: str) -> int:
    return (int(a, 16) ^ int(b, 16)).bit_count()


def test_copies_look_alike_and_others_do_not() -> None:
    clip = scene(3)
    small = np.stack([np.asarray(Image.fromarray(frame).resize((48, 40))) for frame in clip])
    noisy = np.clip(clip + np.random.default_rng(0).normal(0, 4, clip.shape), 0, 255).astype(np.uint8)
    dark = (clip * 0.8).astype(np.uint8)
    for copy in (small, noisy, dark):
        assert distance(scores.looks(clip), scores.looks(copy)) <= NEAR
    assert min(distance(scores.looks(clip), scores.looks(scene(seed))) for seed in range(4, 20)) > 2 * NEAR
    assert len(scores.looks(clip)) == 64 and len(scores.looks(clip[:1])) == 16
    assert scores.looks(np.zeros_like(clip)) == "" and scores.looks(np.full_like(clip, 200)) == ""


@pytest.mark.parametrize("length", [32, 8])
@pytest.mark.parametrize("seed", range(3))
def test_all_pairs_that_are_near_are_found(seed: int, length: int) -> None:
    """Held against comparing each with each."""
    rng = np.random.default_rng(seed)
    near = NEAR * length // 32
    bits = rng.integers(0, 256, (60, length), np.uint8)
    for row in range(20, 60):  # copies of the first ones in which some bits differ, near and not near
        flips = rng.choice(8 * length, rng.integers(0, 2 * near + 1), replace=False)
        copy = np.unpackbits(bits[rng.integers(0, 20)])
        copy[flips] ^= 1
        bits[row] = np.packbits(copy)
    files = np.where(np.arange(60) % 9 == 0, 0, np.arange(60))  # some rows are of one file
    good = np.arange(60) != 5
    found = duplicates([""] * 60, [each.tobytes().hex() for each in bits], files, good)
    apart = np.bitwise_count(bits[:, None] ^ bits[None]).sum(-1)
    wanted = np.full(60, -1)
    for row in range(60):
        earlier = [
            i for i in range(row) if apart[i, row] <= near and files[i] != files[row] and wanted[i] < 0 and good[i]
        ]
        if good[row] and len(earlier):
            wanted[row] = earlier[0]
    assert (found == wanted).all() and (wanted >= 0).sum() > 5


def test_equal_files_are_doubles_whatever_they_look_like() -> None:
    content = ["x", "x", "y", "x", "", ""]
    looks = ["", "", "", "", "", ""]
    assert duplicates(content, looks, np.array([0, 0, 1, 2, 3, 4]), np.ones(6, bool)).tolist() == [
        -1,
        -1,
        -1,
        0,
        -1,
        -1,
    ]
    many = np.arange(3000)
    assert duplicates([""] * 3000, ["ab" * 32] * 3000, many, np.ones(3000, bool))[1:].tolist() == [0] * 2999


def test_cuts_are_found_where_they_are(tmp_path: Path) -> None:
    pytest.importorskip("scenedetect", reason="pip install -r requirements-data.txt")
    import av

    path = tmp_path / "cut.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=20)
        stream.height = stream.width = 96
        stream.pix_fmt = "yuv420p"
        for frame in np.concatenate([scene(0, 40), scene(1, 30), scene(2, 50)]):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    assert scores.missing_detector() is None
    assert scores.cuts(path, 0.0, float("inf")) == [2.0, 3.5]
    assert scores.cuts(path, 2.5, 6.0) == [3.5] and scores.cuts(path, 0.0, 1.5) == []
    steady = write_numbered(tmp_path / "steady.mp4", count=3)
    assert scores.cuts(steady, 0.0, float("inf")) == []
