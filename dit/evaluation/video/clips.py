"""Clips as all measures take them: `(3, F, H, W)`, uint8 or float in [-1, 1]."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from dit.encoders import to_bytes

Shape = tuple[int, int, int]  # frames, height, width


def checked(clip: Tensor, name: str) -> Tensor:
    """The clip itself. name: what it is called in a message.

    Raises ValueError, in one line, for another shape or kind, and for values that are not finite.
    """
    if clip.ndim != 4 or clip.shape[0] != 3 or not clip.numel():
        raise ValueError(f"{name} has the shape {tuple(clip.shape)}; a clip is (3, frames, height, width)")
    if clip.dtype == torch.uint8:
        return clip
    if not clip.is_floating_point():
        raise ValueError(f"{name} holds {clip.dtype}; a clip is uint8, or float in [-1, 1]")
    if not bool(torch.isfinite(clip).all()):
        frames = (~torch.isfinite(clip)).any(dim=(0, 2, 3)).nonzero().flatten().tolist()
        shown = ", ".join(map(str, frames[:8])) + (" ..." if len(frames) > 8 else "")
        raise ValueError(f"{name} has values that are not finite, in frame {shown}: it cannot be scored")
    return clip


def check_alike(first: Tensor, second: Tensor, names: tuple[str, str]) -> None:
    """Raises ValueError, in one line, where two clips differ in shape."""
    if first.shape != second.shape:
        raise ValueError(f"{names[0]} is {shape_of(first)}, and {names[1]} {shape_of(second)}: sizes must be equal")


def one_shape(before: Shape | None, shape: Sequence[int], name: str) -> Shape:
    """The (frames, height, width) that all clips of a set have. name: of the clip with this shape, for messages.

    Raises ValueError, in one line, where the clips before had another one.
    """
    frames, height, width = shape
    if before is not None and before != (frames, height, width):
        raise ValueError(f"{name} has {in_words(shape)}, and those before {in_words(before)}: sizes must be equal")
    return frames, height, width


def shape_of(clip: Tensor) -> str:
    """Frames and size in words: "16 frames of 64x64"."""
    return in_words(clip.shape[-3:])


def in_words(shape: Sequence[int]) -> str:
    """(frames, height, width) as in `shape_of`."""
    return "{} frames of {}x{}".format(*shape)


def levels(clip: Tensor) -> Tensor:
    """The clip in uint8, rounded as a file without loss holds it."""
    return clip if clip.dtype == torch.uint8 else to_bytes(clip.float())


def unit(clip: Tensor) -> Tensor:
    """The clip in float32, in [0, 1]; values beyond are cut off."""
    if clip.dtype == torch.uint8:
        return clip.float() / 255
    return (clip.float().clamp(-1, 1) + 1) / 2


def key_of(clip: Tensor) -> str:
    """A name that equal clips share: of their size and bytes."""
    content = levels(clip).cpu().contiguous()
    return f"{tuple(content.shape)} {hashlib.sha256(content.numpy().data).hexdigest()}"
