"""Files of rows: CSV, JSON lines and Parquet, as one table of typed columns."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

from data.textfile import read_text

COLUMNS = {
    "path": pa.string(),
    "caption": pa.list_(pa.string()),
    "start": pa.float64(),
    "end": pa.float64(),
    "label": pa.string(),
}
REQUIRED = ("path", "caption")


def read_table(path: Path, more: Sequence[str] = ()) -> pa.Table:
    """The columns of `COLUMNS` that a manifest has, and those of `more`; every row has a path.

    A caption is a text, or a list of texts in JSON lines and Parquet: several captions of one clip. Columns of `more`
    hold numbers (an empty cell is null), texts ("" where there is none), or lists of numbers.

    Raises:
        FileNotFoundError: no such file. ValueError: in one line, for whatever is wrong with it.
    """
    if not path.is_file():
        raise FileNotFoundError(f"data.manifest={path}: no such file")
    readers: dict[str, Any] = {
        ".csv": _csv, ".jsonl": pyarrow.json.read_json, ".parquet": lambda file: _parquet(file, more)
    }  # fmt: skip
    if path.suffix not in readers:
        raise ValueError(f"data.manifest={path}: cannot read {path.suffix or 'no suffix'}; use {', '.join(readers)}")
    if path.stat().st_size == 0:
        raise ValueError(f"data.manifest={path}: the file is empty")
    try:
        return _typed(readers[path.suffix](os.fspath(path)), more)
    # Arrow says what is wrong with a file by several kinds of error, of a damaged Parquet also by OSError.
    except (pa.ArrowException, OSError, ValueError) as error:
        if path.suffix != ".parquet":
            read_text(path)  # if the encoding is what is wrong, this names the line
        raise ValueError(f"data.manifest={path}: {' '.join(str(error).split())}") from None


def _csv(path: str) -> pa.Table:
    return pyarrow.csv.read_csv(
        path,
        parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
        # Text stays text: a caption "7" or "null" is a caption.
        convert_options=pyarrow.csv.ConvertOptions(
            column_types={**COLUMNS, "caption": pa.string()}, strings_can_be_null=False
        ),
    )


def _parquet(path: str, more: Sequence[str]) -> pa.Table:
    columns = [name for name in (*COLUMNS, *more) if name in pyarrow.parquet.read_schema(path).names]
    return pyarrow.parquet.ParquetFile(path).read(columns)


def _typed(table: pa.Table, more: Sequence[str]) -> pa.Table:
    if missing := [name for name in (*REQUIRED, *more) if name not in table.column_names]:
        raise ValueError(f"no column {' or '.join(missing)}; it has {', '.join(table.column_names) or 'none'}")
    columns = {}
    for name in dict.fromkeys((*COLUMNS, *more)):
        if name not in table.column_names:
            continue
        column = table.column(name)
        try:
            column.validate(full=True)  # texts that are not UTF-8
            type = COLUMNS[name] if name in COLUMNS else _value_type(column)
            columns[name] = _lists(column) if name == "caption" else column.cast(type)
            if name not in COLUMNS and type == pa.string():
                columns[name] = columns[name].fill_null("")
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise ValueError(f"column {name}: {error}") from None
    paths = columns["path"].to_pylist()
    if without := [number for number, path in enumerate(paths, start=1) if not path]:
        raise ValueError(f"row {without[0]} has no path")
    return pa.table(columns)


def _value_type(column: pa.ChunkedArray) -> pa.DataType:
    """What a column of `more` is read as. Raises pa.ArrowInvalid for one that cannot be."""
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return pa.string()
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        if column.null_count or column.combine_chunks().flatten().null_count:
            raise pa.ArrowInvalid("a row has no list, or a list with nothing in a place")
        return pa.list_(pa.float64())
    if kind in (pa.null(), pa.bool_()) or pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return pa.float64()
    raise pa.ArrowInvalid(f"it holds {kind}; numbers, texts and lists of numbers can be read")


def _lists(captions: pa.ChunkedArray) -> pa.ChunkedArray:
    """Captions, texts or lists of them, as lists of texts; none is an empty list."""
    if pa.types.is_list(captions.type) or pa.types.is_large_list(captions.type):
        return captions.cast(COLUMNS["caption"]).fill_null([])
    texts = captions.cast(pa.string()).combine_chunks()
    offsets = pa.array(range(len(texts) + 1), pa.int32())
    return pa.chunked_array([pa.ListArray.from_arrays(offsets, texts.fill_null(""))])
