"""Batches out of draws, loaded by workers or here, and what is said of clips that cannot be read or are slow."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset

from data import workers
from data.batch import Batch, Clips, Item, Shape, Skipped, collate, shown
from data.decode import BadClips, listing
from data.latents.reading import CachedClips
from data.sampler import Draw
from data.shapes import SizedClips

log = logging.getLogger(__name__)


class Draws(Dataset[Item]):
    """Hands draws to clips: only some datasets care which epoch it is, or can show a clip in another shape. Clips of a
    latent cache are read from there."""

    def __init__(self, clips: Clips, cached: CachedClips | None) -> None:
        self.clips = clips
        self.cached = cached

    def __getitem__(self, draw: Draw) -> Item:
        if self.cached is not None:
            return self.cached.item(draw.index, draw.epoch)
        if draw.shape is not None and isinstance(self.clips, SizedClips):
            return self.clips.draw(draw.index, draw.epoch, draw.shape)
        return shown(self.clips, draw.index, draw.epoch)


class Asked(NamedTuple):
    """What batches are to be.

    Attributes:
        shapes: that clips may have.
        packed: whether the clips of a batch may differ in shape.
        bytes: of the largest batch.
        num_clips: of the run, of which only a share may be unreadable.
        cached: what a latent cache keeps of the clips.
    """

    shapes: Collection[Shape]
    packed: bool
    bytes: int
    num_clips: int
    cached: CachedClips | None = None


class Loader:
    """Loads batches, and remembers which clips were skipped or slow; arguments as of `module.VideoData`."""

    def __init__(
        self, num_workers: int, seed: int, fps: float, timeout: float, pin_memory: bool, max_bad_share: float
    ) -> None:
        self.num_workers = num_workers
        self.seed = seed
        self.fps = fps
        self.timeout = timeout
        self.pin_memory = pin_memory
        self.max_bad_share = max_bad_share
        self.skipped: dict[str, str] = {}  # why, by id
        self.slow: set[str] = set()

    def batches(self, clips: Clips, draws: Callable[[int], Iterable[list[Draw]]], asked: Asked) -> Iterator[Batch]:
        """Loads `draws(0)` in their order, with workers or without. `draws(first)` are the same from batch number
        `first` on, for workers that take the place of dead ones.

        Raises:
            BadClips: too many clips cannot be read. ValueError: no batch came in time, or one has another shape.
        """
        joined = partial(collate, packed=True) if asked.packed else collate
        for batch in self.loaded(Draws(clips, asked.cached), draws, joined, asked.bytes):
            _check_shapes(batch, asked.shapes)
            self._count_skipped(batch.skipped, asked.num_clips)
            self._count_slow(batch.slow)
            yield batch

    def loaded(
        self,
        items: Dataset[Any],
        places: Callable[[int], Iterable[list[Any]]],
        collate: Callable[[list[Any]], Any],
        bytes: int,
    ) -> Iterator[Any]:
        """What `collate` makes of the items at each list of `places(0)`, in their order, with workers or without.
        bytes: of the largest. Raises as `batches`."""

        def loader(first: int) -> DataLoader[Any]:
            return DataLoader(
                items,
                batch_sampler=places(first),
                num_workers=self.num_workers,
                worker_init_fn=workers.leave_signals_to_trainer,
                collate_fn=collate,
                pin_memory=self.pin_memory and torch.cuda.is_available(),
                timeout=self.timeout if self.num_workers else 0,
                # Without its own generator a loader draws from torch's global one, and a resumed run would differ.
                generator=torch.Generator().manual_seed(self.seed),
            )

        batches = workers.batches(loader, self.shared_bytes(bytes))
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                return
            except BadClips as error:  # from a worker it comes wrapped in that worker's traceback
                raise BadClips(str(error).strip().rsplit(f"{BadClips.__name__}: ", 1)[-1]) from None
            except workers.TimedOut:
                raise ValueError(
                    f"no batch within data.timeout={self.timeout} s: slow storage, or a file that hangs its decoder; "
                    "scripts/validate_data.py finds such files"
                ) from None
            yield batch

    def shared_bytes(self, batch: int) -> int:
        """Shared memory that the batches of all workers take up: each prepares `prefetch_factor` (2), one is in use."""
        return (2 * self.num_workers + 1) * batch if self.num_workers else 0

    def _count_skipped(self, skipped: Iterable[Skipped], num_clips: int) -> None:
        for id, why in skipped:
            if id not in self.skipped:
                self.skipped[id] = why
                log.warning("skipped %s: %s", id, why)
        if len(self.skipped) > self.max_bad_share * num_clips:
            raise BadClips(
                f"{len(self.skipped)} of {num_clips} clips cannot be read, more than "
                f"data.max_bad_share={self.max_bad_share}: {listing(self.skipped)}"
            )

    def _count_slow(self, ids: Iterable[str]) -> None:
        new = set(ids) - self.slow
        if new and not self.slow:
            log.warning(
                "%s has fewer frames a second than data.fps=%g, so frames are shown again and its motion stutters; "
                "scripts/validate_data.py lists all such clips",
                min(new),
                self.fps,
            )
        self.slow |= new

    def sum_up(self) -> None:
        """Says at the end which clips were skipped or slow."""
        if self.skipped:
            log.warning("%d clips could not be read and were skipped: %s", len(self.skipped), listing(self.skipped))
        if self.slow:
            log.warning("%d clips have fewer frames a second than data.fps=%g", len(self.slow), self.fps)


def _check_shapes(batch: Batch, shapes: Collection[Shape]) -> None:
    """Raises ValueError for clips of a shape that was not asked for."""
    allowed = [(3, *shape) for shape in shapes]
    for own in batch.shapes:
        if (shape := (3, *own)) in allowed:
            continue
        if len(allowed) == 1:
            raise ValueError(
                f"clip {batch.ids[0]} has shape {shape}, but data.num_frames, height and width ask for {allowed[0]};"
                " give the dataset the same values"
            )
        raise ValueError(
            f"a clip in the batch of {batch.ids[0]} has shape {shape}, which is none of those that were asked for; the"
            " dataset must draw clips in the shape that it is told"
        )
