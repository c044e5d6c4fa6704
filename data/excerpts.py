"""Which frames of a file a clip shows, where they are cut, and what else goes by the frames."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from data.batch import Excerpt
from data.decode import BadClip, Timeline
from data.manifest import Row


class View(Protocol):
    """Where in a file to look: (time, y, x), each in [0, 1], from the earliest, topmost, leftmost to the other end."""

    def __call__(self, index: int, epoch: int) -> tuple[float, float, float]: ...


class MiddleView:
    """Always the middle: for validation."""

    def __call__(self, index: int, epoch: int) -> tuple[float, float, float]:
        return 0.5, 0.5, 0.5


class RandomView:
    """Another place in each epoch, a pure function of (seed, index, epoch)."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __call__(self, index: int, epoch: int) -> tuple[float, float, float]:
        words = np.random.SeedSequence([self.seed, index, epoch]).generate_state(3)
        time, y, x = (float(word) / 2**32 for word in words)
        return time, y, x


def pick_caption(captions: Sequence[str], index: int, epoch: int) -> str:
    """One of a clip's captions, another in each epoch, a pure function of (index, epoch); "" without any."""
    if len(captions) < 2:
        return captions[0] if captions else ""
    return captions[int(np.random.SeedSequence([index, epoch]).generate_state(1)[0]) % len(captions)]


def pick_frames(timeline: Timeline, row: Row, num_frames: int, fps: float, time: float) -> Sequence[int]:
    """Numbers of the source frames nearest to `num_frames` moments at `fps`, inside the part that `row` names.

    `time` in [0, 1] chooses among the excerpts that fit. An excerpt begins on a source frame: between two frames,
    rounding would turn a source of the very same rate into one with frames doubled and dropped.

    Raises:
        BadClip: the part is shorter than the excerpt.
    """
    times = timeline.times
    part = timeline.part(row.start, row.end)
    needed = (num_frames - 1) / fps
    # The last frame is shown for one source frame's time, half of which is nearest to it.
    there = times[part[-1]] - times[part[0]] + 0.5 / timeline.fps if len(part) else 0.0
    if there < needed:
        most = int(there * fps + 1e-6) + 1 if len(part) else 0
        short = (
            f"{there:.2f} s are too short for {num_frames} frames at {fps:g} fps ({needed:.2f} s); {most} frames fit"
        )
        raise BadClip(row.path, short)
    last_begin = np.searchsorted(times, times[part[-1]] + 0.5 / timeline.fps - needed, side="right") - 1
    begins = max(1, int(last_begin) - int(part[0]) + 1)
    begin = int(part[0]) + min(int(time * begins), begins - 1)
    nearest = timeline.nearest(times[begin] + np.arange(num_frames) / fps)
    return [min(max(index, begin), int(part[-1])) for index in nearest]


def fit(frames: Tensor, height: int, width: int, y: float, x: float) -> Tensor:
    """Cuts frames, uint8 (F, h, w, 3), to the aspect of the target and scales them: uint8 (3, F, height, width).

    The crop is the largest of that aspect; `y` and `x` in [0, 1] choose its place. Scaling is bilinear with
    antialiasing.
    """
    h, w = frames.shape[1:3]
    scale = min(h / height, w / width)
    crop_h, crop_w = min(h, max(1, round(height * scale))), min(w, max(1, round(width * scale)))
    top, left = round(y * (h - crop_h)), round(x * (w - crop_w))
    cut = frames[:, top : top + crop_h, left : left + crop_w].permute(0, 3, 1, 2)  # (F, 3, crop_h, crop_w)
    scaled = F.interpolate(cut, (height, width), mode="bilinear", antialias=True, align_corners=False)
    return scaled.transpose(0, 1).contiguous()


def of_frames(values: Sequence[float], excerpt: Excerpt, name: str, row: Row) -> list[float] | list[list[float]]:
    """What a column says of the frames that are shown: a number for each of them, or a list of n numbers.

    values: of all frames of the file in their order, a number or n numbers for each.

    Raises:
        BadClip: the column has not as many for each frame.
    """
    count, rest = divmod(len(values), excerpt.of)
    if rest or not count:
        raise BadClip(
            row.path, f"column {name} has {len(values)} numbers for {excerpt.of} frames: give equally many for each"
        )
    if count == 1:
        return [values[frame] for frame in excerpt.frames]
    return [list(values[frame * count : (frame + 1) * count]) for frame in excerpt.frames]
