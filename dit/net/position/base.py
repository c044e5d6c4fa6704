"""What tokens are told of their coordinates. Every kind works on any grid; nothing is cached or stored but weights.

A position adds a table to the tokens (`add`), or gives the rotation that attention applies to queries and keys
(`rotation`). Positions have unit scale from the first step: tokens whose positions start small are told apart too late.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from dit.net.coordinates import AXES, Coordinates
from dit.net.patches import Grid
from dit.net.position.rotary import Rotation
from dit.net.reads import Reads, union

MOST_PAIRS = 4096  # of channels; no head has as many


class Compression(Protocol):
    """Which pixels the latents of a codec stand for: `dit.codec.compression`, as far as positions ask it."""

    @property
    def stride(self) -> tuple[int, int, int]:
        """(f, h, w), pixels per latent."""
        ...

    @property
    def lead(self) -> int:
        """Latent frames in front that stand for no pixels."""
        ...

    def first_frames(self, latents: Tensor) -> Tensor:
        """Numbers of the pixel frames with which latent frames begin."""
        ...


class Position(nn.Module):
    """Base of the positions, whose methods change nothing. reads: the keys of cond that `rotation` reads."""

    reads = Reads()

    def add(self, x: Tensor, coordinates: Coordinates) -> Tensor:
        """Tokens (B, N, width) -> tokens with their absolute positions."""
        return x

    def rotation(self, coordinates: Coordinates, like: Tensor, cond: Mapping[str, Tensor]) -> Rotation | None:
        """What rotates the queries and keys of the tokens, on the device and for the dtype of `like`, or None."""
        return None

    def offset(self, coordinates: Coordinates, like: Tensor) -> Tensor | None:
        """(1, N, width) that every block adds to its video tokens, or None."""
        return None

    def on_latents(self, compression: Compression, patch: Grid) -> None:
        """Hears which pixels the latents stand for, and how many of them a token takes along (f, h, w)."""


class NoPosition(Position):
    """Tokens do not know where they are."""

    def __init__(self, width: int, head_dim: int) -> None:
        super().__init__()


class Several(Position):
    """Positions of several kinds together: what they add is added up; at most one of them rotates.

    parts: name -> position.
    """

    def __init__(self, width: int, head_dim: int, *, parts: dict[str, Callable[[int, int], Position]]) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({name: part(width, head_dim) for name, part in parts.items()})
        self.reads = union(self.parts.values())

    def add(self, x: Tensor, coordinates: Coordinates) -> Tensor:
        """x (B, N, width) -> the same with all that is added."""
        for part in self._parts():
            x = part.add(x, coordinates)
        return x

    def rotation(self, coordinates: Coordinates, like: Tensor, cond: Mapping[str, Tensor]) -> Rotation | None:
        """That of the part that has one. Raises ValueError when two have."""
        found = [own for part in self._parts() if (own := part.rotation(coordinates, like, cond)) is not None]
        if len(found) > 1:
            raise ValueError(f"position.parts={list(self.parts)} holds {len(found)} rotations; one is the most")
        return found[0] if found else None

    def offset(self, coordinates: Coordinates, like: Tensor) -> Tensor | None:
        """(1, N, width), the sum, or None."""
        found = [own for part in self._parts() if (own := part.offset(coordinates, like)) is not None]
        return sum(found[1:], start=found[0]) if found else None

    def on_latents(self, compression: Compression, patch: Grid) -> None:
        """All parts hear it."""
        for part in self._parts():
            part.on_latents(compression, patch)

    def _parts(self) -> list[Position]:
        return list(self.parts.values())  # type: ignore[arg-type]


def each_axis(scale: dict[str, float]) -> dict[str, float]:
    """`scale` itself. Raises ValueError where it does not name every axis and no other."""
    if set(scale) != set(AXES):
        raise ValueError(f"scale={scale} must give a number to each of {', '.join(AXES)}; 1.0 leaves an axis as it is")
    return scale


def half(size: int, what: str) -> int:
    """The pairs of `size` channels. Raises ValueError when it is odd; `what` says who needs it even."""
    if size % 2:
        raise ValueError(f"{what}, not {size}; nearest: {size - 1}, {size + 1}")
    return size // 2


def split_pairs(pairs: int, split: dict[str, float], what: str) -> dict[str, int]:
    """Shares out `pairs` pairs of channels over the axes of `split`: shares rounded down, the rest to the first axis.

    Raises ValueError when an axis would get none.
    """
    if not split or any(axis not in AXES or not 0 < share < math.inf for axis, share in split.items()):
        raise ValueError(f"{what}: split={split} must give positive shares to axes among {', '.join(AXES)}")
    total, first = sum(split.values()), next(iter(split))

    def share_out(n: int) -> dict[str, int]:
        shared = {axis: math.floor(n * share / total + 1e-9) for axis, share in split.items()}
        shared[first] += n - sum(shared.values())
        return shared

    if min(share_out(pairs).values()) < 1:
        fitting = next((n for n in range(pairs + 1, MOST_PAIRS) if min(share_out(n).values()) > 0), None)
        nearest = "its shares are too far apart" if fitting is None else f"nearest size: {2 * fitting}"
        raise ValueError(f"{what} has {pairs} pairs of channels, too few for split={split}; {nearest}")
    return share_out(pairs)


def frequencies(pairs: int, theta: float | Tensor, like: Tensor) -> Tensor:
    """theta^(-i / pairs) for i < pairs: (pairs,), or (N, pairs) for theta (N,)."""
    theta = theta.unsqueeze(-1) if isinstance(theta, Tensor) else theta
    return theta ** -(torch.arange(pairs, device=like.device, dtype=like.dtype) / max(pairs, 1))
