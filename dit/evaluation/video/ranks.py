"""What the measures ask of processes that share the clips, as torchrun starts them."""

from __future__ import annotations

from typing import Protocol, TypeVar

T = TypeVar("T")


class Ranks(Protocol):
    """`dit.sampling.ranks.Ranks` is one."""

    def gather(self, own: T) -> list[T]:
        """What each of them has, on all of them, in the order of their ranks."""
        ...
