"""Clips and prompts out of a latent cache, in the place of files and encoders."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.batch import Clips, DescribedClips, Excerpt, Item, Shape, WithIds, shown
from data.decode import BadClip, BadClips
from data.latents.shards import ShardSet
from data.skipping import first_readable

FORMAT = 1
OLDER = "older"  # of `about`: the folder of a cache that holds other clips of the same list, from this one
ABOUT, CLIPS, PROMPTS = "about.json", "clips.parquet", "prompts"
TRAIN, VAL = "train", "val"
AXES = ("num_frames", "height", "width")
FRAMES = "frames"  # of pixels, uint8 (3, n, H, W), beside what the codec's encoder says
EXCERPT = "excerpt"  # int32 (1 + F,): frames of the file, and the numbers of those that are shown


class LatentCache:
    """A folder that `scripts/cache_latents.py` made.

    about: what was kept, and how it was made: plain values. `key` is what must be the same in a run that uses it;
    `sets` says of each set of clips how many `clips` in how many `views` there are, and `per_shard`.
    chain: this cache, and those that hold the clips which it was made without, the newest first.

    Raises FileNotFoundError or ValueError, in one line, for a folder that is none.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.about: dict[str, Any] = read_about(self.folder)
        self.chain: list[LatentCache] = [self]
        if (older := self.about.get(OLDER)) is not None:
            there = Path(os.path.normpath(self.folder / older))
            if not there.is_dir():
                raise FileNotFoundError(
                    f"data.cache={self.folder} was made without the clips of {there}, which is not there: give that"
                    " folder its place beside this one again"
                )
            self.chain += LatentCache(there).chain

    def differences(self, key: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
        """(name, value when it was made, value now) of what makes the latents of a run with this `key` others."""
        return list(differences(self.about["key"], key))

    def parts(self, name: str) -> list[Part]:
        """The set `name` of each cache of the chain that has one, the oldest first."""
        found = []
        for cache in self.chain[::-1]:
            if (of := cache.about["sets"].get(name)) is not None:
                shards = ShardSet(cache.folder / name, of["clips"] * of["views"], of["per_shard"])
                found.append(Part(shards, of["views"]))
        return found

    def rows(self, name: str, ids: pa.Array) -> NDArray[np.int64]:
        """For each clip its number in the set `name`, counted through all `parts`; -1 where it is not there.

        Raises ValueError, in one line, where the cache is not finished.
        """
        there = [each.first_views().column("name") for each in self.parts(name)]
        chunks = [chunk for column in there for chunk in column.chunks]
        return matched(ids, pa.chunked_array(chunks, pa.string()).combine_chunks())

    def of(
        self, clips: Clips, name: str, shapes: Sequence[Shape], number: NDArray[np.integer[Any]] | None
    ) -> CachedClips:
        """What is kept of `clips`, the set `name` of a run.

        Args:
            shapes: that the clips may have. number: which of them each has, (clips,); None where all have one, or
                images another length.

        Raises ValueError, in one line, where the cache is not finished, or some of them are not in it in their shapes.
        """
        parts = self.parts(name)
        if not parts:
            raise ValueError(f"data.cache={self.folder} holds no clips for data.{name}")
        first_views = pa.concat_tables([each.first_views() for each in parts])
        there = first_views.num_rows
        if not isinstance(clips, WithIds):  # generated: the config says which they are
            rows = np.arange(len(clips))
            rows[there:] = -1
        else:
            rows = self.rows(name, clips.ids())
        if (rows < 0).any():
            first, count = int(np.argmax(rows < 0)), int((rows < 0).sum())
            which = clips.ids()[first].as_py() if isinstance(clips, WithIds) else f"clip {first}"
            raise ValueError(
                f"data.cache={self.folder}: {count} of {len(clips)} clips of data.{name} are not in it, e.g. {which};"
                f" it has {there}. Take the list that it was made of (data.manifest=null data.root=null) with its"
                f" val_clips, or add the others: scripts/cache_latents.py ... out=NEW without={self.folder}, then"
                " data.cache=NEW"
            )
        self._check_shapes(first_views.take(pa.array(rows)), name, shapes, number)
        return CachedClips(clips, parts, rows)

    def _check_shapes(
        self, table: pa.Table, name: str, shapes: Sequence[Shape], number: NDArray[np.integer[Any]] | None
    ) -> None:
        """Raises ValueError where clips, the rows of `table`, are kept in other shapes than they are asked for in."""
        kept = np.stack([np.asarray(table.column(axis)) for axis in AXES], 1)  # (clips, 3)
        wanted = np.array(shapes)  # (shapes, 3)
        if number is None:
            fits = (kept[:, None] == wanted).all(-1).any(1)
        else:
            fits = (kept == wanted[number]).all(1)
        wrong = ~fits & np.asarray(pc.equal(table.column("why"), ""))
        if wrong.any():
            at = int(np.argmax(wrong))
            asked = ", ".join(map(str, shapes if number is None else [shapes[int(number[at])]]))
            raise ValueError(
                f"data.cache={self.folder}: {int(wrong.sum())} of {len(kept)} clips of data.{name} are kept in another"
                f" shape, e.g. {table.column('name')[at].as_py()}: {Shape(*kept[at].tolist())} there, {asked} here;"
                " make a cache with this run's data/shapes"
            )

    def prompts(self, mark: str) -> Prompts | None:
        """The prompts of the text encoder with this mark; None where there are none.

        Raises ValueError, in one line, where they are not finished.
        """
        folders = [folder for each in self.chain if (folder := each.folder / f"{PROMPTS}-{mark}").is_dir()]
        return Prompts(folders) if folders else None


class Part(NamedTuple):
    """A set of one cache: its entries, and in how many views each clip is."""

    shards: ShardSet
    views: int

    def first_views(self) -> pa.Table:
        """Name, fault and size of each clip."""
        table = self.shards.table.select(["name", "why", *AXES])
        return table if self.views == 1 else table.take(pa.array(np.arange(0, table.num_rows, self.views)))


class CachedClips:
    """Items of `clips` with what is kept in the place of their pixels.

    Captions, classes and columns come from `clips`, which open no file for it. In showing number e a clip is in view
    number e % views, the excerpt and crop that it has in its showing of that number in a training on files.

    Args:
        parts: of the caches that hold them, the oldest first.
        rows: (len(clips),) for each clip its number, counted through all parts.
    """

    def __init__(self, clips: Clips, parts: Sequence[Part], rows: NDArray[np.int64]) -> None:
        self.clips = clips
        self.parts = parts
        self.rows = rows
        self.ends = np.cumsum([part.shards.entries // part.views for part in parts])

    def item(self, index: int, epoch: int) -> Item:
        """Clip `index` in its `epoch`-th showing, or a stand-in, the same as without a cache.

        Raises:
            BadClips: a shard is damaged, or neither the clip nor the stand-ins could be read when the cache was made.
        """

        def about(index: int) -> tuple[ShardSet, dict[str, Any]]:
            which, row = placed(int(self.rows[index]), self.ends)
            shards, views = self.parts[which]
            return shards, shards.about(row * views + epoch % views)

        def read(index: int) -> Item:
            shards, entry = about(index)
            if entry["why"]:
                raise BadClip(entry["name"], entry["why"])
            try:
                tensors = shards.read(entry)
            except ValueError as error:
                raise BadClips(str(error)) from None
            return self._item(index, epoch, shards, entry, tensors)

        return first_readable(
            index,
            epoch,
            name=lambda index: str(about(index)[1]["name"]),
            read=read,
            others=lambda: (
                self.clips.alike(index) if isinstance(self.clips, DescribedClips) else range(len(self.clips))
            ),
        )

    def _item(
        self, index: int, epoch: int, shards: ShardSet, entry: Mapping[str, Any], tensors: dict[str, Tensor]
    ) -> Item:
        numbers = tensors.pop(EXCERPT).tolist() if EXCERPT in tensors else None
        item = without_pixels(self.clips, index, epoch, None if numbers is None else Excerpt(numbers[1:], numbers[0]))
        if not isinstance(self.clips, WithIds) and item["id"] != entry["name"]:
            raise BadClips(
                f"{shards.folder}: clip {index} is {entry['name']} there and {item['id']} here: it is a cache of"
                " other clips"
            )
        nothing = torch.empty(3, 0, entry["height"], entry["width"], dtype=torch.uint8)
        item["pixels"] = tensors.pop(FRAMES, nothing)
        item["encoded"] = tensors
        item["num_frames"] = entry["num_frames"]
        item["repeated"] = entry["repeated"]
        return item


def without_pixels(clips: Clips, index: int, epoch: int, excerpt: Excerpt | None) -> Item:
    """What is known of a clip beside its pixels. Only clips that cannot say it without are read for it."""
    return (
        clips.without_pixels(index, epoch, excerpt) if isinstance(clips, DescribedClips) else shown(clips, index, epoch)
    )


class Prompts:
    """What a text encoder says of prompts, read from shards.

    Raises FileNotFoundError or ValueError, in one line, for a folder that is damaged or not finished.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        told = [(folder, read_about(folder)) for folder in folders]
        self.sets = [ShardSet(folder, about["prompts"], about["per_shard"]) for folder, about in told]
        self.ends = np.cumsum([shards.entries for shards in self.sets])

    @cached_property
    def _sorted(self) -> tuple[pa.Array, NDArray[np.int64]]:
        """All names in order, and the number of each: there may be millions, so they are no objects of Python's."""
        names = (
            pa.concat_tables([shards.table.select(["name"]) for shards in self.sets]).column("name").combine_chunks()
        )
        order = pc.sort_indices(names)
        return names.take(order), np.asarray(order).astype(np.int64)

    def holds(self, prompt: str) -> bool:
        return self._number(prompt) is not None

    def read(self, prompt: str) -> dict[str, Tensor] | None:
        """The tensors of a prompt, on the CPU; None where it is not there. Raises ValueError for a damaged shard."""
        number = self._number(prompt)
        if number is None:
            return None
        which, own = placed(number, self.ends)
        return self.sets[which].read(self.sets[which].about(own))

    def _number(self, prompt: str) -> int | None:
        names, numbers = self._sorted
        name = prompt_name(prompt)
        first, last = 0, len(names)
        while first < last:
            middle = (first + last) // 2
            first, last = (middle + 1, last) if names[middle].as_py() < name else (first, middle)
        return int(numbers[first]) if first < len(names) and names[first].as_py() == name else None


def placed(number: int, ends: NDArray[np.int64]) -> tuple[int, int]:
    """Of parts that are counted through, in which one a number lies, and which number it is there.

    ends: (parts,), how many there are up to the end of each.
    """
    which = int(np.searchsorted(ends, number, side="right"))
    return which, number - (int(ends[which - 1]) if which else 0)


def prompt_name(prompt: str) -> str:
    """The name of a prompt's entry: 128 bits in hex."""
    return sha256(prompt.encode("utf-8", errors="surrogatepass")).hexdigest()[:32]


def read_about(folder: Path) -> dict[str, Any]:
    """What a cache says of itself. Raises FileNotFoundError or ValueError, in one line, where there is none."""
    file = folder / ABOUT
    if not file.is_file():
        there = "is not there" if not folder.exists() else f"has no {ABOUT}"
        raise FileNotFoundError(f"data.cache={folder} {there}: scripts/cache_latents.py out={folder} makes a cache")
    try:
        about = json.loads(file.read_text(encoding="utf-8"))
        made = about["format"]
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise ValueError(f"{file} is damaged ({error}); scripts/cache_latents.py writes it again") from None
    if made != FORMAT:
        raise ValueError(f"{folder} is a cache of format {made}, this code reads {FORMAT}; make it again")
    return dict(about)


def differences(before: Any, now: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(key, value before, value now) of what differs in plain mappings."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for each in dict.fromkeys((*before, *now)):
            yield from differences(before.get(each), now.get(each), f"{name}.{each}" if name else str(each))
    elif before != now:
        yield name, before, now


def matched(wanted: pa.Array, there: pa.Array) -> NDArray[np.int64]:
    """For each name its place among those that are there, -1 where it is not; of several clips of one name the first
    is the first, the second the second."""
    if wanted.equals(there):
        return np.arange(len(wanted))
    found = pc.fill_null(pc.index_in(_counted(wanted), value_set=_counted(there)), -1)
    return np.asarray(found).astype(np.int64)


def _counted(names: pa.Array) -> pa.Array:
    if pc.count_distinct(names).as_py() == len(names):
        return names
    seen: Counter[str] = Counter()
    counted: list[str] = []
    for name in names.to_pylist():
        counted.append(name if not seen[name] else f"{name}\n{seen[name]}")
        seen[name] += 1
    return pa.array(counted, pa.string())
