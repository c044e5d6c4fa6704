"""What an epoch shows, and in which order: every clip once, or sources by weight. A pure function of (seed, epoch)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch

Ints = npt.NDArray[np.int64]


class Mixture(NamedTuple):
    """Clips of several sources, each with a weight of its own.

    Attributes:
        weights: (sources,) how often each clip of a source is shown in an epoch, on the average; above 0.
        source: (num_clips,) which source each clip is of.
    """

    weights: Sequence[float]
    source: npt.NDArray[np.integer]


@runtime_checkable
class Mixed(Protocol):
    """Clips that are shown by weight, or all alike (None)."""

    mixture: Mixture | None


@dataclass(frozen=True)
class Drawn:
    """The clips of one epoch in their order."""

    index: Ints  # (draws,)
    showing: Ints  # (draws,) how often each was shown before

    def __len__(self) -> int:
        return len(self.index)


def shuffle(num_clips: int, *seeds: int) -> torch.Tensor:
    """An order that the seeds (a run's and an epoch's, or more) decide: int64 (num_clips,), a permutation."""
    # SeedSequence mixes (seed, epoch), so that neighbouring seeds do not share epochs as seed + epoch would.
    mixed = int(np.random.SeedSequence(seeds).generate_state(1, np.uint64)[0] >> 1)
    return torch.randperm(num_clips, generator=torch.Generator().manual_seed(mixed))


class Epochs:
    """The endless sequence of epochs.

    Without a mixture an epoch is a shuffle of all clips. With one, each source is gone through in shuffles of its own,
    one after another, so that nothing of it comes again before all of it was shown; an epoch takes the next
    `weight * clips` of each source (of a broken number now one more, now one less) and shuffles them together. With
    all weights at 1 each epoch shows each clip once.

    Args:
        num_clips: clips in the dataset.
        seed: of the shuffles; non-negative.
        mixture: sources and their weights.
    """

    def __init__(self, num_clips: int, seed: int, mixture: Mixture | None = None) -> None:
        self.num_clips = num_clips
        self.seed = seed
        self.members: list[Ints] = []
        self.rates: list[float] = []  # clips of each source in an epoch
        if mixture is not None:
            for source, weight in enumerate(mixture.weights):
                members = np.flatnonzero(mixture.source == source)
                if len(members):
                    self.members.append(members)
                    self.rates.append(weight * len(members))

    def begins(self, epoch: int) -> int:
        """Draws before an epoch."""
        return sum(self._drawn(epoch)) if self.members else epoch * self.num_clips

    def find(self, position: int) -> tuple[int, int]:
        """The epoch that draw number `position` lies in, and its place there."""
        if not self.members:
            return divmod(position, self.num_clips)
        low, high = 0, 1
        while self.begins(high) <= position:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.begins(middle) <= position else (low, middle)
        return low, position - self.begins(low)

    def draws(self, epoch: int) -> Drawn:
        """The clips of an epoch, in their order."""
        if not self.members:
            order = shuffle(self.num_clips, self.seed, epoch).numpy()
            return Drawn(order, np.full(self.num_clips, epoch))
        indices, showings = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        drawn = zip(self._drawn(epoch), self._drawn(epoch + 1), strict=True)
        for source, (members, (begin, end)) in enumerate(zip(self.members, drawn, strict=True)):
            for times in range(begin // len(members), -(-end // len(members))):
                order = members[shuffle(len(members), self.seed, times, source).numpy()]
                first = times * len(members)
                part = order[max(begin - first, 0) : end - first]
                indices.append(part)
                showings.append(np.full(len(part), times))
        index, showing = np.concatenate(indices), np.concatenate(showings)
        together = shuffle(len(index), self.seed, epoch).numpy()
        return Drawn(index[together], showing[together])

    def _drawn(self, epoch: int) -> list[int]:
        """Draws of each source before an epoch."""
        return [math.floor(epoch * rate + 1e-9) for rate in self.rates]
