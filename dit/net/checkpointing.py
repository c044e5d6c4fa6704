"""Activation checkpointing: run some blocks again in the backward pass instead of keeping what they computed."""

from typing import Protocol

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dit.net.context import Context

Streams = tuple[Tensor, Tensor | None]


class Checkpointing(Protocol):
    """Runs one block of the network, the `index`-th."""

    def __call__(self, index: int, block: nn.Module, video: Tensor, text: Tensor | None, context: Context) -> Streams:
        """The block's output."""
        ...


class KeepAll:
    """Keep all activations: fastest."""

    def __call__(self, index: int, block: nn.Module, video: Tensor, text: Tensor | None, context: Context) -> Streams:
        """The block's output."""
        return block(video, text, context)


class EveryNth:
    """Run every n-th block twice and keep only its input (arXiv 1604.06174). every=1: all blocks; the least memory."""

    def __init__(self, every: int) -> None:
        if every < 1:
            raise ValueError(f"every={every} must be at least 1 (every block); for none: net/checkpointing=none")
        self.every = every

    def __call__(self, index: int, block: nn.Module, video: Tensor, text: Tensor | None, context: Context) -> Streams:
        """The block's output; gradients are those of KeepAll."""
        if index % self.every:
            return block(video, text, context)
        return checkpoint(block, video, text, context, use_reentrant=False)
