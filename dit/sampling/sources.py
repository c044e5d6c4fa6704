"""The images, videos and masks that a task names, as pixels of the clip to be made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from data.images import open_image
from dit.encoders import to_bytes
from dit.sampling import read
from dit.sampling.canvas import Canvas
from dit.sampling.fit import Fit
from dit.sampling.read import Source


def image(source: Source, name: str, canvas: Canvas, fit: Fit) -> Tensor:
    """One frame, (B, 3, 1, H, W) in [-1, 1].

    Args:
        name: of the task's argument, for messages.

    Raises ValueError, like all functions here, for a source that is missing or does not fit the canvas.
    """
    found = read.in_memory(_present(source, name, "frame.png"), name, False, canvas.height, canvas.width, fit)
    pixels = found if isinstance(found, Tensor) else read.read_image(found, canvas.height, canvas.width, fit)
    return _fitting(pixels.unsqueeze(-3), name, 1, canvas)


def pictures(source: Source) -> list[Tensor]:
    """Images as they are, before they are fitted into a clip: uint8 (3, h, w), one for all samples or one for each.

    source: as `image` has taken it.
    """
    if isinstance(source, Tensor):
        return list(to_bytes(source if source.ndim == 4 else source[None]))
    if isinstance(source, list | tuple) or (isinstance(source, np.ndarray) and source.ndim == 4):
        return [picture for each in source for picture in pictures(each)]
    assert source is not None
    opened = open_image(Image.fromarray(source) if isinstance(source, np.ndarray) else source)
    return [torch.from_numpy(np.array(opened)).permute(2, 0, 1)]


def first_frames(source: Source, count: int, canvas: Canvas, fit: Fit, every: int = 1) -> Tensor:
    """`count` frames (B, 3, count, H, W) from the start of a video, `every` frames of the canvas apart."""
    found = _video(source, canvas, fit)
    if isinstance(found, Tensor):
        return _fitting(found[..., ::every, :, :][..., :count, :, :], "video", count, canvas)
    return read.first_frames(found, count, canvas.height, canvas.width, canvas.fps / every, fit)[None]


def up_to_frames(source: Source, most: int, canvas: Canvas, fit: Fit) -> Tensor:
    """As many frames as a video has, `most` of its first ones: (B, 3, at least 1, H, W)."""
    found = _video(source, canvas, fit)
    if isinstance(found, Tensor):
        frames = found[..., :most, :, :]
        return _fitting(frames, "video", max(1, frames.shape[-3]), canvas)
    return read.up_to_frames(found, most, canvas.height, canvas.width, canvas.fps, fit)[None]


def last_frames(source: Source, count: int, canvas: Canvas, fit: Fit) -> Tensor:
    """`count` frames (B, 3, count, H, W) from the end of a video."""
    found = _video(source, canvas, fit)
    if isinstance(found, Tensor):
        return _fitting(found[..., -count:, :, :], "video", count, canvas)
    return read.last_frames(found, count, canvas.height, canvas.width, canvas.fps, fit)[None]


def mask(source: Source, canvas: Canvas, fit: Fit) -> Tensor:
    """bool (H, W): True where the mask is white."""
    found = read.mask_in_memory(_present(source, "mask", "mask.png"), canvas.height, canvas.width, fit)
    white = found if isinstance(found, Tensor) else read.read_mask(found, canvas.height, canvas.width, fit)
    size = (canvas.height, canvas.width)
    if white.dtype != torch.bool or white.shape != size:
        raise ValueError(f"mask is {white.dtype} {tuple(white.shape)}, not bool {size}")
    return white


def joined(parts: Sequence[Tensor]) -> Tensor:
    """Clips behind one another; one of batch 1 serves all samples of the others."""
    batch = max(len(part) for part in parts)
    return torch.cat([part.expand(batch, *part.shape[1:]) for part in parts], 2)


def _video(source: Source, canvas: Canvas, fit: Fit) -> Any:
    """Pixels, or the path of a file."""
    return read.in_memory(_present(source, "video", "clip.mp4"), "video", True, canvas.height, canvas.width, fit)


def _present(source: Source, name: str, example: str) -> Any:
    if source is None:
        raise ValueError(f"this task needs {name}=FILE; for example {name}={example}")
    return source


def _fitting(pixels: Tensor, name: str, count: int, canvas: Canvas) -> Tensor:
    """Pixels with a batch axis; ValueError unless they fit the canvas."""
    pixels = pixels if pixels.ndim == 5 else pixels[None]
    wanted = (3, count, canvas.height, canvas.width)
    if pixels.ndim != 5 or pixels.shape[1:] != wanted:
        raise ValueError(f"{name} has {tuple(pixels.shape[1:])} (channels, frames, height, width); {wanted} are needed")
    return pixels
