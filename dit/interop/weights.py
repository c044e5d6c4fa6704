"""Which tensors of two layouts hold the same numbers, and how to convert them, exactly, in both directions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor


class Change(Protocol):
    """A conversion between tensors of the other layout and ours."""

    def into(self, theirs: list[Tensor]) -> list[Tensor]:
        """Tensors of a link's `theirs`, of the shapes that `back` gives, -> those of its `ours`.

        The caller reshapes the result to the network's shape. Tensors may be on the meta device. Raises ValueError for
        values that ours cannot hold.
        """
        ...

    def back(self, ours: list[Tensor]) -> list[Tensor]:
        """Tensors of a link's `ours` -> those of its `theirs`."""
        ...


@dataclass(frozen=True)
class Same:
    """One tensor of each. shape: of theirs, where it is another one (a convolution, a table with a leading axis)."""

    shape: tuple[int, ...] | None = None

    def into(self, theirs: list[Tensor]) -> list[Tensor]:
        return theirs

    def back(self, ours: list[Tensor]) -> list[Tensor]:
        (tensor,) = ours
        return [tensor if self.shape is None else tensor.reshape(self.shape)]


@dataclass(frozen=True)
class Joined:
    """Ours is the concatenation of theirs along `axis`. sizes: of theirs along it; None: equal ones."""

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
    """Theirs is the concatenation of ours along `axis`, with these `sizes`: the reverse of `Joined`."""

    sizes: tuple[int, ...]
    axis: int = 0

    def into(self, theirs: list[Tensor]) -> list[Tensor]:
        (tensor,) = theirs
        return list(tensor.split(self.sizes, self.axis))

    def back(self, ours: list[Tensor]) -> list[Tensor]:
        return [torch.cat(ours, dim=self.axis)]


@dataclass(frozen=True)
class Reordered:
    """ours[i] = theirs[order[i]] along `axis` (patch values in another order, scale before shift)."""

    order: tuple[int, ...]
    axis: int = 0

    def into(self, theirs: list[Tensor]) -> list[Tensor]:
        (tensor,) = theirs
        return [tensor.index_select(self.axis, torch.tensor(self.order, device=tensor.device))]

    def back(self, ours: list[Tensor]) -> list[Tensor]:
        (tensor,) = ours
        inverse = torch.empty(len(self.order), dtype=torch.long)
        inverse[torch.tensor(self.order)] = torch.arange(len(self.order))
        return [tensor.index_select(self.axis, inverse.to(tensor.device))]


@dataclass(frozen=True)
class Copies:
    """Theirs has `count` equal copies of our one tensor."""

    count: int

    def into(self, theirs: list[Tensor]) -> list[Tensor]:
        if not theirs[0].is_meta and any(not torch.equal(copy, theirs[0]) for copy in theirs[1:]):
            raise ValueError(f"must have {self.count} equal copies, and they differ")
        return theirs[:1]

    def back(self, ours: list[Tensor]) -> list[Tensor]:
        return [ours[0].clone() for _ in range(self.count)]


@dataclass(frozen=True)
class Link:
    """Tensors of ours and of theirs that hold the same numbers, and the conversion between them."""

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    change: Change = field(default_factory=Same)


def linear(ours: str, theirs: str, *, bias: bool = True) -> list[Link]:
    """Weight (and bias) of one Linear under two names."""
    return [Link((f"{ours}.{kind}",), (f"{theirs}.{kind}",)) for kind in kinds(bias)]


def joined_linear(ours: str, theirs: Sequence[str], *, bias: bool = True) -> list[Link]:
    """One Linear of ours whose outputs are those of several Linears of theirs, in this order (q, k and v)."""
    count = len(theirs)
    return [
        Link((f"{ours}.{kind}",), tuple(f"{name}.{kind}" for name in theirs), Joined(count)) for kind in kinds(bias)
    ]


def convolution(ours: str, theirs: str, shape: tuple[int, ...], *, bias: bool = True) -> list[Link]:
    """Our Linear on patches is their convolution with stride = kernel. shape: of its weight (out, in, ...)."""
    weight = Link((f"{ours}.weight",), (f"{theirs}.weight",), Same(shape))
    return [weight, Link((f"{ours}.bias",), (f"{theirs}.bias",))] if bias else [weight]


def reordered_linear(ours: str, theirs: str, order: Iterable[int], *, bias: bool = True) -> list[Link]:
    """A Linear whose outputs have another order: ours[i] = theirs[order[i]]."""
    change = Reordered(tuple(order))
    return [Link((f"{ours}.{kind}",), (f"{theirs}.{kind}",), change) for kind in kinds(bias)]


def kinds(bias: bool) -> tuple[str, ...]:
    return ("weight", "bias") if bias else ("weight",)


def channels_first(channels: int, patch: tuple[int, int, int]) -> tuple[int, ...]:
    """The order of `Reordered` from patch outputs (C, f, h, w) to ours, (f, h, w, C)."""
    volume = patch[0] * patch[1] * patch[2]
    return tuple(torch.arange(channels * volume).view(channels, volume).T.flatten().tolist())


def channels_last(channels: int, patch: tuple[int, int, int]) -> tuple[int, ...]:
    """The order of `Reordered` from patch inputs (f, h, w, C) to ours, (C, f, h, w)."""
    volume = patch[0] * patch[1] * patch[2]
    return tuple(torch.arange(volume * channels).view(volume, channels).T.flatten().tolist())


def swapped_halves(size: int) -> tuple[int, ...]:
    """The order of `Reordered` that exchanges two halves: scale and shift become shift and scale."""
    return (*range(size // 2, size), *range(size // 2))


class Misfit(ValueError):
    """A tensor of the other layout that does not fit the network. key: its name there."""

    def __init__(self, key: str, what: str) -> None:
        super().__init__(f"{key} {what}")
        self.key = key


def to_ours(links: Sequence[Link], theirs: Mapping[str, Tensor], shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """Tensors of the other layout -> ours.

    shapes: of ours. Raises Misfit, naming their key, when one is missing, left over or of a wrong shape.
    """
    known = {key for link in links for key in link.theirs}
    if left := sorted(set(theirs) - known):
        raise Misfit(left[0], f"has no place in this network{f', nor have {len(left) - 1} more' * (len(left) > 1)}")
    if absent := [key for link in links for key in link.theirs if key not in theirs]:
        raise Misfit(absent[0], f"is missing{f', and {len(absent) - 1} more' * (len(absent) > 1)}")
    return dict(translated(links, theirs, shapes))


def translated(
    links: Sequence[Link], theirs: Mapping[str, Tensor], shapes: Mapping[str, torch.Size]
) -> Iterator[tuple[str, Tensor]]:
    """(our name, tensor), link by link; only the tensors of one link are in memory at a time.

    theirs: must have every name of the links. On the meta device it is a check of all shapes. Raises as `to_ours`.
    """
    for link in links:
        given = [theirs[key] for key in link.theirs]
        # Theirs must have the shapes that `back` makes of ours.
        wanted = link.change.back([torch.empty(shapes[key], device="meta") for key in link.ours])
        for key, tensor, like in zip(link.theirs, given, wanted, strict=True):
            if tensor.shape != like.shape:
                raise Misfit(key, f"has the shape {tuple(tensor.shape)}, needed {tuple(like.shape)}")
            if not tensor.is_floating_point() or tensor.element_size() < 2:
                raise Misfit(key, "holds whole numbers or 8-bit floats: quantised weights are not supported")
        try:
            tensors = link.change.into(given)
        except ValueError as error:
            raise Misfit(link.theirs[0], f"cannot become {link.ours[0]}: it {error}") from None
        for key, tensor in zip(link.ours, tensors, strict=True):
            yield key, tensor.reshape(shapes[key])


def to_theirs(links: Sequence[Link], ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors -> those of the other layout, contiguous."""
    theirs: dict[str, Tensor] = {}
    for link in links:
        tensors = link.change.back([ours[key] for key in link.ours])
        theirs |= {key: tensor.contiguous() for key, tensor in zip(link.theirs, tensors, strict=True)}
    return theirs
