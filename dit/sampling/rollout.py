"""Long clips by chaining: each clip is given the last frames of the one before, and the seams are exact.

Shared frames are taken from the earlier clip, whose bits are the ones that were given to the later one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from dit.sampling.canvas import Canvas
from dit.sampling.given import Given


def roll_out(
    sample: Callable[[Given | None], Tensor],
    decode: Callable[[Tensor], Tensor],
    canvas: Canvas,
    first: Given | None,
    chunks: int,
    num_context: int,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Clips one after another, each as (latents (B, C, F, H, W), pixels (B, 3, num_frames, height, width)).

    Args:
        sample: what is given -> latents of one clip; it draws fresh noise at each call.
        decode: latents -> pixels, on any device.
        first: what is given to the first clip.
        chunks: clips to chain.
        num_context: pixel frames that neighbours share.
    """
    given = first
    for chunk in range(chunks):
        latents = sample(given)
        pixels = decode(latents)
        yield latents, pixels
        if chunk + 1 < chunks:
            given = context(latents, pixels, canvas, num_context)


def context(latents: Tensor, pixels: Tensor, canvas: Canvas, num_context: int) -> Given:
    """The last `num_context` frames of a clip as the first ones of the next.

    Where a latent frame is a pixel frame its latents are carried over as they are. A codec that packs frames in time
    groups them differently at the start of a clip than at its end, so there the pixels are encoded anew.
    """
    if canvas.stride[0] > 1:
        return canvas.given_frames(pixels[:, :, -num_context:].to(latents), range(num_context))
    moved = torch.zeros_like(latents)
    moved[:, :, :num_context] = latents[:, :, -num_context:]
    mask = torch.arange(latents.shape[2], device=latents.device) < num_context
    return Given(moved, mask.expand(len(latents), -1))


def stitch(clips: Sequence[Tensor], shared: int) -> Tensor:
    """Clips (B, C, F, H, W) as one, the `shared` first frames of all but the first left out."""
    return torch.cat([clips[0], *(clip[:, :, shared:] for clip in clips[1:])], 2)
