"""Lists of clips: a CSV, JSONL or Parquet file, or a folder of videos.

Columns: `path` (relative to the root folder, or absolute), `caption`, and optionally `start` and `end` in seconds, the
part of the file to use. Other columns (licence, source, ...) may be there and are not read.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

EXTENSIONS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".webm")
COLUMNS = {"path": pa.string(), "caption": pa.string(), "start": pa.float64(), "end": pa.float64()}
REQUIRED = ("path", "caption")
LOOK_AT = 16  # rows whose files are looked for when a manifest is read; all of them missing means a wrong root


@dataclass(frozen=True)
class Row:
    """One clip: a file, or the part of it from `start` to `end` seconds."""

    path: Path
    caption: str
    id: str
    start: float
    end: float


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
            caption=values["caption"] or "",
            id=values["path"] + part,
            start=0.0 if start is None else start,
            end=float("inf") if end is None else end,
        )

    def split(self, held_out: int) -> tuple[Manifest, Manifest]:
        """The rest, and `held_out` clips chosen by a hash of their path and part.

        The choice does not depend on the order of rows, and changes little as rows are added.

        Raises:
            ValueError: nothing would be left.
        """
        if not 0 <= held_out < len(self):
            raise ValueError(
                f"val_clips={held_out} would leave nothing to train on: the manifest has {len(self)} clips; "
                f"at most {len(self) - 1}"
            )
        keys = [sha256(self[index].id.encode()).digest() for index in range(len(self))]
        chosen = np.zeros(len(self), bool)
        chosen[sorted(range(len(self)), key=keys.__getitem__)[:held_out]] = True
        return Manifest(self.root, self.table.filter(pa.array(~chosen))), Manifest(
            self.root, self.table.filter(pa.array(chosen))
        )


def read_manifest(root: str | os.PathLike[str], manifest: str | os.PathLike[str] | None) -> Manifest:
    """Reads a list of clips.

    Args:
        root: folder that the paths are relative to.
        manifest: a .csv, .jsonl or .parquet file; None takes every video in `root` and its subfolders, in order of
            their names, with captions from text files beside them (`clip.txt` for `clip.mp4`) where there are any.

    Raises:
        FileNotFoundError: no such folder or manifest, or none of the first files is in `root`.
        ValueError: no clips, a column is missing, or a value does not fit its column.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"data.root={root}: no such folder")
    table = _folder(root) if manifest is None else _typed(_table(Path(manifest)), Path(manifest))
    clips = Manifest(root, table)
    if len(clips) == 0:
        raise ValueError(
            f"{manifest}: no rows"
            if manifest
            else f"data.root={root}: no videos ({' '.join(EXTENSIONS)}) in this folder or below"
        )
    first = [clips[index].path for index in range(min(LOOK_AT, len(clips)))]
    if not any(path.is_file() for path in first):
        raise FileNotFoundError(
            f"none of the first {len(first)} files of {manifest} is there, e.g. {first[0]}; "
            "set data.root to the folder that the paths are relative to"
        )
    return clips


def _table(path: Path) -> pa.Table:
    if not path.is_file():
        raise FileNotFoundError(f"data.manifest={path}: no such file")
    readers = {".csv": _csv, ".jsonl": pyarrow.json.read_json, ".parquet": pyarrow.parquet.read_table}
    if path.suffix not in readers:
        raise ValueError(f"data.manifest={path}: cannot read {path.suffix or 'no suffix'}; use {', '.join(readers)}")
    if path.stat().st_size == 0:
        raise ValueError(f"data.manifest={path}: the file is empty")
    try:
        return readers[path.suffix](os.fspath(path))
    except pa.ArrowInvalid as error:
        raise ValueError(f"data.manifest={path}: {_one_line(error)}") from None


def _csv(path: str) -> pa.Table:
    return pyarrow.csv.read_csv(
        path,
        parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
        # Text stays text: a caption "7" or "null" is a caption.
        convert_options=pyarrow.csv.ConvertOptions(column_types=COLUMNS, strings_can_be_null=False),
    )


def _typed(table: pa.Table, manifest: Path) -> pa.Table:
    """The known columns of a manifest, each of its type; every row has a path."""
    if missing := [name for name in REQUIRED if name not in table.column_names]:
        raise ValueError(
            f"data.manifest={manifest}: no column {' or '.join(missing)}; it has {', '.join(table.column_names)}"
        )
    columns = {}
    for name, type in COLUMNS.items():
        if name not in table.column_names:
            continue
        try:
            columns[name] = table.column(name).cast(type)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise ValueError(f"data.manifest={manifest}: column {name}: {_one_line(error)}") from None
    paths = columns["path"].to_pylist()
    if without := [number for number, path in enumerate(paths, start=1) if not path]:
        raise ValueError(f"data.manifest={manifest}: row {without[0]} has no path")
    return pa.table(columns)


def _folder(root: Path) -> pa.Table:
    files = sorted(file for file in root.rglob("*") if file.suffix.lower() in EXTENSIONS and file.is_file())
    captions = []
    for file in files:
        text = file.with_suffix(".txt")
        captions.append(" ".join(text.read_text(encoding="utf-8").split()) if text.is_file() else "")
    return pa.table(
        {
            "path": pa.array([file.relative_to(root).as_posix() for file in files], pa.string()),
            "caption": pa.array(captions, pa.string()),
        }
    )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
