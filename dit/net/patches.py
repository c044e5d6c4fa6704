"""Latents to patches, one token each, and back."""

from einops import rearrange
from torch import Tensor

Grid = tuple[int, int, int]


def token_grid(patch: Grid, frames: int, height: int, width: int) -> Grid:
    """Tokens along (f, h, w) of latents (frames, height, width).

    Raises ValueError with the nearest legal size when the patch does not divide the latents.
    """
    for name, size, step in zip(("frames", "height", "width"), (frames, height, width), patch, strict=True):
        if size % step or size < step:
            raise ValueError(
                f"latent {name}={size} is not a multiple of the patch's {step}; nearest: {nearest(size, step)}"
            )
    return frames // patch[0], height // patch[1], width // patch[2]


def nearest(size: int, step: int) -> str:
    """The positive multiples of `step` on both sides of `size`, for a message."""
    below = size // step * step
    return ", ".join(str(n) for n in (below, below + step) if n > 0)


def patchify(x: Tensor, patch: Grid) -> Tensor:
    """Latents (B, C, F, H, W) -> tokens (B, N, C * f * h * w), frame-major.

    The values of a patch are in the order (C, f, h, w), that of a Conv3d weight: a Linear on these tokens whose weight
    is the Conv3d weight flattened after its first axis is that Conv3d with stride = kernel = patch.
    """
    token_grid(patch, *x.shape[2:])  # raises where the patch does not divide the axes
    f, h, w = patch
    return rearrange(x, "b c (F f) (H h) (W w) -> b (F H W) (c f h w)", f=f, h=h, w=w)


def unpatchify(x: Tensor, patch: Grid, grid: Grid) -> Tensor:
    """Tokens (B, N, f * h * w * C), channel last as in DiT -> latents (B, C, F, H, W)."""
    (f, h, w), (F, H, W) = patch, grid
    return rearrange(x, "b (F H W) (f h w c) -> b c (F f) (H h) (W w)", F=F, H=H, W=W, f=f, h=h, w=w)
