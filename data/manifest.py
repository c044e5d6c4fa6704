"""Lists of clips: a CSV, JSONL or Parquet file, or a folder of videos and images.

Columns: `path` (relative to the root folder, or absolute), `caption`, and optionally `start` and `end` in seconds, the
part of the file to use, and `label`, the name or number of a class (`labels.py`); `columns.py` has all that mean
something. Further ones are read where a run asks for them (`data.columns`); they travel with the clip. Several rows may
name one file: excerpts of it, or other captions.
"""

from __future__ import annotations

import heapq
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from hashlib import sha256
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from data import images
from data.batch import NO_CLASS, Value
from data.columns import FAULTS, KIND, NUMBERS, PLACES, STATES, TEXT
from data.filter import Filter
from data.folder import VIDEOS, read_folder
from data.shards import TAR, are_shards, inside, opened, read_shards
from data.tables import read_table

log = logging.getLogger(__name__)

CLASS = "class number"  # the column that `labels.classify` adds
LOOK_AT = 1000  # rows whose files are looked for when a manifest is read; all of them missing means a wrong root
BATCH = 65536  # rows that are Python's objects at a time
STILL = rf"(?i)\.({'|'.join(ending[1:] for ending in images.EXTENSIONS)})$"
ODD = r"^/|(^|/)\.{0,2}(/|$)"  # paths that can be written in another way: absolute, or with parts "", "." or ".."


@dataclass(frozen=True)
class Row:
    """One clip: a file, or the part of it from `start` to `end` seconds."""

    path: Path
    captions: tuple[str, ...]  # what it shows, in other words each time; () where nothing is said
    id: str
    start: float
    end: float
    label: int = NO_CLASS
    columns: Mapping[str, Value] = field(
        default_factory=dict
    )  # those that were asked for; nan where a number is not there
    offset: float | None = None  # of a clip in a shard: where it begins in it,
    bytes: float | None = None  # and its size

    @property
    def is_image(self) -> bool:
        return self.path.suffix.lower() in images.EXTENSIONS

    def opened(self) -> AbstractContextManager[Path]:
        """A path under which decoders can read the clip, also one in a shard. Raises BadClip where it is not there."""
        return opened(self.path, inside(self.path, self.offset, self.bytes))


@dataclass(frozen=True)
class Manifest:
    """Rows in their order.

    They stay in Arrow's memory, outside Python's objects: a list of millions of rows would be copied page by page into
    every loading process as reference counts change.

    Attributes:
        root: folder that the paths are relative to.
        table: a row for each clip.
        columns: names of the columns that were asked for.
        frame_columns: those of them with a value for each frame of the file.
        left_out: rows that were in the list and are not here, by what left them out.
        chosen_by: settings that chose the rows, by name.
    """

    root: Path
    table: pa.Table
    columns: tuple[str, ...] = ()
    frame_columns: tuple[str, ...] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)
    chosen_by: Mapping[str, str | Sequence[str]] = field(default_factory=dict)

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __getitem__(self, index: int) -> Row:
        wanted = (*STATES, *PLACES, CLASS, *self.columns)
        names = [name for name in self.table.column_names if name in wanted]
        values = {name: self.table.column(name)[index].as_py() for name in names}
        start, end = values.get("start"), values.get("end")
        return Row(
            path=self.root / values["path"],
            captions=tuple(caption for caption in values["caption"] if caption),
            id=values["path"] + part_of(start, end),
            start=0.0 if start is None else start,
            end=float("inf") if end is None else end,
            label=values.get(CLASS, NO_CLASS),
            columns={name: float("nan") if values[name] is None else values[name] for name in self.columns},
            offset=values.get("offset"),
            bytes=values.get("bytes"),
        )

    @property
    def stated(self) -> pa.Table:
        """The columns that say what is trained on: those whose change makes the clips others."""
        return self.table.select([name for name in self.table.column_names if name in (*STATES, CLASS, *self.columns)])

    @property
    def images(self) -> pa.ChunkedArray:
        """For each row whether its file is an image: bool (rows,)."""
        return pc.match_substring_regex(self.table.column("path"), STILL)

    def files(self) -> pa.ChunkedArray:
        """The file of each row: its path from the root, however the row writes it."""
        parts = []
        for paths in self.table.column("path").chunks:
            odd = pc.match_substring_regex(paths, ODD)
            if pc.any(odd).as_py():
                names = [self._below_root(path) for path in paths.filter(odd).to_pylist()]
                paths = pc.replace_with_mask(paths, odd, pa.array(names, pa.string()))
            parts.append(paths)
        return pa.chunked_array(parts, pa.string())

    def ids(self) -> pa.Array:
        """What each row is called, the same wherever the files lie: its file, and the part of it that is meant."""
        names = self.files().combine_chunks()
        there = [name for name in ("start", "end") if name in self.table.column_names]
        if not any(self.table.column(name).null_count < len(self) for name in there):
            return names
        parts = [values(self.table.column(name)) if name in there else repeat(None) for name in ("start", "end")]
        rows = zip(names.to_pylist(), *parts, strict=False)
        return pa.array([f"{name}{part_of(start, end)}" for name, start, end in rows], pa.string())

    def _below_root(self, path: str) -> str:
        whole = os.path.normpath(os.path.join(self.root, path))
        below = os.path.relpath(whole, self.root)
        return whole if below.startswith("..") else below

    def captions(self) -> Iterator[str]:
        """All captions of all rows; "" for a row without any."""
        for captions in values(self.table.column("caption")):
            yield from [caption for caption in captions if caption] or [""]

    def uncaptioned(self) -> pa.ChunkedArray:
        """For each row whether it has no caption: bool (rows,)."""
        parts = []
        for lists in self.table.column("caption").chunks:
            said = pc.list_parent_indices(lists).filter(pc.fill_null(pc.not_equal(lists.flatten(), ""), False))
            without = np.ones(len(lists), bool)
            without[np.asarray(said)] = False
            parts.append(pa.array(without))
        return pa.chunked_array(parts, pa.bool_())

    def taken(self, mask: pa.ChunkedArray, by: str | None = None) -> Manifest:
        """The rows where `mask` (rows,) is true. by: what left the others out, if that is to be counted."""
        table = self.table.filter(mask)
        out = len(self) - table.num_rows
        counted = {**self.left_out, by: self.left_out.get(by, 0) + out} if by is not None and out else self.left_out
        return replace(self, table=table, left_out=counted)

    def with_column(self, name: str, column: pa.ChunkedArray | pa.Array) -> Manifest:
        return replace(self, table=self.table.append_column(name, column))

    def split(self, held_out: int) -> tuple[Manifest, Manifest]:
        """The rest, and `held_out` clips (`drawn`).

        Raises:
            ValueError: nothing would be left.
        """
        mask = self.drawn(held_out)
        if held_out and mask.all():
            raise ValueError(
                f"val_clips={held_out} would leave nothing to train on: there are {len(self)} clips of"
                f" {pc.count_distinct(self.files()).as_py()} files, which are held out whole; hold out fewer, or 0 for"
                " no validation"
            )
        return self.taken(pa.array(~mask)), self.taken(pa.array(mask))

    def drawn(self, clips: int) -> NDArray[np.bool_]:
        """For each row whether it is among `clips` (a few more where files have several) chosen by a hash of their
        file's path, (rows,); all rows, where there are no more.

        All rows of a file stand on one side: its excerpts show the same things. The choice does not depend on the order
        of rows, and changes little as rows are added.

        Raises:
            ValueError: their number is below 0.
        """
        if clips < 0:
            raise ValueError(f"val_clips={clips} must be at least 0, which holds out none")
        if clips == 0:
            return np.zeros(len(self), bool)
        every = self.files()
        different = pc.unique(every)
        number = np.asarray(pc.index_in(every, value_set=different))  # (rows,) which file
        count = np.bincount(number, minlength=len(different))
        hashed = (
            (sha256(file.encode(errors="surrogateescape")).digest(), index)
            for index, file in enumerate(values(pa.chunked_array([different])))
        )
        chosen: list[int] = []
        taken = 0
        for _, index in heapq.nsmallest(clips, hashed):  # each has one row at least, so more are never needed
            if taken >= clips:
                break
            chosen.append(index)
            taken += int(count[index])
        if taken > clips:
            log.info("val_clips=%d: %d clips are held out, all those of %d files", clips, taken, len(chosen))
        mask = np.zeros(len(count), bool)
        mask[chosen] = True
        return mask[number]  # of files -> of rows

    def report(self) -> int:
        """Says what the clips are, and how many lack a caption: a wrong folder or manifest shows here. Returns how many
        are images."""
        stills, files = int(pc.sum(self.images).as_py() or 0), pc.count_distinct(self.table.column("path")).as_py()
        log.info("%d clips of %d files: %d videos, %d images", len(self), files, len(self) - stills, stills)
        without = self.uncaptioned()
        if empty := pc.sum(without).as_py() or 0:
            first = self[pc.index(without, True).as_py()]
            log.warning(
                "%s of %d clips have no caption, e.g. %s: they are learnt without a prompt; write %s beside it, or the "
                "manifest's column caption",
                "all" if empty == len(self) else empty,
                len(self),
                first.id,
                first.path.with_suffix(".txt").name,
            )
        return stills


def part_of(start: float | None, end: float | None) -> str:
    """What stands behind a file's name where only a part of it is meant."""
    return "" if start is None and end is None else f"#{start or 0:g}-{'' if end is None else f'{end:g}'}"


def values(column: pa.ChunkedArray) -> Iterator[Any]:
    """Each value as Python's object, a few of them at a time."""
    for begin in range(0, len(column), BATCH):
        yield from column.slice(begin, BATCH).to_pylist()


def read_manifest(
    root: str | os.PathLike[str] | None,
    manifest: str | os.PathLike[str] | None,
    columns: Sequence[str] = (),
    also: Sequence[str] = (),
    every: bool = False,
    shard_cache: str | None = None,
    opened: bool = True,
    frame_columns: Sequence[str] = (),
) -> Manifest:
    """Reads a list of clips.

    Args:
        root: folder that the paths are relative to; None: the folder of the manifest.
        manifest: a .csv, .jsonl or .parquet file, or shards (`shards.py`); None takes every video and image in `root`
            and below (`folder.py`), with the captions in files beside them (`captions.py`).
        columns: of the manifest, to be read beside those that every run reads.
        also: columns that are wanted, but do not belong to the clips: those of a filter.
        every: look for files behind the first rows too, before it is an error that none is there.
        shard_cache: folder for shards that are fetched, or the indices of those that are streamed.
        opened: whether the files will be opened, so that some must be there; not those of a latent cache.
        frame_columns: more of the manifest's columns, of lists of numbers: as many for each frame of the file.

    Raises:
        FileNotFoundError: no such folder or manifest, or none of the first files is in `root`.
        ValueError: no clips, a column is missing, or a value does not fit its column.
    """
    if root is None and manifest is None:
        raise ValueError("no clips: give data.root=FOLDER, or a list of them, data.manifest=FILE")
    if root is not None and not Path(root).is_dir():
        raise FileNotFoundError(f"data.root={root}: no such folder")
    keys = {"columns": columns, "frame_columns": frame_columns}
    asked = " ".join(f"data.{key}=[{','.join(names)}]" for key, names in keys.items() if names)
    columns = [*dict.fromkeys((*columns, *frame_columns))]
    shards = manifest is not None and are_shards(manifest)
    if columns and (manifest is None or shards):
        what = "a folder has" if manifest is None else "shards have"
        raise ValueError(f"{asked}: {what} no columns; give a list of the clips as data.manifest=FILE")
    if own := [name for name in columns if name in (*STATES, CLASS, "fps")]:
        raise ValueError(f"{asked}: {own[0]} cannot be asked for, since it has a meaning of its own; rename the column")
    if manifest is None:
        root = Path(root)  # type: ignore[arg-type]
        table = read_folder(root)
    elif shards:
        root, table = read_shards(os.fspath(manifest), None if root is None else Path(root), shard_cache)
    else:
        root = Path(manifest).parent if root is None else Path(root)
        table = read_table(Path(manifest), columns, also)
    clips = Manifest(root, table, tuple(columns), tuple(frame_columns))
    for name in frame_columns:
        if len(clips) and (kind := table.column(name).type) != NUMBERS:
            what = "texts" if kind == TEXT else "numbers"
            raise ValueError(
                f"data.manifest={manifest}, column {name}: it holds {what}, and data.frame_columns=[{name}] asks for"
                " lists of numbers, as many for each frame of a file; .jsonl and .parquet can hold them"
            )
    if len(clips) == 0:
        raise ValueError(
            f"{manifest}: no rows"
            if manifest
            else f"data.root={root}: no videos ({' '.join(VIDEOS)}) and no images in this folder or below"
        )
    look_at = len(clips) if every else min(LOOK_AT, len(clips))
    paths = clips.table.column("path").slice(0, look_at)
    if opened and not shards and not any(is_there(root / path) for path in values(paths)):
        raise FileNotFoundError(
            f"none of the first {look_at} files of {manifest or root} is there, e.g. {root / paths[0].as_py()}; "
            "set data.root to the folder that the paths are relative to"
        )
    return clips


def is_there(path: Path) -> bool:
    """Whether there is such a file, or a shard that it may be in."""
    return path.is_file() or any(parent.suffix == TAR and parent.is_file() for parent in path.parents)


def chosen(clips: Manifest, filter: Filter | None) -> Manifest:
    """Without the rows that `scripts/validate_data.py` found a fault with, and those that the filter does not take.

    Raises:
        ValueError: a column that the filter asks for is not there, or no row is left.
    """
    clips = without_faults(clips)
    if filter is None:
        return clips
    left = clips.taken(taken_by(filter, clips), "filter")
    if len(left) == 0:
        raise ValueError(f"{filter.key}={filter.text}: takes none of {len(clips)} clips")
    left = replace(left, chosen_by={**left.chosen_by, "filter": filter.text})
    log.info("%s=%s takes %d of %d clips", filter.key, filter.text, len(left), len(clips))
    return left


def told_apart(clips: Manifest, held_out: Filter, most: int) -> tuple[Manifest, Manifest]:
    """The rows that a filter does not take, and `most` of those that it takes (`Manifest.drawn`).

    Raises:
        ValueError: a column that the filter asks for is not there, or nothing is left on one of the sides.
    """
    mask = taken_by(held_out, clips)
    rest, held = clips.taken(pc.invert(mask)), clips.taken(mask)
    if len(rest) == 0 or (len(held) == 0 and most > 0):
        what = "all" if len(rest) == 0 else "none"
        raise ValueError(f"{held_out.key}={held_out.text}: takes {what} of {len(clips)} clips")
    chosen_ones = held.taken(pa.array(held.drawn(most)))
    log.info("%s=%s holds out %d of %d clips; %d are validated on", held_out.key, held_out.text, len(held), len(clips),
             len(chosen_ones))  # fmt: skip
    by = {"val_filter": held_out.text}
    return replace(rest, chosen_by={**rest.chosen_by, **by}), replace(chosen_ones, chosen_by={**held.chosen_by, **by})


def taken_by(filter: Filter, clips: Manifest) -> pa.ChunkedArray:
    """For each row whether a filter takes it: bool (rows,). Raises ValueError where a column is not there."""
    if KIND in filter.columns and KIND not in clips.table.column_names:
        clips = clips.with_column(KIND, pc.if_else(clips.images, "image", "video"))
    return filter.mask(clips.table)


def without_faults(clips: Manifest) -> Manifest:
    """Without the rows whose `status` says that they cannot be used. Raises ValueError where none is left."""
    if "status" not in clips.table.column_names:
        return clips
    status = clips.table.column("status")
    # A manifest may have a column of this name with another meaning.
    wrong = pc.is_in(status, value_set=pa.array(list(FAULTS), pa.string()))
    counts = pc.value_counts(status.filter(wrong)).to_pylist()
    for each in sorted(counts, key=lambda each: -each["counts"]):
        clips = replace(clips, left_out={**clips.left_out, f"status {each['values']}": each["counts"]})
    if not counts:
        return clips
    listed = ", ".join(f"{count} {by.removeprefix('status ')}" for by, count in clips.left_out.items())
    left = clips.taken(pc.invert(wrong))
    if len(left) == 0:
        raise ValueError(f"the column status says of all {len(clips)} clips that they cannot be used: {listed}")
    log.info("%d of %d clips are left out by their status: %s", len(clips) - len(left), len(clips), listed)
    return left
