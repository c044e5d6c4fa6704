"""The gradient of a step whose ranks and micro-batches have different numbers of clips."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from dit.engine.ranks import sum_over_ranks
from dit.engine.shards import local


class ClipMean:
    """Makes the gradient of a step that of the mean over all its clips, as if they were one batch on one rank.

    DDP and FSDP2 average gradients over ranks, and accumulation over micro-batches, whatever each of them held: a clip
    of a small batch would count for more. So each micro-batch trains the sum over its clips, and behind the last one
    of a step the gradient is divided by the number of clips of all of them. That number is summed over the ranks, which
    all call `weigh` together.
    """

    def __init__(self) -> None:
        self.counts: list[int] = []  # clips of this rank's micro-batches since the last step

    def summed(self, mean: Tensor, clips: int) -> Tensor:
        """The loss to be trained for a micro-batch, given its mean over so many clips."""
        self.counts.append(clips)
        return mean * clips

    @torch.no_grad()
    def weigh(self, parameters: Iterable[nn.Parameter], micro_batches: int, ranks: int, device: torch.device) -> None:
        """Behind a backward pass: divides the gradients once all `micro_batches` of a step are there."""
        if len(self.counts) < micro_batches:
            return
        clips = sum_over_ranks(torch.tensor(sum(self.counts), device=device, dtype=torch.float64))
        self.counts = []
        grads = [local(p.grad) for p in parameters if p.grad is not None]
        torch._foreach_mul_(grads, micro_batches * ranks / float(clips))
