"""How a latent cache is made: which entries are in which shard, what is read for them, and what is written.

Nothing here knows what latents are: `scripts/cache_latents.py` joins this with the codec (`dit/engine/caching.py`).
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from data.batch import Clips, Item, ReadableClips, Shape, WithIds, shown, to_float
from data.decode import BadClip
from data.latents.reading import ABOUT, EXCERPT, FRAMES, PROMPTS, differences, prompt_name, read_about
from data.latents.shards import PART, Entry, ShardSet, written

log = logging.getLogger(__name__)
SHOWN = 8  # clips that a message lists


@dataclass(frozen=True)
class Read:
    """A clip as it was read for the cache.

    pixels: float32 (3, num_frames, height, width) in [-1, 1]; None where it cannot be read, and `entry.why` says why.
    entry: what is known of it, with the frames of pixels that are kept.
    """

    entry: Entry
    pixels: Tensor | None


@dataclass(frozen=True)
class Job:
    """What is encoded at once, all of one shard: clips, or prompts.

    last: whether the shard is whole with it.
    """

    set: str
    shard: int
    clips: tuple[Read, ...] = ()
    prompts: tuple[str, ...] = ()
    last: bool = False

    def __len__(self) -> int:
        return len(self.clips) + len(self.prompts)

    def to(self, device: torch.device | str, non_blocking: bool = True) -> Job:
        """The same with its pixels on `device`."""
        moved = (replace(each, pixels=None if each.pixels is None else each.pixels.to(device)) for each in self.clips)
        return replace(self, clips=tuple(moved))


@dataclass(frozen=True)
class ClipViews:
    """Clips that are kept, each in several views: number n is clip rows[n // views] in view n % views.

    rows: those of `clips` that are kept, in their order; None: all.
    frames: numbers of the pixel frames that are kept beside, -1 the last.
    shapes, number: in which shape each clip is kept, the number (clips,) of one of these; None: in the one of all.
    """

    clips: Clips
    views: int
    frames: Sequence[int]
    shapes: Sequence[Shape]
    number: NDArray[np.integer[Any]] | None
    rows: NDArray[np.integer[Any]] | None = None

    def __len__(self) -> int:
        """Clips that are kept."""
        return len(self.clips) if self.rows is None else len(self.rows)

    def place(self, number: int) -> tuple[int, int]:
        """Clip and view of an entry."""
        kept, view = divmod(number, self.views)
        return kept if self.rows is None else int(self.rows[kept]), view

    def read(self, index: int, view: int) -> Item:
        """A clip in a view, as training shows it. Raises BadClip where it cannot be read."""
        shape = None if self.number is None else self.shapes[int(self.number[index])]
        if isinstance(self.clips, ReadableClips):
            return self.clips.read(index, view, shape)
        if shape is not None:
            raise ValueError(f"{type(self.clips).__name__} has several shapes, but no `read` for a cache to be made of")
        item = shown(self.clips, index, view)
        if skipped := item.get("skipped"):
            raise BadClip(skipped[0].id, skipped[0].why)
        return item


class Wanted(Dataset[Read]):
    """Clips by (set, number), read as training would read them, but none stands in for another."""

    def __init__(self, sets: Mapping[str, ClipViews]) -> None:
        self.sets = sets
        self.ids = {name: each.clips.ids() for name, each in sets.items() if isinstance(each.clips, WithIds)}

    def __getitem__(self, place: tuple[str, int]) -> Read:
        name, number = place
        of = self.sets[name]
        index, view = of.place(number)
        try:
            item = of.read(index, view)
        except BadClip as error:
            id = self.ids[name][index].as_py() if name in self.ids else f"clip {index}"
            return Read(Entry(id, {}, error.why), None)
        id = self.ids[name][index].as_py() if name in self.ids else item["id"]
        pixels = item["pixels"]
        kept = {FRAMES: pixels[:, list(of.frames)].clone()} if of.frames else {}
        if (excerpt := item.get("excerpt")) is not None:
            kept[EXCERPT] = torch.tensor([excerpt.of, *excerpt.frames], dtype=torch.int32)
        _, num_frames, height, width = pixels.shape
        entry = Entry(id, kept, "", num_frames, height, width, item.get("repeated", 0))
        return Read(entry, to_float(pixels))


class Making:
    """A cache that is being made.

    Args:
        folder: of the cache.
        about: what it says of itself, plain values: `data.latents.reading.LatentCache`.
        sets: the clips, by the names of `about["sets"]`.
        batch: clips that are encoded at once.
        prompts: what is kept of a text encoder: its mark, and the prompts; None: nothing.
        prompts_per_shard: how many of them a shard holds.

    Raises:
        ValueError, FileNotFoundError: in one line; the folder holds another cache, or something else.
    """

    def __init__(
        self,
        folder: Path,
        about: Mapping[str, Any],
        sets: Mapping[str, ClipViews],
        batch: int,
        prompts: tuple[str, Sequence[str]] | None,
        prompts_per_shard: int,
    ) -> None:
        self.folder, self.about, self.sets, self.batch = folder, about, sets, batch
        self.shards = {
            name: ShardSet(folder / name, each["clips"] * each["views"], each["per_shard"])
            for name, each in about["sets"].items()
        }
        self.prompts: Sequence[str] = ()
        self.about_prompts: dict[str, Any] = {}
        self.of_prompts = ""  # name of that set
        if prompts is not None:
            mark, self.prompts = prompts
            self.of_prompts = f"{PROMPTS}-{mark}"
            listed = sha256("\n".join(map(prompt_name, self.prompts)).encode()).hexdigest()[:16]
            self.about_prompts = {
                "format": about["format"],
                "prompts": len(self.prompts),
                "per_shard": prompts_per_shard,
                "fingerprint": listed,
            }
            self.shards[self.of_prompts] = ShardSet(folder / self.of_prompts, len(self.prompts), prompts_per_shard)
        self.buffers: dict[tuple[str, int], list[Entry]] = {}
        self._check()

    # -- before and after

    def _check(self) -> None:
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(f"out={self.folder} is a file, and the cache goes into a folder of that name")
        there = [each.name for each in self.folder.glob("*")] if self.folder.is_dir() else []
        if there and not (self.folder / ABOUT).is_file() and not all(name.startswith(".") for name in there):
            raise ValueError(f"out={self.folder} holds something else ({sorted(there)[0]}); give a folder of its own")
        for folder, now in ((self.folder, self.about), (self.folder / self.of_prompts, self.about_prompts)):
            if not now or not (folder / ABOUT).is_file():
                continue
            for key, was, wanted in differences(read_about(folder), json.loads(json.dumps(now))):
                anew = ", or remove it, to encode the captions of now" if now is self.about_prompts else ""
                if key.startswith("sets.") and key.endswith((".clips", ".names")):
                    anew = f", out=NEW without={self.folder}, for the clips that are not in it"
                raise ValueError(
                    f"{folder} holds another cache: {key} was {was}, and is {wanted} now; give the same command again"
                    f" to go on with it, or another folder{anew}"
                )

    def begin(self) -> None:
        """Writes what the cache says of itself, and removes what killed processes have left. For the first rank."""
        for folder in (self.folder, *(shards.folder for shards in self.shards.values())):
            for unfinished in folder.glob(f".*{PART}"):
                unfinished.unlink(missing_ok=True)
        for folder, about in ((self.folder, self.about), (self.folder / self.of_prompts, self.about_prompts)):
            if about and not (folder / ABOUT).is_file():
                with written(folder / ABOUT) as file:
                    file.write((json.dumps(about, indent=2, sort_keys=True) + "\n").encode())

    def missing(self) -> list[tuple[str, int]]:
        """(set, shard) of the shards that are to be made, prompts first: a text encoder is gone before clips come."""
        names = sorted(self.shards, key=lambda name: (name != self.of_prompts, name))
        return [(name, shard) for name in names for shard in self.shards[name].missing()]

    def entries(self, shards: Iterable[tuple[str, int]]) -> int:
        """How many entries these shards hold."""
        return sum(len(self.shards[name].numbers(shard)) for name, shard in shards)

    def finish(self) -> dict[str, int]:
        """Writes the index of each set. Entries of each set. Raises ValueError where shards are missing."""
        for name, shards in self.shards.items():
            if not shards.finish():
                raise ValueError(f"{self.folder / name}: shards are missing; the same command goes on")
        return {name: shards.entries for name, shards in self.shards.items()}

    def unreadable(self) -> dict[str, str]:
        """The clips of a finished cache that could not be read, and why."""
        found = {}
        for name in self.sets:
            table = self.shards[name].table
            for entry in table.filter(table.column("why").to_numpy(zero_copy_only=False) != "").to_pylist():
                found[entry["name"]] = entry["why"]
        return found

    def room(self) -> int:
        """Bytes that are free where the cache lies."""
        place = next(each for each in (self.folder, *self.folder.absolute().parents) if each.is_dir())
        return shutil.disk_usage(place).free

    # -- the work

    def jobs(self, todo: Sequence[tuple[str, int]], load: Callable[..., Iterator[Sequence[Read]]]) -> Iterator[Job]:
        """What is to be encoded for these shards, in their order.

        load: `data.module.VideoData.loaded`.
        """
        for name, shard in todo:
            if name == self.of_prompts:
                for prompt in (numbers := self.shards[name].numbers(shard)):
                    yield Job(name, shard, prompts=(self.prompts[prompt],), last=prompt == numbers[-1])
        pieces = [
            (name, shard, numbers[first : first + self.batch], first + self.batch >= len(numbers))
            for name, shard in todo
            if name != self.of_prompts
            for numbers in [self.shards[name].numbers(shard)]
            for first in range(0, len(numbers), self.batch)
        ]

        def wanted(first: int) -> list[list[tuple[str, int]]]:
            return [[(name, number) for number in numbers] for name, _, numbers, _ in pieces[first:]]

        if pieces:
            loaded = load(Wanted(self.sets), wanted, tuple)
            for (name, shard, _, last), clips in zip(pieces, loaded, strict=True):
                yield Job(name, shard, clips=tuple(clips), last=last)

    def keep(self, job: Job, encoded: Sequence[Mapping[str, Tensor]]) -> None:
        """Takes what was made of a job, in the order of its clips or prompts; writes the shard when it is whole.

        Raises ValueError, in one line, where it cannot be written.
        """
        buffer = self.buffers.setdefault((job.set, job.shard), [])
        entries = [each.entry for each in job.clips] or [Entry(prompt_name(prompt), {}) for prompt in job.prompts]
        for entry, more in zip(entries, encoded, strict=True):
            on_cpu = {name: tensor.cpu() for name, tensor in more.items()}
            buffer.append(entry._replace(tensors={**on_cpu, **entry.tensors}))
        if job.last:
            self.shards[job.set].write(job.shard, self.buffers.pop((job.set, job.shard)))
