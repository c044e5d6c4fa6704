"""The stream of clips of several shapes: epochs of batches, planned from what the manifest says.

A plan of an epoch is a pure function of (seed, epoch, shapes, budget, `alike`, batches before it). Position `p` counts
clips, as that of `sampler.TrainingStream`; the batches of a step go to the ranks one after another. So:

- in each epoch each clip is drawn exactly once over all ranks (with weights: as `epochs.Epochs` says);
- all ranks always have the same number of batches;
- a run goes on at the very next batch with another number of workers or ranks. The batches stay those that the run
  began with, planned in steps of `alike` ranks.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice

import numpy as np

from data.batch import Clips, Shape, Sizes
from data.epochs import Epochs
from data.sampler import Draw, Place, Turn, shaped_shard
from data.shapes import Ints, Shaped, Shapes

log = logging.getLogger(__name__)

FULL, MANY = 0.95, 20  # share of a pack's tokens that should be real, where there are more packs than so many an epoch
PLANS = 1  # tells the random numbers of plans from those of shuffles, which have the same seeds


@dataclass(frozen=True)
class Plan:
    """The batches of one epoch, one after another.

    Attributes:
        index, showing, number: (draws,) the clip, how often it was shown before, and its shape.
        shapes: that numbers mean.
        ends: (batches,) where each batch ends.
    """

    index: Ints
    showing: Ints
    number: Ints
    shapes: tuple[Shape, ...]
    ends: Ints

    def __len__(self) -> int:
        return len(self.ends)

    def draws(self, batch: int) -> list[Draw]:
        span = slice(int(self.ends[batch - 1]) if batch else 0, int(self.ends[batch]))
        drawn = zip(*(each[span].tolist() for each in (self.index, self.showing, self.number)), strict=True)
        return [Draw(index, showing, self.shapes[number]) for index, showing, number in drawn]

    def at(self, place: int) -> int:
        """The batch that draw number `place` is in."""
        return int(np.searchsorted(self.ends, place, side="right"))


class Planner:
    """Makes plans.

    Args:
        epochs: which clips, in which order.
        clips: which shapes they have.
        shapes: how they become batches.
        budget: tokens of a batch at most.
        alike: batches that should have one shape, or about equally many tokens: the ranks that the run began with.
    """

    def __init__(self, epochs: Epochs, clips: Shaped, shapes: Shapes, budget: int, alike: int) -> None:
        self.epochs = epochs
        self.clips = clips
        self.shapes = shapes
        self.budget = budget
        self.alike = alike
        self.plan = lru_cache(maxsize=2)(self._plan)  # batches are loaded ahead of those that are used
        self.said = False

    def _plan(self, epoch: int, before: int) -> Plan:
        """An epoch's plan. before: batches before it, modulo `alike`."""
        drawn = self.epochs.draws(epoch)
        number = self.clips.number[drawn.index]
        rng = np.random.default_rng([self.epochs.seed, epoch, PLANS])
        order, ends = self.shapes.batches(number, self.clips.tokens, self.budget, self.alike, before, rng)
        if not self.said and len(ends):
            self._say(len(ends), int(self.clips.tokens[number].sum()))
        return Plan(drawn.index[order], drawn.showing[order], number[order], self.clips.shapes, ends)

    def _say(self, batches: int, tokens: int) -> None:
        self.said = True
        full = tokens / (batches * self.budget)
        log.info(
            "an epoch has %d batches, which hold %.1f %% of the %d tokens that each may have",
            batches, 100 * full, self.budget,
        )  # fmt: skip
        if full < FULL and self.shapes.packed and batches > MANY:
            log.warning(
                "packs are not full: with clips of more than half of data.shapes.tokens, few others go into the rest;"
                " give room for four times the largest shape, which has %d tokens, or leave that out",
                self.clips.tokens.max(),
            )


class PlannedStream:
    """Endless batches of draws for one rank, from any place on. A `batch_sampler` for a DataLoader."""

    def __init__(self, planner: Planner, rank: int, world_size: int, start: Place) -> None:
        self.planner = planner
        self.rank = rank
        self.world_size = world_size
        self.start = start

    def __iter__(self) -> Iterator[list[Draw]]:
        for plan, batch, _ in islice(self._batches(), self.rank, None, self.world_size):
            yield plan.draws(batch)

    def places(self) -> Iterator[Place]:
        """Where all ranks together are behind each step."""
        for plan, batch, (epoch, before) in islice(self._batches(), self.world_size - 1, None, self.world_size):
            position = self.planner.epochs.begins(epoch) + int(plan.ends[batch])
            yield Place(position, before + (len(plan) if batch + 1 == len(plan) else 0))

    def _batches(self) -> Iterator[tuple[Plan, int, tuple[int, int]]]:
        """All batches of all ranks: the plan, the batch's number in it, the epoch and the batches before that."""
        epoch, place = self.planner.epochs.find(self.start.position)
        before = self.start.batches_before
        plan = self.planner.plan(epoch, before % self.planner.alike)
        batch = plan.at(place)
        while True:
            while batch == len(plan):
                epoch, before, batch = epoch + 1, before + len(plan), 0
                plan = self.planner.plan(epoch, before % self.planner.alike)
            yield plan, batch, (epoch, before)
            batch += 1


class ShapedSets:
    """The clips to train and to validate on, each in its shape, and the token budgets of their batches.

    Args:
        own: the run's `num_frames`, `height` and `width`.
        batch_size, val_batch_size: so many clips of that shape are the budgets, where `shapes` says none.

    Raises:
        ValueError: as `Shapes.of` and `Shapes.budget`.
    """

    def __init__(
        self, shapes: Shapes, own: Shape, sizes: Sizes, train: Clips, val: Clips | None, batch_size: int,
        val_batch_size: int,
    ) -> None:  # fmt: skip
        self.train = shapes.of(train, own, sizes, "to train on")
        self.val = None if val is None else shapes.of(val, own, sizes, "to validate on")
        self.shapes = self.train.shapes
        self.tokens = self.train.tokens
        self.budget = shapes.budget(own, batch_size, self.shapes, sizes)
        validated = shapes.tokens if shapes.tokens is not None else val_batch_size * sizes.tokens(*own)
        self.val_budget = max(validated, int(self.tokens.max()))

    def rows(self, shape: Shape) -> int:
        """Clips of a shape that a training batch has room for."""
        return self.budget // int(self.tokens[self.shapes.index(shape)])

    @property
    def digest(self) -> int:
        """A number that tells which clips have which shape."""
        sets = [self.train, *([] if self.val is None else [self.val])]
        return zlib.crc32(b"".join(each.number.astype("<i8").tobytes() for each in sets) + repr(self.shapes).encode())

    @property
    def most_pixels(self) -> int:
        """Of the largest batch, at most."""
        budget = max(self.budget, self.val_budget)
        of_token = max(f * h * w / tokens for (f, h, w), tokens in zip(self.shapes, self.tokens, strict=True))
        return int(budget * of_token)

    def validation_turns(self, rank: int, world_size: int) -> list[Turn]:
        """The validation batches of one rank, shape by shape, of one shape each."""
        if self.val is None:
            return []
        return shaped_shard(self.val.number, self.shapes, (self.val_budget // self.tokens).tolist(), rank, world_size)
