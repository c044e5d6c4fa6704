"""Rotary position embedding (RoFormer, arXiv 2104.09864): pairs of channels, rotated by angles of the position."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from dit.net.patches import nearest


class Pairing(Protocol):
    """Which channels of a head form the pairs that are rotated."""

    def tables(self, angles: Tensor) -> tuple[Tensor, Tensor]:
        """Angles (N, d / 2) of the pairs -> cos and signed sin of the channels, (N, d) each."""
        ...

    def partner(self, x: Tensor) -> Tensor:
        """x (..., d) with the two channels of each pair exchanged."""
        ...


@dataclass(frozen=True)
class HalfSplit:
    """Channel i is paired with channel i + d/2 (GPT-NeoX, Cosmos)."""

    def tables(self, angles: Tensor) -> tuple[Tensor, Tensor]:
        cos, sin = angles.cos(), angles.sin()
        return torch.cat([cos, cos], dim=-1), torch.cat([-sin, sin], dim=-1)

    def partner(self, x: Tensor) -> Tensor:
        return x.roll(x.shape[-1] // 2, dims=-1)


@dataclass(frozen=True)
class Interleaved:
    """Channel 2i is paired with channel 2i + 1 (RoFormer, Wan, CogVideoX, HunyuanVideo, LTX)."""

    def tables(self, angles: Tensor) -> tuple[Tensor, Tensor]:
        cos, sin = angles.cos(), angles.sin()
        return torch.stack([cos, cos], dim=-1).flatten(-2), torch.stack([-sin, sin], dim=-1).flatten(-2)

    def partner(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)


@dataclass(frozen=True)
class HalfSplitParts:
    """A head is cut into equal parts, and in each of them channel i is paired with channel i + half a part (Allegro).

    parts: how many; as many as axes that share the pairs equally make each axis a rotation of its own.
    Raises ValueError for a head that cannot be cut into so many.
    """

    parts: int

    def tables(self, angles: Tensor) -> tuple[Tensor, Tensor]:
        head_dim, step = 2 * angles.shape[-1], 2 * self.parts
        if head_dim % step:
            raise ValueError(
                f"a head of {head_dim} channels is not {self.parts} equal parts of pairs; nearest:"
                f" {nearest(head_dim, step)} (net.width / net.heads), or choose net/position=rope3d"
            )
        angles = angles.unflatten(-1, (self.parts, -1))
        cos, sin = angles.cos(), angles.sin()
        return torch.cat([cos, cos], dim=-1).flatten(-2), torch.cat([-sin, sin], dim=-1).flatten(-2)

    def partner(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.parts, 2, -1)).flip(-2).flatten(-3)


@dataclass(frozen=True, eq=False)  # eq would hash tensors, which torch.compile cannot trace
class Rotation:
    """The angles of one forward pass, ready to apply.

    cos and sin: (1 or B, N, 1 or heads, head_dim); samples and heads share them or have angles of their own.
    """

    cos: Tensor
    sin: Tensor
    pairing: Pairing

    def rotate(self, x: Tensor) -> Tensor:
        """q or k (B, N, heads, head_dim) -> the same, rotated: (a, b) -> (a cos - b sin, b cos + a sin)."""
        return torch.addcmul(x * self.cos, self.pairing.partner(x), self.sin)
