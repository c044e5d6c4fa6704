"""Lists of clips: a CSV, JSONL or Parquet file, or a folder of videos and images.

Columns: `path` (relative to the root folder, or absolute), `caption`, and optionally `start` and `end` in seconds, the
part of the file to use, and `label`, the name or number of a class (`labels.py`). Of other columns (licence, source,
motion, ...) those are read that a run asks for (`data.columns`); they travel with the clip. Several rows may name one
file: excerpts of it, or other captions.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import numpy as np
import pyarrow as pa

from data import images
from data.batch import NO_CLASS, Value
from data.folder import VIDEOS, read_folder
from data.tables import COLUMNS, read_table

log = logging.getLogger(__name__)

CLASS = "class number"  # the column that `labels.classify` adds
LOOK_AT = 16  # rows whose files are looked for when a manifest is read; all of them missing means a wrong root


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

    @property
    def is_image(self) -> bool:
        return self.path.suffix.lower() in images.EXTENSIONS


class Manifest:
    """Rows in their order.

    They stay in Arrow's memory, outside Python's objects: a list of millions of rows would be copied page by page into
    every loading process as reference counts change.
    """

    def __init__(self, root: Path, table: pa.Table) -> None:
        self.root = root
        self.table = table

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __getitem__(self, index: int) -> Row:
        values = {name: self.table.column(name)[index].as_py() for name in self.table.column_names}
        start, end = values.get("start"), values.get("end")
        part = "" if start is None and end is None else f"#{start or 0:g}-{'' if end is None else f'{end:g}'}"
        return Row(
            path=self.root / values["path"],
            captions=tuple(caption for caption in values["caption"] if caption),
            id=values["path"] + part,
            start=0.0 if start is None else start,
            end=float("inf") if end is None else end,
            label=values.get(CLASS, NO_CLASS),
            columns={name: float("nan") if values[name] is None else values[name] for name in self.columns},
        )

    @property
    def columns(self) -> list[str]:
        """Names of the columns that were asked for."""
        return [name for name in self.table.column_names if name not in COLUMNS and name != CLASS]

    def files(self) -> list[str]:
        """The file of each row: its path from the root, however the row writes it."""
        names = []
        for path in self.table.column("path").to_pylist():
            whole = os.path.normpath(os.path.join(self.root, path))
            below = os.path.relpath(whole, self.root)
            names.append(whole if below.startswith("..") else below)
        return names

    def captions(self) -> Iterator[str]:
        """All captions of all rows; "" for a row without any."""
        for batch in self.table.column("caption").iterchunks():
            for captions in batch.to_pylist():
                yield from [caption for caption in captions if caption] or [""]

    def split(self, held_out: int) -> tuple[Manifest, Manifest]:
        """The rest, and `held_out` clips (a few more where files have several) chosen by a hash of their file's path.

        All rows of a file stand on one side: its excerpts show the same things. The choice does not depend on the order
        of rows, and changes little as rows are added.

        Raises:
            ValueError: nothing would be left.
        """
        files = self.files()
        count = Counter(files)
        chosen: set[str] = set()
        taken = 0
        for file in sorted(count, key=lambda file: sha256(file.encode(errors="surrogateescape")).digest()):
            if taken >= held_out:
                break
            chosen.add(file)
            taken += count[file]
        if held_out < 0 or taken >= len(self):
            raise ValueError(
                f"val_clips={held_out} would leave nothing to train on: there are {len(self)} clips of {len(count)} "
                "files, which are held out whole; hold out fewer, or 0 for no validation"
            )
        if taken > held_out:
            log.info("val_clips=%d: %d clips are held out, all those of %d files", held_out, taken, len(chosen))
        mask = np.array([file in chosen for file in files], bool)
        return Manifest(self.root, self.table.filter(pa.array(~mask))), Manifest(
            self.root, self.table.filter(pa.array(mask))
        )

    def report(self) -> int:
        """Says what the clips are, and how many lack a caption: a wrong folder or manifest shows here. Returns how many
        are images."""
        paths = self.table.column("path").to_pylist()
        stills = sum(os.path.splitext(path)[1].lower() in images.EXTENSIONS for path in paths)
        log.info("%d clips of %d files: %d videos, %d images", len(self), len(set(paths)), len(self) - stills, stills)
        captions = self.table.column("caption").to_pylist()
        empty = [index for index, each in enumerate(captions) if not any(each)]
        if empty:
            first = self[empty[0]]
            log.warning(
                "%s of %d clips have no caption, e.g. %s: they are learnt without a prompt; write %s beside it, or the "
                "manifest's column caption",
                "all" if len(empty) == len(self) else len(empty),
                len(self),
                first.id,
                first.path.with_suffix(".txt").name,
            )
        return stills


def read_manifest(
    root: str | os.PathLike[str], manifest: str | os.PathLike[str] | None, columns: Sequence[str] = ()
) -> Manifest:
    """Reads a list of clips.

    Args:
        root: folder that the paths are relative to.
        manifest: a .csv, .jsonl or .parquet file; None takes every video and image in `root` and below (`folder.py`),
            with the captions in files beside them (`captions.py`).
        columns: of the manifest, to be read beside those that every run reads.

    Raises:
        FileNotFoundError: no such folder or manifest, or none of the first files is in `root`.
        ValueError: no clips, a column is missing, or a value does not fit its column.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"data.root={root}: no such folder")
    asked = f"data.columns=[{','.join(columns)}]"
    if columns and manifest is None:
        raise ValueError(f"{asked}: a folder has no columns; give a list of its clips as data.manifest=FILE")
    if own := [name for name in columns if name in (*COLUMNS, CLASS, "fps")]:
        raise ValueError(f"{asked}: {own[0]} cannot be asked for, since it has a meaning of its own; rename the column")
    table = read_folder(root) if manifest is None else read_table(Path(manifest), columns)
    clips = Manifest(root, table)
    if len(clips) == 0:
        raise ValueError(
            f"{manifest}: no rows"
            if manifest
            else f"data.root={root}: no videos ({' '.join(VIDEOS)}) and no images in this folder or below"
        )
    first = [clips[index].path for index in range(min(LOOK_AT, len(clips)))]
    if not any(path.is_file() for path in first):
        raise FileNotFoundError(
            f"none of the first {len(first)} files of {manifest} is there, e.g. {first[0]}; "
            "set data.root to the folder that the paths are relative to"
        )
    return clips
