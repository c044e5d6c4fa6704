"""`VideoData`: dataset, order and loader joined for the trainer, with a position that resumes exactly."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import cached_property
from itertools import zip_longest
from typing import Any

import torch
import torch.distributed as dist
from lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from data import workers
from data.batch import (
    Batch,
    Classified,
    Clips,
    Item,
    NamedClips,
    RedrawnClips,
    Skipped,
    WithColumns,
    WithImages,
    collate,
)
from data.card import Card, data_card
from data.decode import BadClips, listing
from data.sampler import Draw, TrainingStream, validation_shard

log = logging.getLogger(__name__)


class _Draws(Dataset[Item]):
    """Hands draws to clips: only some datasets care which epoch it is."""

    def __init__(self, clips: Clips) -> None:
        self.clips = clips

    def __getitem__(self, draw: Draw) -> Item:
        if isinstance(self.clips, RedrawnClips):
            return self.clips.draw(draw.index, draw.epoch)
        return self.clips[draw.index]


class _TrainLoader:
    """Endless batches, each stamped with the stream position behind it. It has no length: training counts steps.

    `__iter__` starts again at `data.position`, the last batch that was really used, so batches that workers or the
    trainer fetched ahead are drawn again.
    """

    def __init__(self, data: VideoData) -> None:
        self.data = data

    def __iter__(self) -> Iterator[Batch]:
        data, position = self.data, self.data.position
        step = data.world_size * data.batch_size

        def draws(first: int) -> TrainingStream:
            start = position + first * step
            return TrainingStream(len(data.train), data.batch_size, data.rank, data.world_size, data.seed, start)

        for number, batch in enumerate(data.batches(data.train, draws), start=1):
            yield replace(batch, position=position + number * step)


class _ValLoader:
    """One pass over this rank's share of the validation clips."""

    def __init__(self, data: VideoData, clips: Clips) -> None:
        self.data = data
        self.clips = clips
        self.shard = validation_shard(len(clips), data.val_batch_size, data.rank, data.world_size)

    def __len__(self) -> int:
        return len(self.shard)

    def __iter__(self) -> Iterator[Batch]:
        yield from self.data.batches(self.clips, lambda first: self.shard[first:])


class VideoData(LightningDataModule):
    """Clips for training and validation.

    Workers stay stateless: an item is a pure function of (index, epoch) and the order one of (seed, position), so the
    checkpoint holds one number and a run may resume with other workers, ranks or batch size. torchdata's
    `StatefulDataLoader` is not used because its state belongs to one number of workers.

    Args:
        train: clips to train on.
        val: clips to validate on, or None.
        batch_size: clips a training step, for each process.
        val_batch_size: clips a validation step, for each process.
        num_workers: loading processes for each training process; 0 loads in the training process.
        seed: of the order of clips; non-negative.
        num_frames, height, width: of every clip; batches are held against them. Images may have another length.
        fps: frames a second of every clip.
        timeout: seconds to wait for one batch from a worker before the run stops (a decoder can hang for ever on a
            damaged file); 0 waits for ever. Not used without workers. Workers that die are replaced (`workers.py`).
        pin_memory: page-locked batches, for faster copies to a GPU; not used without one.
        max_bad_share: the run stops with a list once more than this share of the clips could not be read.
    """

    def __init__(
        self,
        train: Clips,
        val: Clips | None,
        batch_size: int,
        val_batch_size: int,
        num_workers: int,
        seed: int,
        num_frames: int,
        height: int,
        width: int,
        fps: float,
        timeout: float,
        pin_memory: bool,
        max_bad_share: float,
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("batch_size", batch_size, 1),
            ("val_batch_size", val_batch_size, 1),
            ("num_workers", num_workers, 0),
            ("seed", seed, 0),
            ("num_frames", num_frames, 1),
            ("height", height, 1),
            ("width", width, 1),
            ("timeout", timeout, 0),
        ):
            if value < least:
                raise ValueError(f"data.{name}={value} is too small; at least {least}")
        if fps <= 0:
            raise ValueError(f"data.fps={fps} must be above 0")
        if not 0 <= max_bad_share <= 1:
            raise ValueError(f"data.max_bad_share={max_bad_share} must be between 0 and 1")
        self.train = train
        self.val = val
        self.batch_size = batch_size
        self.val_batch_size = val_batch_size
        self.num_workers = num_workers
        self.seed = seed
        self.num_frames = num_frames
        self.height = height
        self.width = width
        self.fps = fps
        self.timeout = timeout
        self.pin_memory = pin_memory
        self.max_bad_share = max_bad_share
        self.position = 0
        self.accepts_other_clips = False
        self.skipped: dict[str, str] = {}
        self.slow: set[str] = set()

    @property
    def rank(self) -> int:
        return self.trainer.global_rank if self.trainer else 0

    @property
    def world_size(self) -> int:
        return self.trainer.world_size if self.trainer else 1

    @property
    def classes(self) -> list[str]:
        """Names of the classes that clips have, in the order of their numbers; none for clips without.

        Raises:
            ValueError: clips for training and for validation are classified by different names.
        """
        both = (self.train, self.val)
        names: list[list[str]] = [list(each.classes) if isinstance(each, Classified) else [] for each in both]
        if self.val is not None and names[0] != names[1]:
            first = next((a, b) for a, b in zip_longest(*names) if a != b)
            raise ValueError(
                f"data.train has {len(names[0])} classes and data.val {len(names[1])}, and they differ: {first[0]} and"
                f" {first[1]}; give both the same labels"
            )
        return names[0]

    @property
    def columns(self) -> list[str]:
        """Names in `Batch.values` that all clips have beside `caption`, `fps` and `label`."""
        every = [each for each in (self.train, self.val) if each is not None]
        held = [each.columns if isinstance(each, WithColumns) else () for each in every]
        return [name for name in held[0] if all(name in names for names in held)]

    def setup(self, stage: str) -> None:
        """Refuses empty data, and data that is not the same on all ranks."""
        if len(self.train) == 0:
            raise ValueError("no clips to train on: data.train is empty; check its manifest, folder or size")
        if self.val is not None and len(self.val) < self.world_size:
            raise ValueError(
                f"{len(self.val)} validation clips cannot be shared out over {self.world_size} ranks; "
                f"give at least {self.world_size}, or none (data.val=null)"
            )
        if not workers.room_for(self._shared_bytes()):
            log.warning("%s", workers.shared_memory(self._shared_bytes()))
        mine = (len(self.train), len(self.val or ()), self.batch_size, self.val_batch_size, self.seed)
        if dist.is_available() and dist.is_initialized():
            everyone: list[tuple[int, ...] | None] = [None] * self.world_size
            dist.all_gather_object(everyone, mine)
            for rank, theirs in enumerate(everyone):
                if theirs != everyone[0]:
                    raise ValueError(
                        "ranks would train on different data (train clips, val clips, batch, val batch, seed): "
                        f"rank 0 has {everyone[0]}, rank {rank} has {theirs}; give all ranks the same files and config"
                    )

    def train_dataloader(self) -> Iterable[Batch]:
        return _TrainLoader(self)

    def val_dataloader(self) -> Iterable[Batch]:
        return _ValLoader(self, self.val) if self.val is not None else []

    def batches(self, clips: Clips, draws: Callable[[int], Iterable[list[Draw]]]) -> Iterator[Batch]:
        """Loads `draws(0)` in their order, with workers or without, checks shapes and keeps count of clips skipped.
        `draws(first)` are the same from batch number `first` on, for workers that take the place of dead ones."""

        def loader(first: int) -> DataLoader[Item]:
            return DataLoader(
                _Draws(clips),
                batch_sampler=draws(first),
                num_workers=self.num_workers,
                worker_init_fn=workers.leave_signals_to_trainer,
                collate_fn=collate,
                pin_memory=self.pin_memory and torch.cuda.is_available(),
                timeout=self.timeout if self.num_workers else 0,
                # Without its own generator a loader draws from torch's global one, and a resumed run would differ.
                generator=torch.Generator().manual_seed(self.seed),
            )

        shape = (3, self.num_frames, self.height, self.width)
        of_images = (3, clips.image_frames, *shape[2:]) if isinstance(clips, WithImages) else shape
        batches = workers.batches(loader, self._shared_bytes())
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
            if batch.pixels.shape[1:] not in (shape, of_images):
                raise ValueError(
                    f"clip {batch.ids[0]} has shape {tuple(batch.pixels.shape[1:])}, but data.num_frames, height and "
                    f"width ask for {shape}; give the dataset the same values"
                )
            self._count_skipped(batch.skipped)
            self._count_slow(batch.slow)
            yield batch

    def _shared_bytes(self) -> int:
        """Shared memory that the batches of all workers take up: each prepares `prefetch_factor` (2), one is in use."""
        batch = 4 * max(self.batch_size, self.val_batch_size) * 3 * self.num_frames * self.height * self.width
        return (2 * self.num_workers + 1) * batch if self.num_workers else 0

    def _count_skipped(self, skipped: Iterable[Skipped]) -> None:
        num_clips = len(self.train) + len(self.val or ())
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

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """The trainer is about to use this batch: from here on it counts."""
        if self.trainer and self.trainer.training:
            self.position = batch.position
        return batch

    def teardown(self, stage: str) -> None:
        if self.skipped:
            log.warning("%d clips could not be read and were skipped: %s", len(self.skipped), listing(self.skipped))
        if self.slow:
            log.warning("%d clips have fewer frames a second than data.fps=%g", len(self.slow), self.fps)

    def state_dict(self) -> dict[str, Any]:
        """What exact resume needs; equal on all ranks, so the checkpoint may keep any rank's."""
        return {
            "position": self.position,
            "num_clips": len(self.train),
            "seed": self.seed,
            "fingerprints": self.fingerprints,
        }

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """Of the clips to train and to validate on, where the config does not say which they are."""
        clips = {"train": self.train, "val": self.val}
        return {name: each.fingerprint() for name, each in clips.items() if isinstance(each, NamedClips)}

    def card(self) -> Card:
        """What the run is trained on, and whose that is."""
        shape = {name: getattr(self, name) for name in ("num_frames", "height", "width", "fps")}
        return data_card(self.train, self.val, shape, self.fingerprints)

    def check(self, state_dict: dict[str, Any]) -> None:
        """Raises ValueError where a checkpoint saw other clips, other captions, another order of them or another seed:
        its order cannot be continued. Other validation clips are a warning."""
        here = self.state_dict()
        for name in ("num_clips", "seed"):
            if state_dict[name] != here[name]:
                raise ValueError(
                    f"this run trains on {name}={here[name]}, its checkpoint on {name}={state_dict[name]}: the order of"
                    " clips cannot be continued; restore the data, start a run under another name, or go on with these:"
                    f" resume_changes=[data{',seed' if name == 'seed' else ''}]"
                )
        before, now = state_dict.get("fingerprints", {}), here["fingerprints"]  # older checkpoints have none
        if "train" in before and before["train"] != now.get("train"):
            raise ValueError(
                f"these {here['num_clips']} clips are not the checkpoint's: a path or caption differs, or their order;"
                " restore the data, start a run under another name, or go on with these: resume_changes=[data]"
            )
        if "val" in before and before["val"] != now.get("val"):
            log.warning("the validation clips are others than before: val/* cannot be compared across this step")

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues behind the last batch that the checkpoint was trained on.

        Raises:
            ValueError: as `check`, unless `accepts_other_clips`; the stream of these clips is then entered at the
                same position.
        """
        if not self.accepts_other_clips:
            self.check(state_dict)
        self.position = state_dict["position"]
