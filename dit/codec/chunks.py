"""Clips coded a few at a time, or frame by frame, so that memory does not grow with their number."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Code = Callable[[Tensor], Tensor]
SMALL = 2**20  # pixels of all frames; decoders of published models take about 2 kB of memory for each


def small(pixels: int) -> int:
    """How many clips or pictures of so many pixels are coded at once: small ones together, since torch is slow at 3-D
    convolutions of one small clip on a CPU; others one at a time, since they want more memory than the network."""
    return max(1, SMALL // max(1, pixels))


def in_chunks(x: Tensor, size: int | None, code: Code) -> Tensor:
    """`code` of (B, ...), `size` of the B at a time; None: all at once."""
    parts = [code(some) for some in x.split(size or len(x))]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def frame_by_frame(x: Tensor, size: int | None, code: Code) -> Tensor:
    """`code` of pictures (any, channels, height, width) for each frame of x (B, channels, F, height, width), `size` of
    them at a time; None: all at once."""
    frames = in_chunks(x.transpose(1, 2).flatten(0, 1), size, code)
    return frames.unflatten(0, (len(x), -1)).transpose(1, 2)
