"""Rotary positions in seconds and pixels instead of tokens."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from dit.net.coordinates import AXES, Coordinates
from dit.net.patches import Grid
from dit.net.position.base import Compression, Position
from dit.net.position.coordinates import Scaled
from dit.net.position.rotary import Pairing, Rotation
from dit.net.reads import Reads


class FractionalRoPE(Position):
    """Rotary positions of seconds and pixels, as fractions of an extent, over the full width: heads differ in their
    frequencies (LTX-Video, arXiv 2501.00103).

    theta: the frequencies of an axis rise from pi / 2 to theta * pi / 2. Each axis gets a third, rounded down, of the
      width / 2 pairs of channels; pairs of time, height and width alternate. Those that are left over, two at most,
      stand in front of all others and are not rotated.
    extent: axis -> seconds or pixels that make up 1.
    stride, first, fps: where tokens are when cond does not say it. stride: axis -> frames or pixels of the video from
      one token to the next; null: as the codec has it (`on_latents`; before that, latents are pixels). first: frames of
      the video that the first token covers; `stride`: as many as any other, though the codec codes the first frame
      alone (LTX-Video 0.9.0 and 0.9.1, and diffusers' LTXPipeline); null: as the codec has it (LTX-Video 0.9.5 and
      later). fps: frames a second where cond["fps"] (B,) is absent.
    pairing: which channels of a head form pairs.

    cond may hold `coordinates` (B, 3, N), seconds, rows and columns of pixels of each token, or `rope_scale` (B, 3),
    seconds and pixels from one token to the next; a batch of 1 is for all samples.

    Raises ValueError when the head size is odd, the width below 6, a stride has no first, or a tensor of cond has
    another shape.
    """

    reads = Reads(optional=("coordinates", "rope_scale", "fps"))

    def __init__(
        self,
        width: int,
        head_dim: int,
        *,
        theta: float,
        extent: dict[str, float],
        stride: dict[str, float] | None,
        first: float | Literal["stride"] | None,
        fps: float,
        pairing: Pairing,
    ) -> None:
        super().__init__()
        if head_dim % 2 or width < 6:
            raise ValueError(f"RoPE needs an even head size and a width of 6 or more, not {head_dim} and {width}")
        if stride is not None and first is None:
            raise ValueError(f"position.stride={stride} wants position.first, the frames that the first token covers")
        self.width, self.head_dim = width, head_dim
        self.theta = theta
        self.extent = extent
        self.pairing = pairing
        # Only where a caller does not say where tokens are: not part of what the network computes (dit.interop).
        self._stride, self._first, self._fps = stride, first, fps
        self._latents: tuple[Compression, Grid] | None = None

    def on_latents(self, compression: Compression, patch: Grid) -> None:
        """Hears which pixels the latents stand for, and how many of them a token takes along (f, h, w)."""
        self._latents = compression, patch

    def rotation(self, coordinates: Coordinates, like: Tensor, cond: Mapping[str, Tensor]) -> Rotation:
        """cos and sin (1 or B, N, heads, head_dim), computed in float32 at least."""
        precise = torch.promote_types(like.dtype, torch.float32)
        where = torch.stack(self.fractions(coordinates, like, cond, precise), dim=-1)  # (B, N, 3)
        pairs = self.width // 6
        exponents = torch.linspace(0, 1, pairs, device=like.device, dtype=precise)
        frequencies = self.theta**exponents * (math.pi / 2)
        angles = ((2 * where - 1).unsqueeze(2) * frequencies[:, None]).flatten(2)  # (B, N, 3 * pairs)
        angles = functional.pad(angles, (self.width // 2 - 3 * pairs, 0))
        cos, sin = self.pairing.tables(angles.unflatten(2, (-1, self.head_dim // 2)))
        return Rotation(cos, sin, self.pairing)

    def fractions(
        self, coordinates: Coordinates, like: Tensor, cond: Mapping[str, Tensor], dtype: torch.dtype
    ) -> list[Tensor]:
        """Where the tokens are along time, height and width, as fractions of the extent, (1 or B, N) each."""
        count = coordinates.num_tokens
        if "coordinates" in cond:
            given = cond["coordinates"]
            if given.dim() != 3 or given.shape[1:] != (3, count):
                raise ValueError(
                    f"cond['coordinates'] has shape {tuple(given.shape)}; it must be (batch, 3, {count} tokens)"
                )
            return [given[:, i].to(dtype) / self.extent[axis] for i, axis in enumerate(AXES)]
        axes = Scaled()(coordinates, like, cond)
        if "rope_scale" not in cond:
            axes = self._in_pixels(axes)
            axes[0] = axes[0] / (coordinates.of_clips(cond["fps"].to(dtype)) if "fps" in cond else self._fps)
        axes = [numbers / self.extent[axis] for numbers, axis in zip(axes, AXES, strict=True)]
        return [numbers.reshape(-1, count) for numbers in torch.broadcast_tensors(*axes)]

    def _in_pixels(self, tokens: list[Tensor]) -> list[Tensor]:
        """Numbers of tokens along each axis -> of the frames, rows and columns of pixels with which they begin."""
        compression, patch = self._latents or (None, (1, 1, 1))
        if self._stride is not None:
            strides = [self._stride[axis] for axis in AXES]
        else:
            strides = [s * p for s, p in zip(compression.stride if compression else (1, 1, 1), patch, strict=True)]
        pixels = [stride * numbers for stride, numbers in zip(strides, tokens, strict=True)]
        if self._first == "stride":
            return pixels
        if self._first is not None:
            pixels[0] = (pixels[0] + self._first - strides[0]).clamp(min=0)
        elif compression is not None:
            pixels[0] = compression.first_frames(patch[0] * tokens[0])
        return pixels
