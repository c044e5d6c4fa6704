"""Rotary position embedding (RoFormer, arXiv 2104.09864): pairs of channels, rotated by angles of the position."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from dit.net.patches import nearest


class Pairing(ABC):
    """Which channels of a head form the pairs that are rotated."""

    def tables(self, angles: Tensor) -> tuple[Tensor, Tensor]:
        """Angles (N, d / 2) of the pairs -> cos and signed sin of the channels, (N, d) each."""
        cos, sin = angles.cos(), angles.sin()
        return self.join(cos, cos), self.join(-sin, sin)

    @abstractmethod
    def join(self, first: Tensor, second: Tensor) -> Tensor:
        """First and second channels of all pairs, (..., d / 2) each -> the channels of a head (..., d)."""

    @abstractmethod
    def partner(self, x: Tensor) -> Tensor:
        """x (..., d) with the two channels of each pair exchanged."""


@dataclass(frozen=True)
class HalfSplit(Pairing):
    """Channel i is paired with channel i + d/2 (GPT-NeoX, Cosmos)."""

    def join(self, first: Tensor, second: Tensor) -> Tensor:
        return torch.cat([first, second], dim=-1)

    def partner(self, x: Tensor) -> Tensor:
        return x.roll(x.shape[-1] // 2, dims=-1)


@dataclass(frozen=True)
class Interleaved(Pairing):
    """Channel 2i is paired with channel 2i + 1 (RoFormer, Wan, CogVideoX, HunyuanVideo, LTX)."""

    def join(self, first: Tensor, second: Tensor) -> Tensor:
        return torch.stack([first, second], dim=-1).flatten(-2)

    def partner(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)


@dataclass(frozen=True)
class HalfSplitParts(Pairing):
    """A head is cut into equal parts, and in each of them channel i is paired with channel i + half a part (Allegro).

    parts: how many; as many as axes that share the pairs equally make each axis a rotation of its own.
    Raises ValueError for a head that cannot be cut into so many.
    """

    parts: int

    def join(self, first: Tensor, second: Tensor) -> Tensor:
        head_dim, step = 2 * first.shape[-1], 2 * self.parts
        if head_dim % step:
            raise ValueError(
                f"a head of {head_dim} channels is not {self.parts} equal parts of pairs; nearest:"
                f" {nearest(head_dim, step)} (net.width / net.heads), or choose net/position=rope3d"
            )
        halves = [each.unflatten(-1, (self.parts, -1)) for each in (first, second)]
        return torch.cat(halves, dim=-1).flatten(-2)

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
