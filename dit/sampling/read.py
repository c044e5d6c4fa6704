"""Images and videos from files, as pixels of the size and frame rate that a sample needs."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

Source = str | os.PathLike[str] | Tensor | None


def missing(path: Path, what: str) -> FileNotFoundError:
    """The error for a path that is not there, naming what lies near it."""
    folder = path.parent
    while not folder.is_dir():
        folder = folder.parent
    wanted = path.relative_to(folder).parts[0]
    there = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    near = difflib.get_close_matches(wanted, there, n=3, cutoff=0.5) or there[:3]
    hint = f"; in {folder}: {', '.join(near)}" if near else f"; {folder} is empty"
    return FileNotFoundError(f"{what} {path} is not there{hint}")


def read_image(path: str | os.PathLike[str], height: int, width: int) -> Tensor:
    """Pixels (3, height, width) in [-1, 1]: turned as its EXIF says, scaled to cover the frame, cut to its centre."""
    return _to_pixels(_open(path, "image", "RGB"), height, width)


def read_mask(path: str | os.PathLike[str], height: int, width: int) -> Tensor:
    """bool (height, width), True where the image is lighter than middle grey; fitted like `read_image`."""
    image = ImageOps.fit(_open(path, "mask", "L"), (width, height), Image.Resampling.BOX)
    return torch.from_numpy(np.asarray(image) > 127)


def read_video(path: str | os.PathLike[str], height: int, width: int, fps: float) -> Iterator[Tensor]:
    """Frames (3, height, width) in [-1, 1] at `fps`, each the file's nearest in time; fitted like `read_image`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no video in it, or damaged.
    """
    file = Path(path)
    if not file.is_file():
        raise missing(file, "video")
    tolerance = 1e-3 / fps
    previous: tuple[float, Image.Image] | None = None
    interval, target = 1 / fps, 0
    for time, image in _frames(file):
        if previous is not None:
            interval = time - previous[0]
            while target / fps < time - tolerance:
                nearer = previous if target / fps - previous[0] <= time - target / fps else (time, image)
                yield _to_pixels(nearer[1], height, width)
                target += 1
        previous = time, image
    # the last frame is shown as long as the one before it
    while previous is not None and target / fps < previous[0] + interval - tolerance:
        yield _to_pixels(previous[1], height, width)
        target += 1


def _frames(file: Path) -> Iterator[tuple[float, Image.Image]]:
    """(seconds since the first frame, upright frame) of the file's best video stream."""
    count = 0
    try:
        with av.open(str(file)) as container:
            stream = container.streams.best("video")
            if stream is None:
                raise ValueError(f"{file} holds no video; streams: {', '.join(s.type for s in container.streams)}")
            rate, first = float(stream.average_rate or stream.guessed_rate or 25), None
            for frame in container.decode(stream):
                time = frame.time if frame.time is not None else count / rate
                first = time if first is None else first
                upright = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
                yield time - first, Image.fromarray(np.ascontiguousarray(upright))
                count += 1
    except av.error.FFmpegError as error:
        raise ValueError(
            f"{file} cannot be decoded after {count} frames ({error.strerror}); is it a video, and whole?"
        ) from None
    if count == 0:
        raise ValueError(f"{file} holds no frame that can be decoded; is it damaged?")


def _open(path: str | os.PathLike[str], what: str, mode: str) -> Image.Image:
    file = Path(path)
    if not file.is_file():
        raise missing(file, what)
    try:
        with Image.open(file) as image:
            return ImageOps.exif_transpose(image).convert(mode)
    except OSError as error:  # PIL's own errors too
        raise ValueError(
            f"{file} cannot be read as an image ({' '.join(str(error).split())}); use PNG or JPEG"
        ) from None


def _to_pixels(image: Image.Image, height: int, width: int) -> Tensor:
    fitted = ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)  # the same size passes untouched
    return torch.from_numpy(np.asarray(fitted, np.float32)).permute(2, 0, 1) / 127.5 - 1
