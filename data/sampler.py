"""Which clip comes when. The order is arithmetic, so that a resumed run needs one number to go on exactly.

Training draws from one endless stream: a shuffle of all clips, then another, and so on. Position `p` of the stream is
clip `p % num_clips` of shuffle `p // num_clips`, and each shuffle is a pure function of (seed, epoch). A step takes the
next `world_size * batch_size` positions, rank after rank. So:

- in each epoch each clip is drawn exactly once over all ranks, nothing is dropped or repeated to fill a batch;
- all ranks always have the same number of batches;
- the same global batch holds the same clips on one rank or on eight;
- a run may resume with another number of workers, of ranks, or another batch size.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Draw:
    """Clip `index` in its `epoch`-th showing."""

    index: int
    epoch: int


def shuffle(num_clips: int, seed: int, epoch: int) -> torch.Tensor:
    """The order of one epoch: int64 (num_clips,), a permutation."""
    # SeedSequence mixes (seed, epoch), so that neighbouring seeds do not share epochs as seed + epoch would.
    mixed = int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0] >> 1)
    return torch.randperm(num_clips, generator=torch.Generator().manual_seed(mixed))


class TrainingStream:
    """Endless batches of draws for one rank, from any position of the stream on. A `batch_sampler` for a DataLoader.

    Args:
        num_clips: clips in the dataset.
        batch_size: clips a batch on this rank.
        rank, world_size: which of how many processes this is.
        seed: of the shuffles; non-negative.
        start: samples that all ranks together have drawn already.
    """

    def __init__(self, num_clips: int, batch_size: int, rank: int, world_size: int, seed: int, start: int) -> None:
        self.num_clips = num_clips
        self.batch_size = batch_size
        self.rank = rank
        self.world_size = world_size
        self.seed = seed
        self.start = start

    def __iter__(self) -> Iterator[list[Draw]]:
        position = self.start + self.rank * self.batch_size
        shown, order = -1, torch.empty(0)
        while True:
            batch = []
            for p in range(position, position + self.batch_size):
                epoch, place = divmod(p, self.num_clips)
                if epoch != shown:
                    shown, order = epoch, shuffle(self.num_clips, self.seed, epoch)
                batch.append(Draw(int(order[place]), epoch))
            yield batch
            position += self.world_size * self.batch_size


def validation_shard(num_clips: int, batch_size: int, rank: int, world_size: int) -> list[list[Draw]]:
    """The batches of one rank over a validation set, in order, always the same.

    Ranks get equally many batches of equal sizes (collectives in the forward pass of a sharded network would wait for
    ever otherwise). Place i of a rank is clip `rank + world_size * i`; where there is none any more, the last clip
    stands in, which must not count again.
    """
    share = -(-num_clips // world_size)
    mine = [Draw(min(rank + world_size * i, num_clips - 1), 0) for i in range(share)]
    return [mine[i : i + batch_size] for i in range(0, share, batch_size)]
