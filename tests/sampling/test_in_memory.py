"""Images and videos that are in memory already: Pillow's, and arrays of them, mean what their files mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from dit.sampling.fit import Pad
from dit.sampling.plan import Plan
from dit.sampling.record import as_config
from dit.sampling.tasks import Extend, FirstLast, ImageToVideo, Inpaint, Task, VideoToVideo
from tests.sampling.fakes import as_pixels, random_frames, write_lossless
from tests.sampling.test_tasks import canvas

BOARD = canvas((1, 1, 1), False, 6)
FRAMES = random_frames(3, 9)  # (9, 8, 10, 3), the size of the canvas
PICTURES = [Image.fromarray(frame) for frame in FRAMES]


def given(task: Task) -> Tensor:
    plan: Plan = task(BOARD)
    return plan.start if plan.given is None else plan.given.latents * plan.given.mask


def assert_same(*tasks: Task) -> None:
    first, *others = (given(task) for task in tasks)
    for other in others:
        assert torch.equal(first, other)


def test_an_image(tmp_path: Path) -> None:
    PICTURES[0].save(tmp_path / "frame.png")
    kinds: list[Any] = [tmp_path / "frame.png", PICTURES[0], FRAMES[0], as_pixels(FRAMES)[:, 0]]
    assert_same(*(ImageToVideo(each) for each in kinds))
    assert_same(*(FirstLast(each, FRAMES[1]) for each in kinds))


def test_an_image_of_another_shape_is_fitted_like_its_file(tmp_path: Path) -> None:
    wide = Image.fromarray(random_frames(4, 1, 20, 61)[0])
    wide.putalpha(128)
    wide.save(tmp_path / "wide.png")
    assert_same(ImageToVideo(tmp_path / "wide.png"), ImageToVideo(wide), ImageToVideo(np.asarray(wide)))
    assert_same(ImageToVideo(tmp_path / "wide.png", Pad()), ImageToVideo(wide, Pad()))
    grey = wide.convert("L")
    assert_same(ImageToVideo(grey), ImageToVideo(np.asarray(grey)), ImageToVideo(grey.convert("RGB")))


def test_one_image_for_each_sample() -> None:
    pixels = as_pixels(FRAMES).movedim(1, 0)[:3]
    assert_same(ImageToVideo(pixels), ImageToVideo(PICTURES[:3]), ImageToVideo(FRAMES[:3]), ImageToVideo([*FRAMES[:3]]))


def test_a_video(tmp_path: Path) -> None:
    file = write_lossless(tmp_path / "clip.mkv", FRAMES, 8)
    kinds: list[Any] = [file, PICTURES, FRAMES, [*FRAMES], as_pixels(FRAMES)]
    assert_same(*(VideoToVideo(each, 0.5) for each in kinds))
    assert_same(*(Extend(each, 3, 1) for each in kinds))
    two = [PICTURES, PICTURES[::-1]]
    assert_same(VideoToVideo(two, 0.5), VideoToVideo(np.stack([FRAMES, FRAMES[::-1]]), 0.5))


def test_a_mask(tmp_path: Path) -> None:
    covered = np.zeros((8, 10), bool)
    covered[2:5, 3:7] = True
    grey = Image.fromarray(covered.astype(np.uint8) * 255)
    grey.save(tmp_path / "mask.png")
    kinds: list[Any] = [tmp_path / "mask.png", grey, np.asarray(grey), covered, torch.from_numpy(covered)]
    assert_same(*(Inpaint(PICTURES, each) for each in kinds))


def test_facts_name_them_by_their_content() -> None:
    one, same, other = (as_config(ImageToVideo(each))["image"] for each in (PICTURES[0], FRAMES[0], PICTURES[1]))
    assert one == same and one != other and one["shape"] == [8, 10, 3]


@pytest.mark.parametrize(
    "task, message",
    [
        (ImageToVideo(FRAMES[0] / 255), "image is an array of float64; uint8 is taken"),
        (ImageToVideo([3]), "no images of one shape"),
        (ImageToVideo([]), "list of 0 things"),
        (ImageToVideo([PICTURES]), "too many axes"),
        (VideoToVideo(FRAMES[:2], 0.5), r"video has \(3, 2, 8, 10\)"),
        (VideoToVideo(PICTURES[0], 0.5), "video has"),
    ],
)
def test_mistakes(task: Task, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        task(BOARD)
    assert "\n" not in str(caught.value)
