"""Which clip comes when. The order is arithmetic, so that a resumed run needs one number to go on exactly.

Training draws from one endless stream of epochs (`epochs.Epochs`): a shuffle of all clips, then another, and so on.
Position `p` of the stream is clip `p % num_clips` of shuffle `p // num_clips`, and each shuffle is a pure function of
(seed, epoch). A step takes the next `world_size * batch_size` positions, rank after rank. So:

- in each epoch each clip is drawn exactly once over all ranks, nothing is dropped or repeated to fill a batch;
- all ranks always have the same number of batches;
- the same global batch holds the same clips on one rank or on eight;
- a run may resume with another number of workers, of ranks, or another batch size.

`planned.PlannedStream` is the stream of clips of several shapes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import NamedTuple

import numpy as np

from data.batch import Shape
from data.epochs import Epochs


@dataclass(frozen=True)
class Draw:
    """Clip `index` in its `epoch`-th showing. shape: None is the dataset's own."""

    index: int
    epoch: int
    shape: Shape | None = None


class Place(NamedTuple):
    """Where in the stream all ranks together are.

    Attributes:
        position: clips drawn.
        batches_before: of the epoch that the position lies in, where clips have several shapes; else 0.
    """

    position: int
    batches_before: int = 0


class TrainingStream:
    """Endless batches of draws for one rank, from any position of the stream on. A `batch_sampler` for a DataLoader.

    Args:
        epochs: which clips, in which order.
        batch_size: clips a batch on this rank.
        rank, world_size: which of how many processes this is.
        start: where all ranks together are.
    """

    def __init__(self, epochs: Epochs, batch_size: int, rank: int, world_size: int, start: Place) -> None:
        self.epochs = epochs
        self.batch_size = batch_size
        self.rank = rank
        self.world_size = world_size
        self.start = start

    def __iter__(self) -> Iterator[list[Draw]]:
        position = self.start.position + self.rank * self.batch_size
        epoch, place = self.epochs.find(position)
        drawn = self.epochs.draws(epoch)
        while True:
            batch: list[Draw] = []
            while len(batch) < self.batch_size:
                while place >= len(drawn):
                    epoch, place = epoch + 1, place - len(drawn)
                    drawn = self.epochs.draws(epoch)
                batch.append(Draw(int(drawn.index[place]), int(drawn.showing[place])))
                place += 1
            yield batch
            place += (self.world_size - 1) * self.batch_size

    def places(self) -> Iterator[Place]:
        """Where all ranks together are behind each step."""
        step = self.world_size * self.batch_size
        return (Place(self.start.position + number * step) for number in count(1))


@dataclass(frozen=True)
class Turn:
    """A batch of a validation set. Its last `fillers` draws belong to others, and must not count again."""

    draws: list[Draw]
    fillers: int = 0


def validation_shard(num_clips: int, batch_size: int, rank: int, world_size: int) -> list[Turn]:
    """The batches of one rank over a validation set, in order, always the same.

    Ranks get equally many batches of equal sizes (collectives in the forward pass of a sharded network would wait for
    ever otherwise). Place i of a rank is clip `rank + world_size * i`; where there is none any more, the last clip
    stands in, which must not count again.
    """
    return _turns(np.arange(num_clips), None, batch_size, rank, world_size)


def shaped_shard(
    number: Sequence[int] | np.ndarray, shapes: Sequence[Shape], batch_sizes: Sequence[int], rank: int, world_size: int
) -> list[Turn]:
    """The same of clips of several shapes, shape by shape: all batches of a turn have one.

    Args:
        number: (num_clips,) which shape each has.
        batch_sizes: (shapes,) clips of each that go into a batch.
    """
    turns: list[Turn] = []
    for which, (shape, batch_size) in enumerate(zip(shapes, batch_sizes, strict=True)):
        clips = np.flatnonzero(np.asarray(number) == which)
        turns += _turns(clips, shape, batch_size, rank, world_size) if len(clips) else []
    return turns


def _turns(clips: np.ndarray, shape: Shape | None, batch_size: int, rank: int, world_size: int) -> list[Turn]:
    share = -(-len(clips) // world_size)
    places = [rank + world_size * i for i in range(share)]
    mine = [Draw(int(clips[min(place, len(clips) - 1)]), 0, shape) for place in places]
    too_far = sum(place >= len(clips) for place in places)  # the last place alone may be
    turns = [Turn(mine[i : i + batch_size]) for i in range(0, share, batch_size)]
    turns[-1:] = [Turn(turn.draws, too_far) for turn in turns[-1:]]
    return turns
