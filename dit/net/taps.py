"""Looking at, and leaving out, single blocks of a network from outside, for one stretch of code.

Both replace the object that runs the network's blocks, so neither the blocks nor `forward` know of it, and compiled or
checkpointed blocks stay what they are.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from torch import Tensor, nn

from dit.net.checkpointing import Checkpointing, Streams
from dit.net.context import Context

if TYPE_CHECKING:
    from dit.net.backbone import Backbone


class Tap:
    """Keeps the video tokens that one block puts out.

    tokens: (B, N, width) of the latest forward pass, with their graph; ValueError before there was one.
    """

    def __init__(self, runner: Checkpointing, block: int) -> None:
        self.runner, self.block = runner, block
        self.kept: Tensor | None = None

    def __call__(self, index: int, block: nn.Module, video: Tensor, text: Tensor | None, context: Context) -> Streams:
        """The block's output."""
        video, text = self.runner(index, block, video, text, context)
        if index == self.block:
            self.kept = video
        return video, text

    @property
    def tokens(self) -> Tensor:
        if self.kept is None:
            raise ValueError(f"block {self.block} has not run yet: call the network inside of `tapped`")
        return self.kept


class Skip:
    """Passes the streams by some blocks, as if they were not there."""

    def __init__(self, runner: Checkpointing, blocks: Collection[int]) -> None:
        self.runner, self.blocks = runner, frozenset(blocks)

    def __call__(self, index: int, block: nn.Module, video: Tensor, text: Tensor | None, context: Context) -> Streams:
        """The block's output, or its input where it is left out."""
        return (video, text) if index in self.blocks else self.runner(index, block, video, text, context)


@contextmanager
def tapped(net: Backbone, block: int) -> Iterator[Tap]:
    """Within: the output of one block, counted from 0, is kept in `tap.tokens` (REPA, arXiv 2410.06940)."""
    check(net, [block])
    tap = Tap(net.checkpointing, block)
    with runner(net, tap):
        yield tap


@contextmanager
def skipping(net: Backbone, blocks: Collection[int]) -> Iterator[None]:
    """Within: the network is without these blocks, counted from 0 (skip-layer guidance, arXiv 2411.18664)."""
    check(net, blocks)
    with runner(net, Skip(net.checkpointing, blocks)):
        yield


@contextmanager
def runner(net: Backbone, own: Checkpointing) -> Iterator[None]:
    """Within: `own` runs the blocks."""
    before = net.checkpointing
    net.checkpointing = own
    try:
        yield
    finally:
        net.checkpointing = before


def check(net: Backbone, blocks: Collection[int]) -> None:
    """Raises ValueError for a block that the network does not have."""
    for block in blocks:
        if block not in range(len(net.blocks)):
            raise ValueError(f"block {block} is not in this network: its blocks are 0 to {len(net.blocks) - 1}")
