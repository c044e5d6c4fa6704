"""Which activations are kept for the backward pass: the runner that a network is built with."""

from torch.utils.checkpoint import checkpoint

from dit.net.context import Context
from dit.net.runner import Blocks, Streams


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
