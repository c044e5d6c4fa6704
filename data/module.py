"""`VideoData`: dataset, order and loader joined for the trainer, with a position that resumes exactly."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import cached_property
from itertools import zip_longest
from typing import Any

import torch.distributed as dist
from lightning import LightningDataModule
from torch.utils.data import Dataset

from data import workers
from data.batch import (
    Batch,
    Classified,
    Clips,
    Item,
    NamedClips,
    Shape,
    Sizes,
    WithColumns,
    WithImages,
    WithSpans,
)
from data.card import Card, data_card
from data.epochs import Epochs, Mixed
from data.latents.reading import TRAIN, VAL, CachedClips, LatentCache
from data.loading import Asked, Draws, Loader
from data.planned import PlannedStream, Planner, ShapedSets
from data.same_clips import check_same_clips
from data.sampler import Draw, Place, TrainingStream, Turn, validation_shard
from data.shapes import Ints, Pixels, Shapes

log = logging.getLogger(__name__)


class _TrainLoader:
    """Endless batches, each stamped with the place in the stream behind it. It has no length: training counts steps.

    `__iter__` starts again at `data.place`, that of the last batch that was really used, so batches that workers or the
    trainer fetched ahead are drawn again.
    """

    def __init__(self, data: VideoData) -> None:
        self.data = data

    def __iter__(self) -> Iterator[Batch]:
        data = self.data
        place = data.place
        places = data.stream(place).places()

        def draws(first: int) -> Iterable[list[Draw]]:  # behind the batches yielded so far
            return data.stream(place)

        packed = data.shapes is not None and data.shapes.packed
        for batch in data.batches(data.train, draws, packed):
            place = next(places)
            yield replace(batch, position=place.position, batches_before=place.batches_before)


class _ValLoader:
    """One pass over this rank's share of the validation clips."""

    def __init__(self, data: VideoData, clips: Clips) -> None:
        self.data = data
        self.clips = clips
        self.turns = data.validation_turns(clips)

    def __len__(self) -> int:
        return len(self.turns)

    def __iter__(self) -> Iterator[Batch]:
        batches = self.data.batches(self.clips, lambda first: [turn.draws for turn in self.turns[first:]])
        for turn, batch in zip(self.turns, batches, strict=True):
            yield replace(batch, fillers=turn.fillers)


class VideoData(LightningDataModule):
    """Clips for training and validation.

    Workers stay stateless: an item is a pure function of (index, epoch, shape) and the order one of (seed, place in the
    stream), so the checkpoint holds a few numbers and a run may resume with other workers or ranks. torchdata's
    `StatefulDataLoader` is not used because its state belongs to one number of workers.

    Args:
        train: clips to train on; with `epochs.Mixed` sources have weights.
        val: clips to validate on, or None.
        batch_size: clips a training step, for each process; with `shapes`, so many clips of the shape below are the
            token budget of a batch.
        val_batch_size: the same of a validation step.
        num_workers: loading processes for each training process; 0 loads in the training process. None: as many as suit
            the machine and the training processes that share it (`share_machine`).
        seed: of the order of clips; non-negative.
        num_frames, height, width: of every clip; batches are held against them. Images may have another length. With
            `shapes`, of previews.
        fps: frames a second of every clip.
        timeout: seconds to wait for one batch from a worker before the run stops (a decoder can hang for ever on a
            damaged file); 0 waits for ever. Not used without workers. Workers that die are replaced (`workers.py`).
        pin_memory: page-locked batches, for faster copies to a GPU; not used without one.
        max_bad_share: the run stops with a list once more than this share of the clips could not be read.
        shapes: how clips of several shapes become batches; None: all have one shape.
        cache: folder of a latent cache, which is read in the place of the clips' pixels; None: there is none.
    """

    def __init__(
        self,
        train: Clips,
        val: Clips | None,
        batch_size: int,
        val_batch_size: int,
        num_workers: int | None,
        seed: int,
        num_frames: int,
        height: int,
        width: int,
        fps: float,
        timeout: float,
        pin_memory: bool,
        max_bad_share: float,
        shapes: Shapes | None = None,
        cache: str | None = None,
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("batch_size", batch_size, 1),
            ("val_batch_size", val_batch_size, 1),
            ("num_workers", num_workers or 0, 0),
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
        self.shapes = shapes
        self.cache = None if cache is None else LatentCache(cache)
        own = workers.fitting(1) if num_workers is None else num_workers
        self.loader = Loader(own, seed, fps, timeout, pin_memory, max_bad_share)
        self.place = Place(0)
        self.accepts_other_clips = False
        self._sets: ShapedSets | None = None
        self._alike: int | None = None

    def share_machine(self, trainers: int) -> None:
        """Tells how many training processes load on this machine, each for itself."""
        if self.num_workers is None:
            self.loader.num_workers = workers.fitting(trainers)

    def measure(self, sizes: Sizes) -> None:
        """Gives the clips their shapes, as codec and network can take them; without `shapes` it changes nothing. Those
        that fit nowhere are left out of `train` and `val`.

        Raises:
            ValueError: a shape that cannot be taken, or no clip that fits one.
        """
        if self.shapes is not None:
            own = Shape(self.num_frames, self.height, self.width)
            self._sets = ShapedSets(self.shapes, own, sizes, self.train, self.val, self.batch_size, self.val_batch_size)
            self.train = self._sets.train.clips
            self.val = None if self._sets.val is None else self._sets.val.clips

    @property
    def sets(self) -> ShapedSets | None:
        """The clips in their shapes; None where all have one. Without a network each pixel counts as a token."""
        if self.shapes is not None and self._sets is None:
            self.measure(Pixels())
        return self._sets

    @property
    def rank(self) -> int:
        return self.trainer.global_rank if self.trainer else 0

    @property
    def world_size(self) -> int:
        return self.trainer.world_size if self.trainer else 1

    def shape_numbers(self, clips: Clips) -> Ints | None:
        """Which of `shapes_of(clips)` each clip is asked for in, (clips,); None where all have one."""
        if self.sets is None:
            return None
        sets = (self.sets.train, self.sets.val)
        return next(each.number for each in sets if each is not None and each.clips is clips)

    @cached_property
    def cached(self) -> dict[str, CachedClips]:
        """What is kept of the clips to train and to validate on, by `train` and `val`; empty without a cache.

        Raises ValueError, in one line, where the cache is not finished, or is of other clips.
        """
        sets = {} if self.cache is None else {TRAIN: self.train, VAL: self.val}
        return {
            name: self.cache.of(clips, name, self.shapes_of(clips), self.shape_numbers(clips))
            for name, clips in sets.items()
            if clips is not None and self.cache is not None
        }

    def training_clip(self, index: int) -> Item:
        """Clip `index` of the training clips in its first showing."""
        number = self.shape_numbers(self.train)
        shape = None if number is None else self.shapes_of(self.train)[int(number[index])]
        return Draws(self.train, self.cached.get(TRAIN))[Draw(index, 0, shape)]

    @property
    def skipped(self) -> dict[str, str]:
        """Clips that could not be read, and why."""
        return self.loader.skipped

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

    def span(self, column: str) -> tuple[float, float] | None:
        """The least and the greatest number in one of `columns`, as far as the clips know; None: they do not."""
        both: tuple[object, ...] = (self.train, self.val)
        spans = [each.span(column) for each in both if isinstance(each, WithSpans)]
        known = [each for each in spans if each is not None]
        return (min(least for least, _ in known), max(most for _, most in known)) if known else None

    def shapes_of(self, clips: Clips) -> list[Shape]:
        """All shapes that batches of these clips may have: from small to large, or the usual one and that of images."""
        if self.sets is not None:
            return list(self.sets.shapes)
        own = Shape(self.num_frames, self.height, self.width)
        of_images = own._replace(num_frames=clips.image_frames) if isinstance(clips, WithImages) else own
        return list(dict.fromkeys([own, of_images]))

    def rows(self, shape: Shape) -> int:
        """Clips of a shape for which a training step has room, on each process."""
        return self.batch_size if self.sets is None else self.sets.rows(shape)

    def setup(self, stage: str) -> None:
        """Refuses empty data, and data that is not the same on all ranks."""
        if len(self.train) == 0:
            raise ValueError("no clips to train on: data.train is empty; check its manifest, folder or size")
        largest = self._asked(self.train).bytes
        if self.val is not None and len(self.val) < self.world_size:
            raise ValueError(
                f"{len(self.val)} validation clips cannot be shared out over {self.world_size} ranks; "
                f"give at least {self.world_size}, or none (data.val=null)"
            )
        if not workers.room_for(needs := self.loader.shared_bytes(largest)):
            log.warning("%s", workers.shared_memory(needs))
        shaped = 0 if self.sets is None else self.sets.digest
        mine = (len(self.train), len(self.val or ()), self.batch_size, self.val_batch_size, self.seed, shaped)
        if dist.is_available() and dist.is_initialized():
            everyone: list[tuple[int, ...] | None] = [None] * self.world_size
            dist.all_gather_object(everyone, mine)
            for rank, theirs in enumerate(everyone):
                if theirs != everyone[0]:
                    raise ValueError(
                        "ranks would train on different data (train clips, val clips, batch, val batch, seed, shapes): "
                        f"rank 0 has {everyone[0]}, rank {rank} has {theirs}; give all ranks the same files and config"
                    )

    def train_dataloader(self) -> Iterable[Batch]:
        return _TrainLoader(self)

    def val_dataloader(self) -> Iterable[Batch]:
        return _ValLoader(self, self.val) if self.val is not None else []

    def stream(self, place: Place) -> TrainingStream | PlannedStream:
        """The training batches of this rank from a place on."""
        if self.sets is None:
            return TrainingStream(self._epochs(), self.batch_size, self.rank, self.world_size, place)
        if self._alike is None:
            self._alike = self.world_size
        return PlannedStream(self._planner, self.rank, self.world_size, place)

    @cached_property
    def _planner(self) -> Planner:
        assert self._sets is not None and self.shapes is not None and self._alike is not None
        return Planner(self._epochs(), self._sets.train, self.shapes, self._sets.budget, self._alike)

    def _epochs(self) -> Epochs:
        mixture = self.train.mixture if isinstance(self.train, Mixed) else None
        return Epochs(len(self.train), self.seed, mixture)

    def validation_turns(self, clips: Clips) -> list[Turn]:
        """The validation batches of this rank."""
        if self.sets is not None:
            return self.sets.validation_turns(self.rank, self.world_size)
        return validation_shard(len(clips), self.val_batch_size, self.rank, self.world_size)

    def batches(
        self, clips: Clips, draws: Callable[[int], Iterable[list[Draw]]], packed: bool = False
    ) -> Iterator[Batch]:
        """Loads `draws(0)` in their order (`loading.Loader.batches`)."""
        return self.loader.batches(clips, draws, self._asked(clips, packed))

    def _asked(self, clips: Clips, packed: bool = False) -> Asked:
        if self.sets is not None:
            pixels = self.sets.most_pixels
        else:
            pixels = max(self.batch_size, self.val_batch_size) * self.num_frames * self.height * self.width
        num_clips = len(self.train) + len(self.val or ())
        cached = next((each for each in self.cached.values() if each.clips is clips), None)
        return Asked(self.shapes_of(clips), packed, 4 * 3 * pixels, num_clips, cached)

    def loaded(
        self, items: Dataset[Any], places: Callable[[int], Iterable[list[Any]]], collate: Callable[[list[Any]], Any]
    ) -> Iterator[Any]:
        """What `collate` makes of other items than those of a training (`loading.Loader.loaded`)."""
        return self.loader.loaded(items, places, collate, self._asked(self.train).bytes)

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """The trainer is about to use this batch: from here on it counts."""
        if self.trainer and self.trainer.training:
            self.place = Place(batch.position, batch.batches_before)
        return batch

    def teardown(self, stage: str) -> None:
        self.loader.sum_up()

    def state_dict(self) -> dict[str, Any]:
        """What exact resume needs; equal on all ranks, so the checkpoint may keep any rank's."""
        state = {
            "position": self.place.position,
            "num_clips": len(self.train),
            "seed": self.seed,
            "fingerprints": self.fingerprints,
        }
        if self.shapes is None:
            return state
        of_batches = {"batches_before": self.place.batches_before, "alike": self._alike}
        return {**state, **of_batches, "budget": None if self.sets is None else self.sets.budget}

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """Of the clips to train and to validate on, where the config does not say which they are."""
        clips = {"train": self.train, "val": self.val}
        return {name: each.fingerprint() for name, each in clips.items() if isinstance(each, NamedClips)}

    def card(self) -> Card:
        """What the run is trained on, and whose that is."""
        shape: dict[str, Any] = {name: getattr(self, name) for name in ("num_frames", "height", "width", "fps")}
        if self.sets is not None:
            shape = {"frames x height x width": [str(each) for each in self.sets.shapes], "fps": self.fps}
        return data_card(self.train, self.val, shape, self.fingerprints)

    def check(self, state_dict: dict[str, Any]) -> None:
        """Raises ValueError where a checkpoint saw other clips, other captions, another order of them or another seed:
        its order cannot be continued. Other validation clips are a warning."""
        check_same_clips(state_dict, self.state_dict())

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues behind the last batch that the checkpoint was trained on.

        Raises:
            ValueError: as `check`, unless `accepts_other_clips`; the stream of these clips is then entered at the
                same position.
        """
        if not self.accepts_other_clips:
            self.check(state_dict)
        self.place = Place(state_dict["position"], state_dict.get("batches_before", 0))
        self._alike = state_dict.get("alike")
        if self.sets is not None and state_dict.get("budget") != self.sets.budget:
            log.warning(
                "batches of %d tokens are others than the checkpoint's: of this epoch some clips come again and others"
                " not at all; from the next one on each comes once again",
                self.sets.budget,
            )
