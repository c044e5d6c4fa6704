"""What previews of an image-to-video model begin with: frames of clips that are trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from data.batch import to_float
from dit.diffusion.conditioning import Conditioning
from dit.encoders import to_bytes
from dit.sampling.canvas import Canvas
from dit.sampling.fit import Cut, Size
from dit.sampling.tasks import FirstLast, ImageToVideo, Task

DRAWS, FRAMES = 256, 5  # that show which frames are always given


@dataclass(frozen=True)
class Pictures:
    """A picture of each prompt.

    Attributes:
        captions: of the clips that they are from.
        first, last: pixels (prompts, 3, H, W) in [-1, 1]; None: samples do not end with a given frame.
    """

    captions: list[str]
    first: Tensor
    last: Tensor | None

    def on(self, canvas: Canvas) -> Canvas:
        """The canvas of samples of all prompts."""
        first, last = (None if each is None else list(to_bytes(each)) for each in (self.first, self.last))
        return replace(canvas, first=first, last=last)

    def task(self, which: Sequence[int]) -> Task:
        """What the samples of these prompts are given."""
        rows = list(which)
        return ImageToVideo(self.first[rows]) if self.last is None else FirstLast(self.first[rows], self.last[rows])


def always_given(conditioning: Conditioning) -> tuple[bool, bool]:
    """Whether the first frame is given in every training clip, and whether the last one is."""
    drawn = conditioning(DRAWS, FRAMES, torch.Generator().manual_seed(0), "cpu").all(0)
    return bool(drawn[0]), bool(drawn[-1])


def of_clips(data: Any, count: int, conditioning: Conditioning) -> Pictures | None:
    """Frames of `count` clips, evenly spaced over all; None for a model that is not always given the first frame. Those
    of clips in another shape than the previews' are scaled to cover it and cut to their middle.

    data: whose clips are trained on (`data.module.VideoData`). Raises what reading them raises.
    """
    begins, ends = always_given(conditioning)
    if not begins:
        return None
    items = [data.training_clip(index * len(data.train) // count) for index in range(count)]
    size = (data.width, data.height)
    first, last = (torch.stack([to_float(_fitted(item["pixels"][:, at], size)) for item in items]) for at in (0, -1))
    return Pictures([item["caption"] for item in items], first, last if ends else None)


def _fitted(frame: Tensor, size: Size) -> Tensor:
    """A frame, uint8 (3, h, w), in a size."""
    if (frame.shape[2], frame.shape[1]) == size:
        return frame
    image = Cut()(Image.fromarray(frame.movedim(0, -1).numpy()), size, Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(image)).movedim(-1, 0)
