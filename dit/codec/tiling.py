"""Clips coded in overlapping tiles that are blended, so that memory does not grow with their size.

One implementation for all codecs. Those of diffusers' classes that tile by themselves do it in five ways: most leave
out time, one ignores what it is told, and one knows pictures of four latent channels alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise, product

import torch
from torch import Tensor

from dit.codec.compression import AXES, Compression
from dit.config.limits import Count, Share

Span = tuple[int, int]  # first, and one behind the last
Code = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Tiling:
    """How a clip is cut into tiles.

    num_frames, height, width: of a tile, in pixels, rounded down to whole latents; null: that axis is not cut.
    overlap: share of a tile that it has in common with the next one along each axis that is cut, at least one latent
      unless 0. There the two are blended: the nearer a place is to the edge of a tile, the less that tile counts.

    A codec that looks aside sees less at the edge of a tile, and one that computes something of all places together
    (norms over a picture, attention) computes it of each tile: tiles are near to the whole, not equal to it.
    In time a tile of a causal codec is coded as a clip with one more latent frame in front, which is then left out.

    Raises ValueError when no axis is cut, or the overlap is more than half a tile.
    """

    num_frames: Count | None
    height: Count | None
    width: Count | None
    overlap: Share

    def __post_init__(self) -> None:
        if self.sizes == (None, None, None):
            raise ValueError("this tiling cuts no axis: give num_frames, height or width of a tile, or tiling=none")
        if self.overlap > 0.5:
            raise ValueError(
                f"tiling.overlap={self.overlap} must be at most 0.5, since tiles have a neighbour on each side"
            )

    @property
    def sizes(self) -> tuple[int | None, int | None, int | None]:
        """Of a tile, in pixels: num_frames, height, width."""
        return self.num_frames, self.height, self.width

    def encode(self, pixels: Tensor, compression: Compression, code: Code) -> Tensor:
        """Pixels (B, 3, num_frames, height, width) -> latents (B, any, F, H, W), by `code` for each tile."""
        shape = compression.latent_shape(*pixels.shape[2:])
        return self._blended(pixels, shape, shape, compression, code, _in_pixels, _in_latents)

    def decode(self, latents: Tensor, compression: Compression, code: Code) -> Tensor:
        """Latents (B, C, F, H, W) -> pixels (B, any, num_frames, height, width), by `code` for each tile."""
        frames, height, width = latents.shape[2:]
        shape = compression.pixel_shape(frames, height, width)
        return self._blended(latents, (frames, height, width), shape, compression, code, _in_latents, _in_pixels)

    def _blended(
        self,
        x: Tensor,
        latents: tuple[int, int, int],
        shape: tuple[int, int, int],
        compression: Compression,
        code: Code,
        read: Callable[[Compression, int, Span], Span],
        written: Callable[[Compression, int, Span], Span],
    ) -> Tensor:
        """x coded tile by tile into `shape`.

        latents: how many there are along each axis. read, written: where x and the result hold a span of them.
        """
        spans = self.spans(latents, compression)
        places = [[written(compression, axis, span) for span in spans[axis]] for axis in range(3)]
        shares = [_shares(each, size, x.device) for each, size in zip(places, shape, strict=True)]
        out: Tensor | None = None
        for tile in product(*(range(len(each)) for each in spans)):
            f, h, w = (spans[axis][i] for axis, i in enumerate(tile))
            before = int(compression.causal and f[0] > 0)  # a latent frame of one pixel frame, as clips begin with
            (f0, f1), rows, columns = read(compression, 0, f), read(compression, 1, h), read(compression, 2, w)
            piece = code(x[:, :, f0 - before : f1, slice(*rows), slice(*columns)])[:, :, before:]
            piece = piece.to(torch.promote_types(piece.dtype, torch.float32))
            share = torch.ones((), device=x.device)
            for axis, i in enumerate(tile):
                share = share[..., None] * shares[axis][i]
            if out is None:
                out = piece.new_zeros(len(piece), piece.shape[1], *shape)
            a, b, c = (slice(*places[axis][i]) for axis, i in enumerate(tile))
            out[:, :, a, b, c] += piece * share.to(piece.dtype)
        assert out is not None
        return out

    def spans(self, latents: Sequence[int], compression: Compression) -> list[list[Span]]:
        """The tiles along each axis, in latents. All are of one size: the last one begins earlier.

        Raises ValueError for a tile that is smaller than a latent.
        """
        found = []
        for name, size, length, stride in zip(AXES, self.sizes, latents, compression.stride, strict=True):
            if size is not None and size < stride:
                raise ValueError(f"tiling.{name}={size} is less than the {stride} of a latent; nearest: {stride}")
            tile = length if size is None else min(size // stride, length)
            shared = min(max(1, round(self.overlap * tile)), tile - 1) if self.overlap else 0
            starts = [*range(0, length - tile, tile - shared), length - tile]
            found.append([(start, start + tile) for start in starts])
        return found


def _in_latents(compression: Compression, axis: int, span: Span) -> Span:
    return span


def _in_pixels(compression: Compression, axis: int, span: Span) -> Span:
    if axis == 0:
        return compression.first_frame(span[0]), compression.first_frame(span[1])
    return span[0] * compression.stride[axis], span[1] * compression.stride[axis]


def _shares(spans: Sequence[Span], size: int, device: torch.device) -> list[Tensor]:
    """How much of each place comes from each span that holds it: ramps where spans meet, together 1."""
    ramps = [torch.ones(stop - start, device=device) for start, stop in spans]
    for (before, after), ((_, stop), (start, _)) in zip(pairwise(ramps), pairwise(spans), strict=True):
        if (shared := stop - start) > 0:
            rising = (torch.arange(shared, device=device) + 0.5) / shared
            after[:shared] *= rising
            before[-shared:] *= rising.flip(0)
    whole = torch.zeros(size, device=device)
    for ramp, (start, stop) in zip(ramps, spans, strict=True):
        whole[start:stop] += ramp
    return [ramp / whole[start:stop] for ramp, (start, stop) in zip(ramps, spans, strict=True)]
