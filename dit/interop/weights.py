"""Which tensors of two layouts hold the same numbers, and how one becomes the other: exact in both directions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor


class Change(Protocol):
    """How tensors of the other layout become ours, and back."""

    def into(self, theirs: list[Tensor]) -> list[Tensor]:
        """Tensors of a link's `theirs` -> those of its `ours`. Raises ValueError when they cannot be ours."""
        ...

    def back(self, ours: list[Tensor]) -> list[Tensor]:
        """Tensors of a link's `ours` -> those of its `theirs`."""
        ...


@dataclass(frozen=True)
class Same:
    """One tensor, one name each; `shape` is theirs where it differs (a convolution, a table with an axis in front)."""

    shape: tuple[int, ...] | None = None

    def into(self, theirs: list[Tensor]) -> list[Tensor]:
        (tensor,) = theirs
        if self.shape is None:
            return [tensor]
        if tuple(tensor.shape) != self.shape:
            raise ValueError(f"has the shape {tuple(tensor.shape)}, needed {self.shape}")
        return [tensor]  # the network's own shape is given by `Link.load`

    def back(self, ours: list[Tensor]) -> list[Tensor]:
        (tensor,) = ours
        return [tensor if self.shape is None else tensor.reshape(self.shape)]


@dataclass(frozen=True)
class Joined:
    """Ours is theirs one after another along `axis`; `sizes` of theirs, or None: equal ones."""

    count: int
    axis: int = 0
    sizes: tuple[int, ...] | None = None

    def into(self, theirs: list[Tensor]) -> list[Tensor]:
        return [torch.cat(theirs, dim=self.axis)]

    def back(self, ours: list[Tensor]) -> list[Tensor]:
        (tensor,) = ours
        parts = tensor.chunk(self.count, self.axis) if self.sizes is None else tensor.split(self.sizes, self.axis)
        return list(parts)


@dataclass(frozen=True)
class Split:
    """Theirs is ours one after another along `axis`, with these `sizes`: the reverse of `Joined`."""

    sizes: tuple[int, ...]
    axis: int = 0

    def into(self, theirs: list[Tensor]) -> list[Tensor]:
        (tensor,) = theirs
        if tensor.shape[self.axis] != sum(self.sizes):
            raise ValueError(f"has the shape {tuple(tensor.shape)}, needed {sum(self.sizes)} along axis {self.axis}")
        return list(tensor.split(self.sizes, self.axis))

    def back(self, ours: list[Tensor]) -> list[Tensor]:
        return [torch.cat(ours, dim=self.axis)]


@dataclass(frozen=True)
class Reordered:
    """ours = theirs taken in another `order` along `axis` (patch values in another order, scale before shift).

    shape: of theirs before, where it is not that of a matrix or vector: it is flattened after its first axis.
    """

    order: tuple[int, ...]
    axis: int = 0

    def into(self, theirs: list[Tensor]) -> list[Tensor]:
        (tensor,) = theirs
        if tensor.dim() <= self.axis or tensor.shape[self.axis] != len(self.order):
            raise ValueError(f"has the shape {tuple(tensor.shape)}, needed {len(self.order)} along axis {self.axis}")
        return [tensor.index_select(self.axis, torch.tensor(self.order, device=tensor.device))]

    def back(self, ours: list[Tensor]) -> list[Tensor]:
        (tensor,) = ours
        inverse = torch.empty(len(self.order), dtype=torch.long)
        inverse[torch.tensor(self.order)] = torch.arange(len(self.order))
        return [tensor.index_select(self.axis, inverse.to(tensor.device))]


@dataclass(frozen=True)
class Copies:
    """Theirs holds our one tensor `count` times; copies that differ cannot be ours."""

    count: int

    def into(self, theirs: list[Tensor]) -> list[Tensor]:
        if any(not torch.equal(copy, theirs[0]) for copy in theirs[1:]):
            raise ValueError(f"should be one tensor {self.count} times, but its copies differ")
        return theirs[:1]

    def back(self, ours: list[Tensor]) -> list[Tensor]:
        return [ours[0].clone() for _ in range(self.count)]


@dataclass(frozen=True)
class Link:
    """Tensors of ours and of theirs that hold the same numbers, and the change between them."""

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    change: Change = field(default_factory=Same)


def linear(ours: str, theirs: str, *, bias: bool = True) -> list[Link]:
    """Weight (and bias) of one Linear under two names."""
    return [Link((f"{ours}.{kind}",), (f"{theirs}.{kind}",)) for kind in kinds(bias)]


def joined_linear(ours: str, theirs: Sequence[str], *, bias: bool = True) -> list[Link]:
    """Our one Linear that computes what several Linears of theirs compute, one after another (q, k and v)."""
    count = len(theirs)
    return [
        Link((f"{ours}.{kind}",), tuple(f"{name}.{kind}" for name in theirs), Joined(count)) for kind in kinds(bias)
    ]


def convolution(ours: str, theirs: str, shape: tuple[int, ...], *, bias: bool = True) -> list[Link]:
    """Our Linear on patches, their convolution whose stride is its kernel; shape: of its weight (out, in, ...)."""
    weight = Link((f"{ours}.weight",), (f"{theirs}.weight",), Same(shape))
    return [weight, Link((f"{ours}.bias",), (f"{theirs}.bias",))] if bias else [weight]


def reordered_linear(ours: str, theirs: str, order: Iterable[int], *, bias: bool = True) -> list[Link]:
    """A Linear whose outputs stand in another order: ours[i] = theirs[order[i]]."""
    change = Reordered(tuple(order))
    return [Link((f"{ours}.{kind}",), (f"{theirs}.{kind}",), change) for kind in kinds(bias)]


def kinds(bias: bool) -> tuple[str, ...]:
    return ("weight", "bias") if bias else ("weight",)


def channels_first(channels: int, patch: tuple[int, int, int]) -> tuple[int, ...]:
    """The order that takes patch outputs (C, f, h, w) to ours, (f, h, w, C)."""
    volume = patch[0] * patch[1] * patch[2]
    return tuple(torch.arange(channels * volume).view(channels, volume).T.flatten().tolist())


def swapped_halves(size: int) -> tuple[int, ...]:
    """The order of two halves the other way round: scale and shift instead of shift and scale."""
    return (*range(size // 2, size), *range(size // 2))


def to_ours(links: Sequence[Link], theirs: Mapping[str, Tensor], shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """Tensors of the other layout -> ours.

    shapes: of ours. Raises ValueError, naming their key, when one is missing, left over or of a wrong shape.
    """
    ours: dict[str, Tensor] = {}
    for link in links:
        absent = [key for key in link.theirs if key not in theirs]
        if absent:
            raise ValueError(f"{absent[0]} is missing")
        try:
            tensors = link.change.into([theirs[key] for key in link.theirs])
        except (ValueError, RuntimeError) as error:
            raise ValueError(f"{', '.join(link.theirs)}: {str(error).splitlines()[0]}") from None
        for key, tensor in zip(link.ours, tensors, strict=True):
            wanted = shapes[key]
            if tensor.shape != wanted and not (isinstance(link.change, Same) and tensor.numel() == wanted.numel()):
                raise ValueError(
                    f"{', '.join(link.theirs)} has the shape {tuple(theirs[link.theirs[0]].shape)}, which does not give"
                    f" {key} {tuple(wanted)}"
                )
            ours[key] = tensor.reshape(wanted)
    known = {key for link in links for key in link.theirs}
    if left := sorted(set(theirs) - known):
        raise ValueError(
            f"{left[0]} has no place in this network{f', nor have {len(left) - 1} more' * (len(left) > 1)}"
        )
    return ours


def to_theirs(links: Sequence[Link], ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors -> those of the other layout, contiguous."""
    theirs: dict[str, Tensor] = {}
    for link in links:
        tensors = link.change.back([ours[key] for key in link.ours])
        theirs |= {key: tensor.contiguous() for key, tensor in zip(link.theirs, tensors, strict=True)}
    return theirs
