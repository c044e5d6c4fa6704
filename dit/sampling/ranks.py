"""Several processes that sample together, as torchrun starts them: each makes some of the batches."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch.distributed as dist

T = TypeVar("T")
PATIENCE = timedelta(days=7)  # the first rank may be done long before the last


@dataclass(frozen=True)
class Ranks:
    """This process, number `rank` of `size`."""

    rank: int
    size: int

    def share(self, work: Sequence[T]) -> list[T]:
        """What of the work is this rank's."""
        return list(work[self.rank :: self.size])

    def first(self, make: Callable[[], T]) -> T:
        """What the first rank makes, on all ranks. Where it fails it says why, and all end."""
        if self.size == 1:
            return make()
        said: list[T | None] = [None]
        try:
            if self.rank == 0:
                said = [make()]
        finally:
            dist.broadcast_object_list(said)
        if said[0] is None:
            sys.exit(2)
        return said[0]

    def gather(self, own: T) -> list[T]:
        """What each rank has, on all ranks, in their order: plain values, or tensors on the CPU."""
        if self.size == 1:
            return [own]
        found: list[T | None] = [None] * self.size
        dist.all_gather_object(found, own)
        return [each for each in found if each is not None]

    def wait(self) -> None:
        """Until all ranks are here."""
        if self.size > 1:
            dist.barrier()


@contextmanager
def together() -> Iterator[Ranks]:
    """The ranks that torchrun started, or this process alone. They speak through the CPU (gloo)."""
    rank, size = (int(os.environ.get(name, default)) for name, default in (("RANK", 0), ("WORLD_SIZE", 1)))
    if size == 1:
        yield Ranks(0, 1)
        return
    dist.init_process_group("gloo", timeout=PATIENCE)
    try:
        yield Ranks(rank, size)
    finally:
        dist.destroy_process_group()
