"""Sizes and lengths of the clips of a manifest, read from its columns without opening a file."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from data.manifest import Manifest
from data.shapes import Extents, Ints

MILLISECOND = 1e-3  # to which `scripts/validate_data.py` rounds durations


def extents(clips: Manifest, fps: float) -> Extents:
    """Height, width and frames at `fps` of each row, for excerpts as `clips.pick_frames` takes them.

    A video's frames follow from `duration`, or `end`, or `frames`; without the column `fps` it is taken to have the
    run's own.
    """
    images = np.asarray(clips.images)
    start = np.nan_to_num(_numbers(clips, "start"))
    source = _numbers(clips, "fps")
    source = np.where(source > 0, source, fps)
    end = np.fmin(_numbers(clips, "end"), start + _numbers(clips, "duration"))
    end = np.fmin(end, _numbers(clips, "frames") / source)
    rounding = 0.6 * MILLISECOND * source + MILLISECOND
    with np.errstate(invalid="ignore"):
        first = np.ceil(start * source - rounding)  # numbers of the source's frames
        last = np.ceil(end * source - rounding) - 1
        there = (last - first + 0.5) / source  # the last frame is shown for a time, half of which is nearest to it
        frames = np.where(last >= first, np.floor(there * fps + 1e-6) + 1, 0)
    frames = np.where(np.isfinite(end), frames, -1)
    return Extents(_whole(frames), _whole(_numbers(clips, "height")), _whole(_numbers(clips, "width")), images)


def _numbers(clips: Manifest, name: str) -> npt.NDArray[np.float64]:
    """A column, nan where there is no number."""
    if name not in clips.table.column_names:
        return np.full(len(clips), np.nan)
    return np.asarray(clips.table.column(name).to_numpy(), np.float64)


def _whole(numbers: npt.NDArray[np.float64]) -> Ints:
    """Whole numbers, -1 where there is none, and none that is too large to be counted with."""
    return np.nan_to_num(numbers, nan=-1).clip(-1, 2**31).astype(np.int64)
