"""Images and videos from files and from memory, as pixels of the size and frame rate that a sample needs."""

from __future__ import annotations

import functools
import logging
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from data.decode import BadClip, Ladder, PyAV, Timeline
from data.images import open_image, open_mask
from dit.checkpoint.opened import missing
from dit.sampling.fit import Fit

log = logging.getLogger(__name__)

Source = str | os.PathLike[str] | Tensor | Image.Image | np.ndarray | list[Any] | None


def in_memory(source: Any, name: str, video: bool, height: int, width: int, fit: Fit) -> Any:
    """Pillow images, and arrays of what Pillow would hold, as pixels in [-1, 1]; tensors and paths as they are.

    An image becomes (3, height, width), and several in a list or an array one for each sample (B, 3, height, width). A
    `video` is a list or an array of images, its frames at the sample's own rate: (3, F, height, width), several
    (B, 3, F, height, width).

    Raises ValueError, in one line, for an array whose white is not known.
    """
    if isinstance(source, Image.Image):
        picture = open_image(source)
        _say_fit(name, picture.size, (width, height), fit)
        return _to_pixels(picture, height, width, fit)
    if isinstance(source, np.ndarray) and (source.ndim == 2 or (source.ndim == 3 and source.shape[-1] in (3, 4))):
        return in_memory(_picture(source, name), name, video, height, width, fit)
    if not isinstance(source, (list, tuple, np.ndarray)):
        return source
    parts = [in_memory(each, name, video, height, width, fit) for each in source]
    if not parts or not all(isinstance(part, Tensor) and part.shape == parts[0].shape for part in parts):
        raise ValueError(f"{name} is a list of {len(parts)} things that are no images of one shape; give Pillow images")
    if parts[0].ndim > (4 if video else 3):
        raise ValueError(
            f"{name} has too many axes: {'videos' if video else 'images'}, or one for each sample, are wanted"
        )
    return torch.stack(parts, 1 if video and parts[0].ndim == 3 else 0)


def mask_in_memory(source: Any, height: int, width: int, fit: Fit) -> Any:
    """A mask as Pillow image or array as bool (height, width), like `read_mask`; tensors and paths as they are."""
    if isinstance(source, np.ndarray):
        source = Image.fromarray(source) if source.dtype == bool and source.ndim == 2 else _picture(source, "mask")
    return _covered(open_mask(source), height, width, fit) if isinstance(source, Image.Image) else source


def _picture(pixels: np.ndarray, name: str) -> Image.Image:
    if pixels.dtype != np.uint8:
        raise ValueError(
            f"{name} is an array of {pixels.dtype}; uint8 is taken, (height, width, 3), as Pillow gives it"
        )
    return Image.fromarray(pixels)


def read_image(path: str | os.PathLike[str], height: int, width: int, fit: Fit) -> Tensor:
    """Pixels (3, height, width) in [-1, 1]: turned as its EXIF says, then fitted.

    Raises:
        FileNotFoundError: no such file. ValueError: no image, or none whose meaning is known.
    """
    image = open_image(_there(path, "image"))
    _say_fit(path, image.size, (width, height), fit)
    return _to_pixels(image, height, width, fit)


def read_mask(path: str | os.PathLike[str], height: int, width: int, fit: Fit) -> Tensor:
    """bool (height, width), True where the image is lighter than middle grey; fitted like `read_image`."""
    return _covered(open_mask(_there(path, "mask")), height, width, fit)


def _covered(mask: Image.Image, height: int, width: int, fit: Fit) -> Tensor:
    return torch.from_numpy(np.asarray(fit(mask, (width, height), Image.Resampling.BOX)) > 127)


def first_frames(path: str | os.PathLike[str], count: int, height: int, width: int, fps: float, fit: Fit) -> Tensor:
    """The first `count` frames (3, count, height, width) in [-1, 1] at `fps`, each the file's nearest in time.

    Raises:
        FileNotFoundError: no such file. ValueError: no video in it, damaged, or too short.
    """
    return _frames(path, count, height, width, fps, fit, lambda there: 0)


def up_to_frames(path: str | os.PathLike[str], most: int, height: int, width: int, fps: float, fit: Fit) -> Tensor:
    """As many of its first frames as there are, `most` of them, as `first_frames` gives them."""
    return _frames(path, most, height, width, fps, fit, lambda there: 0, least=1)


def last_frames(path: str | os.PathLike[str], count: int, height: int, width: int, fps: float, fit: Fit) -> Tensor:
    """The last `count` frames, as `first_frames` gives the first."""
    return _frames(path, count, height, width, fps, fit, lambda there: there - count)


def _frames(
    path: str | os.PathLike[str],
    count: int,
    height: int,
    width: int,
    fps: float,
    fit: Fit,
    begin: Callable[[int], int],  # frames that the file has at `fps` -> the first that is wanted
    least: int | None = None,  # how many there must be; None: all
) -> Tensor:
    file = _there(path, "video")
    picked: list[int] = []
    there = 0

    def pick(timeline: Timeline) -> list[int]:
        nonlocal there
        there = frames_at(timeline, fps)
        picked[:] = timeline.nearest((max(0, begin(there)) + np.arange(min(there, count))) / fps)
        return sorted(set(picked))

    try:
        decoded = _ladder().read(file, pick)  # (distinct frames, h, w, 3)
    except BadClip as error:
        raise ValueError(f"{file} cannot be decoded ({error.why}); is it a video, and whole?") from None
    if there < (count if least is None else least):
        raise ValueError(f"{file} has {there} frames at {fps:g} frames a second; {count} are needed")
    count = len(picked)
    if 10 * (repeated := count - len(decoded)) >= count:
        log.warning("%s: %d of %d frames are shown again: it has fewer than %g a second", file, repeated, count, fps)
    _say_fit(file, (decoded.shape[2], decoded.shape[1]), (width, height), fit)
    fitted = [_to_pixels(Image.fromarray(frame), height, width, fit) for frame in decoded]
    number = {index: place for place, index in enumerate(sorted(set(picked)))}
    return torch.stack([fitted[number[index]] for index in picked], 1)


def frames_at(timeline: Timeline, fps: float) -> int:
    """How many frames a file has at `fps`. Its last frame is shown for as long as its frames usually are."""
    times = timeline.times
    usual = float(np.median(np.diff(times))) if len(times) > 1 else 1 / fps
    return max(1, math.ceil((float(times[-1]) + usual) * fps - 1e-3))


@functools.cache
def _ladder() -> Ladder:
    return Ladder(decoders=[PyAV()])


def _there(path: str | os.PathLike[str], what: str) -> Path:
    file = Path(path)
    if not file.is_file():
        raise missing(file, what)
    return file


def _say_fit(path: str | os.PathLike[str], size: tuple[int, int], wanted: tuple[int, int], fit: Fit) -> None:
    if (lost := fit.loss(size, wanted)) is not None:
        log.warning("%s is %dx%d, the samples are %dx%d: %s", path, *size, *wanted, lost)


def _to_pixels(image: Image.Image, height: int, width: int, fit: Fit) -> Tensor:
    fitted = fit(image, (width, height), Image.Resampling.LANCZOS)
    pixels: NDArray[np.float32] = np.asarray(fitted, np.float32)
    return torch.from_numpy(pixels).permute(2, 0, 1) / 127.5 - 1
