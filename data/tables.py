"""Files of rows: CSV, JSON lines and Parquet, as one table of typed columns. What does not fit is named by file, row
and column; rows are counted from 1, without the header of a CSV."""

from __future__ import annotations

import csv
import difflib
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from data.captions import from_json
from data.columns import ALWAYS, KIND, LENIENT, NEEDED, NUMBER, NUMBERS, TEXT, TEXTS, TYPES, doubled, spelt
from data.jsonlines import BadCell, objects, read_json_lines
from data.textfile import read_text

log = logging.getLogger(__name__)

BATCH = 65536  # cells that are looked through at a time for the one that is wrong
NO_VALUE = pa.array(["", "#N/A", "N/A", "NA", "NULL", "NaN", "n/a", "nan", "null"])  # texts in place of a number
TRUTHS = pa.array(["true", "false"])


def read_table(path: Path, more: Sequence[str] = (), also: Sequence[str] = ()) -> pa.Table:
    """The columns `ALWAYS` that a manifest has, and those of `more` and `also`; every row has a path.

    A caption is a text, or a list of texts: several captions of one clip. In a CSV the column `captions` holds such
    lists as JSON. Columns of `more` hold numbers (an empty cell is null), texts ("" where there is none), or lists of
    numbers, whichever the file says; those of `also` too, unless `TYPES` says what they are.

    Raises:
        FileNotFoundError: no such file. ValueError: in one line, for whatever is wrong with it.
    """
    _check_path(path)
    try:
        return _typed(*READERS[path.suffix](path, [*dict.fromkeys((*ALWAYS, *more, *also))]), more, also)
    # Arrow says what is wrong with a file by several kinds of error, of a damaged Parquet also by OSError.
    except (pa.ArrowException, OSError, ValueError, RecursionError) as error:
        raise _said(path, error) from None


def names(path: Path) -> list[str]:
    """The columns that a manifest has. Raises as `read_table`."""
    _check_path(path)
    try:
        if path.suffix == ".jsonl":  # each line may have others
            return [*dict.fromkeys(name for _, value in objects(path) for name in value)]
        return READERS[path.suffix](path, NEEDED)[1]
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _said(path, error) from None


def _check_path(path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"data.manifest={path}: no such file")
    if path.suffix not in READERS:
        raise ValueError(f"data.manifest={path}: cannot read {path.suffix or 'no suffix'}; use {', '.join(READERS)}")
    if path.stat().st_size == 0:
        raise ValueError(f"data.manifest={path}: the file is empty")


def _said(path: Path, error: Exception) -> ValueError:
    """An error of a reader, in one line that names the file, and row and column where they are known."""
    if path.suffix != ".parquet":
        read_text(path)  # if the encoding is what is wrong, this names the line
    at = f", row {error.row}, column {error.column}" if isinstance(error, BadCell) else ""
    return ValueError(f"data.manifest={path}{at}: {' '.join(str(error).split())}")


def _csv(path: Path, names: Sequence[str]) -> tuple[pa.Table, list[str]]:
    """Texts alone: what a column holds is told by all of its cells, not by the first ones."""
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        there = next(csv.reader(file), [])
    if twice := [name for name in there if there.count(name) > 1]:
        raise ValueError(f"the header names the column {twice[0]} twice")
    wanted = [name for name in dict.fromkeys(spelt(name, there) for name in names) if name is not None]
    options: dict[str, Any] = {
        "parse_options": pyarrow.csv.ParseOptions(newlines_in_values=True),
        # Text stays text: a caption "7" or "null" is a caption.
        "convert_options": pyarrow.csv.ConvertOptions(
            include_columns=wanted or there, column_types=dict.fromkeys(there, TEXT), strings_can_be_null=False
        ),
    }
    try:
        return pyarrow.csv.read_csv(os.fspath(path), **options), there
    except pa.ArrowInvalid:
        invalid: list[Any] = []

        def note(row: Any) -> str:
            invalid.append(row)
            return "error"

        options["parse_options"].invalid_row_handler = note
        serial = pyarrow.csv.ReadOptions(use_threads=False)  # which alone knows the numbers of rows
        try:
            return pyarrow.csv.read_csv(os.fspath(path), read_options=serial, **options), there
        except pa.ArrowInvalid:
            if not invalid:
                raise
            row = invalid[0]
            said = f"{row.actual_columns} cells, but the header names {row.expected_columns} columns"
            where = "" if row.number is None else f"row {row.number - 1}: "
            raise ValueError(f"{where}{said}; a text with a comma stands in quotes") from None


def _parquet(path: Path, names: Sequence[str]) -> tuple[pa.Table, list[str]]:
    there = pyarrow.parquet.read_schema(path).names
    wanted = {spelt(name, there) for name in names}
    return pyarrow.parquet.ParquetFile(path).read([name for name in there if name in wanted]), there


Reader = Callable[[Path, Sequence[str]], tuple[pa.Table, list[str]]]
"""The columns of these names that a file has (maybe others, too), and the names of all that it has."""
READERS: dict[str, Reader] = {".csv": _csv, ".jsonl": read_json_lines, ".parquet": _parquet}


def _typed(table: pa.Table, there: Sequence[str], more: Sequence[str], also: Sequence[str]) -> pa.Table:
    if (said := doubled(there)) is not None:
        raise ValueError(said)
    also = [name for name in also if name != KIND or KIND in there]
    needed = NEEDED if "label" in there else (*NEEDED, "caption")
    if missing := [name for name in dict.fromkeys((*needed, *more, *also)) if spelt(name, there) is None]:
        near = difflib.get_close_matches(missing[0], there, 1, 0.75)
        meant = f" ({near[0]} is meant?)" if near else ""
        raise ValueError(f"no column {' or '.join(missing)}{meant}; it has {', '.join(there) or 'none'}")
    columns = {"caption": pa.nulls(table.num_rows, TEXTS).fill_null([])}
    for name in dict.fromkeys((*ALWAYS, *more, *also)):
        if (own := spelt(name, table.column_names)) is None:
            if name in (*more, *also):  # of which no row has a value
                columns[name] = pa.nulls(table.num_rows, NUMBER)
            continue
        try:
            columns[name] = column(table.column(own), name, own, as_told=name in more)
        except (BadCell, pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            if name in LENIENT and name not in (*more, *also):
                log.warning("column %s is not used: %s", own, " ".join(str(error).split()))
            elif isinstance(error, BadCell):
                raise
            else:
                raise ValueError(f"column {own}: {error}") from None
    without = pc.index(pc.fill_null(columns["path"], ""), "").as_py() if "path" in columns else 0
    if without >= 0:
        raise ValueError(f"row {without + 1} has no path")
    return pa.table(columns)


def column(values: pa.ChunkedArray, name: str, own: str, as_told: bool = False) -> pa.ChunkedArray:
    """Values as the column `name` holds them, by `TYPES`; of another column, and `as_told`, as numbers, texts or lists
    of numbers, whichever they are. own: its name in the file, for messages.

    Raises:
        BadCell: one value does not fit. pa.ArrowInvalid, pa.ArrowNotImplementedError: none does.
    """
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if _is_text(values.type):
        values = values.cast(TEXT)
    values.validate(full=True)  # texts that are not UTF-8
    if name == "caption":
        return captions(values, own)
    kind = _kind(values) if as_told or name not in TYPES else TYPES[name]
    if kind == NUMBER and values.type == TEXT:
        return _numbers(values, own)
    if kind == NUMBERS and values.type == TEXT:
        raise pa.ArrowInvalid("it holds texts; a CSV has no lists of numbers")
    if kind == NUMBERS:
        _check_lists(values, own)
    if kind == TEXT and not (_is_text(values.type) or _is_number(values.type)):
        raise pa.ArrowInvalid(f"it holds {values.type}, and texts are wanted")
    typed = values.cast(kind)
    return typed if name in ("path", "label") or kind != TEXT else typed.fill_null("")


def _check_lists(values: pa.ChunkedArray, name: str) -> None:
    """Raises BadCell for a row that has no list, or one with nothing in a place."""
    if values.null_count:
        raise BadCell(pc.index(pc.is_null(values), True).as_py() + 1, name, "there is no list of numbers")
    lists = values.combine_chunks()
    numbers = lists.flatten()
    if numbers.null_count:
        place = pc.index(pc.is_null(numbers), True).as_py()
        row = pc.list_parent_indices(lists)[place].as_py() + 1
        raise BadCell(row, name, "the list has nothing in a place where a number is to be")


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _is_number(kind: pa.DataType) -> bool:
    return kind in (pa.null(), pa.bool_()) or pa.types.is_integer(kind) or pa.types.is_floating(kind)


def _kind(values: pa.ChunkedArray) -> pa.DataType:
    """What a column without a meaning of its own is read as. Raises pa.ArrowInvalid for one that cannot be."""
    kind = values.type
    if kind == TEXT:
        return NUMBER if _look_like_numbers(values) else TEXT
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return NUMBERS
    if _is_number(kind):
        return NUMBER
    raise pa.ArrowInvalid(f"it holds {kind}; numbers, texts and lists of numbers can be read")


def _look_like_numbers(texts: pa.ChunkedArray) -> bool:
    first = texts.slice(0, BATCH)  # most columns of texts are told at once
    try:
        return all(_numbers(part, "") is not None for part in (first, texts))
    except BadCell:
        return False


def _numbers(texts: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    trimmed = pc.utf8_trim_whitespace(texts)
    told = pc.if_else(pc.is_in(trimmed, value_set=NO_VALUE), pa.scalar(None, TEXT), trimmed)
    try:
        return told.cast(NUMBER)
    except pa.ArrowInvalid:
        if pc.all(pc.is_in(pc.utf8_lower(told.drop_null()), value_set=TRUTHS)).as_py():
            return pc.equal(pc.utf8_lower(told), "true").cast(NUMBER)
    for begin in range(0, len(told), BATCH):
        for row, value in enumerate(told.slice(begin, BATCH), start=begin + 1):
            try:
                value.cast(NUMBER)
            except pa.ArrowInvalid:
                raise BadCell(row, name, f"{value.as_py()[:40]!r} is no number") from None
    raise AssertionError("a column is no column of numbers, but each of its cells is one")


def captions(values: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    """Texts, or lists of them, as lists of texts; none is an empty list."""
    if pa.types.is_list(values.type) or pa.types.is_large_list(values.type):
        return values.cast(TEXTS).fill_null([])
    if values.type != TEXT and not _is_number(values.type):
        raise pa.ArrowInvalid(f"it holds {values.type}; captions are texts or lists of texts")
    texts = values.cast(TEXT).fill_null("")
    if name == "captions":
        return _listed(texts, name)
    parts = [pa.ListArray.from_arrays(np.arange(len(part) + 1, dtype=np.int32), part) for part in texts.chunks]
    return pa.chunked_array(parts, TEXTS)


def _listed(texts: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    """Lists of texts that are written as JSON; what is no list is one caption."""
    parts = []
    row = 0
    for chunk in texts.chunks:
        lists = []
        for text in chunk.to_pylist():
            row += 1
            try:
                lists.append(from_json(text) if text.lstrip().startswith("[") else [text])
            except ValueError as error:
                raise BadCell(row, name, str(error)) from None
        parts.append(pa.array(lists, TEXTS))
    return pa.chunked_array(parts, TEXTS)
