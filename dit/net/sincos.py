"""Sinusoids added to the tokens, for grids that are not those of training: fitted to a range, or for clips alone."""

from torch import Tensor

from dit.net.embed import Grid
from dit.net.position import SinCos3D


class FittedSinCos(SinCos3D):
    """Positions that fill the range of training on any grid, so that a finer grid has positions between (diffusers'
    PatchEmbed, of its DiT and Latte).

    reference: axis -> tokens along it in training. A token of an axis with n tokens is at place * reference / n; an
    axis that is not named, and null, as in `SinCos3D`. The other arguments are those of `SinCos3D`.
    """

    def unit(self, axis: str, length: int) -> float:
        """Tokens from one whole position to the next."""
        return self.scale[axis] * length / (self.reference or {}).get(axis, length)


class ClipSinCos(SinCos3D):
    """Positions for clips alone: a single frame, an image, gets none (diffusers' Latte)."""

    def add(self, x: Tensor, grid: Grid) -> Tensor:
        """x (B, N, width) -> x + table (N, width), or x itself where the grid has one frame."""
        return x if grid[0] == 1 else super().add(x, grid)
