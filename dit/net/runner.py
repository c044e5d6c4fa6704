"""The object that runs the blocks and has them all in hand, and runners that stand around another for a while.

A network's own runner (`KeepAll`, `EveryNth`; the config's `checkpointing`) decides what is kept for the backward pass.
One that is put around it from outside looks at a block's output, leaves blocks out, or does what else needs more than
one block at a time. Neither the blocks nor `Backbone.forward` know which: compiled, sharded or recomputed blocks stay
what they are.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dit.net.context import Context

Streams = tuple[Tensor, Tensor | None]  # video (B, N, width), text (B, L, any) or None
Blocks = Mapping[int, nn.Module]  # number in the network, from 0 -> block, in the order in which they run


class Runner(Protocol):
    """Runs blocks on the streams, each with what comes out of the one before it."""

    def __call__(self, blocks: Blocks, streams: Streams, context: Context) -> Streams:
        """The streams that come out of the last block. A block is called as block(video, text, context)."""
        ...


class KeepAll:
    """Keep all activations: fastest."""

    def __call__(self, blocks: Blocks, streams: Streams, context: Context) -> Streams:
        for block in blocks.values():
            streams = block(*streams, context)
        return streams


class EveryNth:
    """Run every n-th block twice and keep only its input (arXiv 1604.06174). every=1: all blocks; the least memory."""

    def __init__(self, every: int) -> None:
        if every < 1:
            raise ValueError(f"every={every} must be at least 1 (every block); for none: net/checkpointing=none")
        self.every = every

    def __call__(self, blocks: Blocks, streams: Streams, context: Context) -> Streams:
        """Gradients are those of KeepAll."""
        for index, block in blocks.items():
            if index % self.every:
                streams = block(*streams, context)
            else:
                streams = checkpoint(block, *streams, context, use_reentrant=False)
        return streams


class HasRunner(Protocol):
    """A network whose blocks can be run in another way (`Backbone`)."""

    blocks: nn.ModuleList
    runner: Runner


class Tap:
    """Keeps the video tokens that one block puts out.

    tokens: (B, N, width) of the latest forward pass, with their graph; ValueError before there was one.
    """

    def __init__(self, runner: Runner, block: int) -> None:
        self.runner, self.block = runner, block
        self.kept: Tensor | None = None

    def __call__(self, blocks: Blocks, streams: Streams, context: Context) -> Streams:
        """As the runner inside."""
        streams = self.runner({i: block for i, block in blocks.items() if i <= self.block}, streams, context)
        self.kept = streams[0]
        return self.runner({i: block for i, block in blocks.items() if i > self.block}, streams, context)

    @property
    def tokens(self) -> Tensor:
        if self.kept is None:
            raise ValueError(f"block {self.block} has not run yet: call the network inside of `tapped`")
        return self.kept


class Skip:
    """Passes the streams by some blocks, as if they were not there."""

    def __init__(self, runner: Runner, blocks: Collection[int]) -> None:
        self.runner, self.blocks = runner, frozenset(blocks)

    def __call__(self, blocks: Blocks, streams: Streams, context: Context) -> Streams:
        """As the runner inside, of the other blocks."""
        return self.runner({i: block for i, block in blocks.items() if i not in self.blocks}, streams, context)


@contextmanager
def running(net: HasRunner, runner: Runner) -> Iterator[None]:
    """Within: `runner` runs the network's blocks."""
    before = net.runner
    net.runner = runner
    try:
        yield
    finally:
        net.runner = before


@contextmanager
def tapped(net: HasRunner, block: int) -> Iterator[Tap]:
    """Within: the output of one block, counted from 0, is kept in `tap.tokens` (REPA, arXiv 2410.06940)."""
    check(net, [block])
    tap = Tap(net.runner, block)
    with running(net, tap):
        yield tap


@contextmanager
def skipping(net: HasRunner, blocks: Collection[int]) -> Iterator[None]:
    """Within: the network is without these blocks, counted from 0 (skip-layer guidance, arXiv 2411.18664)."""
    check(net, blocks)
    with running(net, Skip(net.runner, blocks)):
        yield


def check(net: HasRunner, blocks: Collection[int]) -> None:
    """Raises ValueError for a block that the network does not have."""
    for block in blocks:
        if block not in range(len(net.blocks)):
            raise ValueError(f"block {block} is not in this network: its blocks are 0 to {len(net.blocks) - 1}")
