"""A short name for what a set of clips is: which clips with which captions, in which order."""

from __future__ import annotations

import os
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa

BATCH = 65536  # rows at a time: a manifest may have millions


def fingerprint(root: Path, table: pa.Table) -> str:
    """64 bits in hex, of all rows and columns of a manifest (`data.manifest` says which are read).

    Where the files lie does not count: a path below `root` counts from there on. What they hold is not read. Columns
    without any value count as absent ones.
    """
    digest, base = sha256(), os.path.abspath(root)
    for name in sorted(table.column_names):
        column = table.column(name)
        if column.null_count < len(column):
            digest.update(f"{name}:{len(column)}:".encode())
            for values in _batches(column):
                digest.update("".join(_counted(_below(base, v) if name == "path" else v) for v in values).encode())
    return digest.hexdigest()[:16]


def _batches(column: pa.ChunkedArray) -> Iterator[list[Any]]:
    for begin in range(0, len(column), BATCH):
        yield column.slice(begin, BATCH).to_pylist()


def _below(base: str, path: str) -> str:
    return os.path.relpath(path, base) if os.path.isabs(path) and Path(path).is_relative_to(base) else path


def _counted(value: Any) -> str:
    """Values one after another without a doubt where one ends."""
    text = "" if value is None else str(value)  # of several captions: their list
    return f"{'-' if value is None else len(text)}:{text}"
