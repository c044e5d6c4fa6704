"""Findings on the disk while clips are checked, so that a check that was killed goes on where it was."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.json
from numpy.typing import NDArray

from data.checks import Finding, by_name
from data.columns import FOUND

NUMBER = "row"
BLOCK = 65536  # bytes that are read at a time from the end of the file
CHECKED = "checked"  # the one key of the first line


class Journal:
    """A line of JSON for each finding, behind a line that says what is being checked, and how.

    A process that is killed while it writes leaves half a line at the end, which is cut off when the check goes on.

    Args:
        path: of the file.
        about: what must be the same for the findings to be of use: plain values.

    Raises:
        ValueError: the file is there, and of another list or other settings.
    """

    def __init__(self, path: Path, about: Mapping[str, Any]) -> None:
        self.path = path
        head = json.dumps({CHECKED: about}, sort_keys=True)
        if path.exists():
            with path.open("rb+") as file:
                file.truncate(_whole_lines(file))
                file.seek(0)
                first = file.readline().decode("utf-8", errors="replace").strip()
            if first and first != head:
                raise ValueError(
                    f"{path} holds findings of a check that was not ended, and {_difference(first, about)}: give the"
                    " same command again to go on with it, or remove the file to begin anew"
                )
        self.file = path.open("a", encoding="utf-8")
        if path.stat().st_size == 0:
            self._write(head)

    def add(self, number: int, finding: Finding) -> None:
        """Keeps the finding of a row."""
        self._write(json.dumps({NUMBER: number, **by_name(finding)}))

    def done(self) -> NDArray[np.int64]:
        """Numbers of the rows that are checked."""
        numbers = [json.loads(line)[NUMBER] for line in self._lines()]
        return np.array(numbers, np.int64)

    def findings(self) -> pa.Table:
        """All findings in the order of their rows: the columns `FOUND`, and the row's number."""
        self.file.flush()
        schema = pa.schema({NUMBER: pa.int64(), **FOUND})
        options = pyarrow.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
        # A line longer than a block is an error of Arrow's: findings are far shorter.
        read = pyarrow.json.ReadOptions(block_size=2**24)
        table = pyarrow.json.read_json(os.fspath(self.path), read_options=read, parse_options=options)
        return table.slice(1).sort_by(NUMBER)  # without the line about the check

    def close(self) -> None:
        self.file.close()

    def remove(self) -> None:
        self.close()
        self.path.unlink()

    def _write(self, line: str) -> None:
        self.file.write(line + "\n")
        self.file.flush()

    def _lines(self) -> Iterator[str]:
        with self.path.open(encoding="utf-8") as file:
            next(file, None)
            yield from file


def _whole_lines(file: BinaryIO) -> int:
    """Bytes of a file up to the end of its last whole line."""
    end = file.seek(0, os.SEEK_END)
    while end > 0:
        begin = max(0, end - BLOCK)
        file.seek(begin)
        if (found := file.read(end - begin).rfind(b"\n")) >= 0:
            return begin + found + 1
        end = begin
    return 0


def _difference(first: str, about: Mapping[str, Any]) -> str:
    try:
        before = json.loads(first)[CHECKED]
        name = next(name for name in about if before.get(name) != json.loads(json.dumps(about[name])))
        return f"there {name}={before.get(name)}, here {about[name]}"
    except (ValueError, TypeError, KeyError, AttributeError, StopIteration):
        return "of something else"
