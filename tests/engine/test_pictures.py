"""What previews of an image-to-video model begin with, where clips have several shapes."""

from types import SimpleNamespace
from typing import Any

import torch

from dit.diffusion.conditioning import FirstAndLastFrame, RandomTasks, Unconditional
from dit.engine.pictures import of_clips


def clip(frames: int, height: int, width: int, value: int) -> dict[str, Any]:
    pixels = torch.full((3, frames, height, width), value, dtype=torch.uint8)
    pixels[:, :, :, : width // 4] = 0  # a dark border, which is cut off of a wide clip
    return {"pixels": pixels, "caption": str(value)}


def test_pictures_have_the_shape_of_previews() -> None:
    clips = [clip(4, 16, 16, 100), clip(1, 16, 32, 150), clip(8, 32, 32, 200)]
    data = SimpleNamespace(train=clips, training_clip=clips.__getitem__, height=16, width=16)
    shown = of_clips(data, 3, RandomTasks({"both": FirstAndLastFrame()}, {"both": 1.0}, 0.0))
    assert shown is not None and shown.last is not None
    assert shown.captions == ["100", "150", "200"] and shown.first.shape == shown.last.shape == (3, 3, 16, 16)
    whole = (shown.first + 1) * 127.5
    assert torch.equal(whole[0].round().to(torch.uint8), clips[0]["pixels"][:, 0])  # untouched
    assert (whole[1, :, :, 1:].round() == 150).all()  # cut to its middle
    assert (whole[2, :, :, 6:].round() == 200).all() and (whole[2, :, :, :3] < 20).all()  # scaled


def test_a_model_that_is_not_given_the_first_frame_needs_none() -> None:
    assert of_clips(SimpleNamespace(train=[], height=16, width=16), 3, Unconditional()) is None
