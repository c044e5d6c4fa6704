"""Long clips by chaining: each clip is given the last frames of the one before, and the seams are exact.

Shared frames are taken from the earlier clip, whose bits are the ones that were given to the later one.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from dit.sampling.canvas import Canvas
from dit.sampling.given import Given
from dit.sampling.plan import Plan

T = TypeVar("T")


def roll_out(
    sample: Callable[[Given | None], Generator[T, None, Tensor]],
    decode: Callable[[Tensor], Tensor],
    canvas: Canvas,
    plan: Plan,
) -> Generator[T, None, tuple[Tensor, Tensor]]:
    """Makes the clips of a plan one after another, and yields what `sample` yields.

    Args:
        sample: what is given -> latents (B, C, F, H, W) of one clip, its return value; it draws fresh noise each time.
        decode: latents -> pixels (B, 3, num_frames, height, width), on any device.

    Returns (pixels, latents) of all clips as one, on the CPU.
    """
    given, shared = plan.given, plan.shared(canvas)
    all_latents: list[Tensor] = []
    all_pixels: list[Tensor] = []
    for chunk in range(plan.chunks):
        latents = yield from sample(given)
        all_latents.append(latents.cpu())
        if not plan.carries_latents:
            all_pixels.append(decode(latents))
        if chunk + 1 < plan.chunks:
            # Where a latent frame is a pixel frame, both ways are the same.
            carried = plan.carries_latents or (canvas.compression.stride[0] == 1 and canvas.given.in_place)
            given = carry(latents, shared) if carried else context(latents, all_pixels[-1], canvas, plan.num_context)
    whole = stitch(all_latents, shared)
    return decode(whole) if plan.carries_latents else stitch(all_pixels, plan.num_context), whole


def carry(latents: Tensor, shared: int) -> Given:
    """The last `shared` latent frames of a clip as they are, as the first ones of the next."""
    moved = torch.zeros_like(latents)
    moved[:, :, :shared] = latents[:, :, -shared:]
    mask = torch.arange(latents.shape[2], device=latents.device) < shared
    return Given(moved, mask.expand(len(latents), -1))


def context(latents: Tensor, pixels: Tensor, canvas: Canvas, num_context: int) -> Given:
    """The last `num_context` pixel frames of a clip, encoded as the first ones of the next: a codec that packs frames
    in time may group them differently at the start of a clip than at its end."""
    return canvas.given_frames(pixels[:, :, -num_context:].to(latents), range(num_context))


def stitch(clips: Sequence[Tensor], shared: int) -> Tensor:
    """Clips (B, C, F, H, W) as one, the `shared` first frames of all but the first left out."""
    return torch.cat([clips[0], *(clip[:, :, shared:] for clip in clips[1:])], 2)
