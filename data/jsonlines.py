"""JSON lines as a table: by Arrow's reader where all lines are alike, and line by line where they are not, or one is
wrong."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.json

from data.columns import NUMBER, NUMBERS, OTHER_NAMES, TEXT, TEXTS, TYPES

BATCH = 65536
CAPTIONS = ("caption", "captions")


class BadCell(ValueError):
    """A value that does not fit its column. `row` counts from 1."""

    def __init__(self, row: int, column: str, why: str) -> None:
        self.row, self.column = row, column
        super().__init__(why)


def read_json_lines(path: Path, names: Sequence[str]) -> tuple[pa.Table, list[str]]:
    """The columns of these names, in either spelling, that the lines have (maybe others, too), and the names of all.

    Raises:
        BadCell: a value of a known column is of another kind. ValueError: a line is not a JSON object, naming its row.
    """
    own = [other for other, name in OTHER_NAMES.items() if name in names]
    known = {
        name: TYPES[OTHER_NAMES.get(name, name)] for name in (*names, *own) if OTHER_NAMES.get(name, name) in TYPES
    }
    unknown = [name for name in names if name not in known]
    for captions in (TEXT, TEXTS):
        schema = pa.schema({**known, **dict.fromkeys((name for name in CAPTIONS if name in known), captions)})
        rest = "infer" if unknown else "ignore"
        options = pyarrow.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior=rest)
        try:
            table = pyarrow.json.read_json(os.fspath(path), parse_options=options)
        except pa.ArrowException:
            continue
        # Arrow takes texts that look like dates for dates.
        if not any(
            pa.types.is_temporal(table.schema.field(name).type) for name in unknown if name in table.schema.names
        ):
            return _without_empty(table, path)
    return _without_empty(_by_line(path, known, unknown), path)


def _without_empty(table: pa.Table, path: Path) -> tuple[pa.Table, list[str]]:
    """Without columns that Arrow was told of, but no line has."""
    filled = [name for name in table.column_names if table.column(name).null_count < table.num_rows]
    first = next((value for _, value in objects(path)), {})
    return table.select(filled), [*dict.fromkeys((*first, *filled))]


def objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Row and object of each line that is not empty."""
    row = 0
    with path.open(encoding="utf-8-sig", newline="\n") as file:
        for line in file:
            if not line.strip():
                continue
            row += 1
            try:
                value = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"row {row}: not JSON ({error.msg} at character {error.pos + 1})") from None
            except RecursionError:
                raise ValueError(f"row {row}: not JSON that holds a clip: nested too deeply") from None
            if not isinstance(value, dict):
                raise ValueError(f"row {row}: {line.strip()[:40]!r} is not a JSON object {{...}}")
            yield row, value


def _by_line(path: Path, known: dict[str, pa.DataType], unknown: Sequence[str]) -> pa.Table:
    cells: dict[str, list[Any]] = {name: [] for name in (*known, *unknown)}
    parts: dict[str, list[pa.Array]] = {name: [] for name in known}
    convert: dict[str, Callable[[Any], Any]] = {
        name: CONVERSIONS[TEXTS if name in CAPTIONS else kind] for name, kind in known.items()
    }

    def put_away() -> None:
        for name, kind in known.items():
            parts[name].append(pa.array(cells[name], TEXTS if name in CAPTIONS else kind))
            cells[name].clear()

    for row, value in objects(path):
        for name in known:
            try:
                cells[name].append(None if (each := value.get(name)) is None else convert[name](each))
            except TypeError as error:
                raise BadCell(row, name, f"{json.dumps(value[name], ensure_ascii=False)[:40]} is {error}") from None
        for name in unknown:
            cells[name].append(value.get(name))
        if row % BATCH == 0:
            put_away()
    put_away()
    columns = {
        name: pa.chunked_array(arrays, TEXTS if name in CAPTIONS else known[name]) for name, arrays in parts.items()
    }
    return pa.table({**columns, **{name: _of_one_kind(name, cells[name]) for name in unknown}})


def _of_one_kind(name: str, values: list[Any]) -> pa.ChunkedArray:
    """Numbers, texts or lists of numbers, whichever the first value is."""
    first = next((value for value in values if value is not None), None)
    kind = TEXT if isinstance(first, str) else NUMBERS if isinstance(first, list) else NUMBER
    cells = []
    for row, value in enumerate(values, start=1):
        try:
            cells.append(None if value is None else CONVERSIONS[kind](value))
        except TypeError as error:
            raise BadCell(row, name, f"{json.dumps(value, ensure_ascii=False)[:40]} is {error}") from None
    return pa.chunked_array([pa.array(cells, kind)])


def _text(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise TypeError("no text")
    return str(value)


def _texts(value: Any) -> list[str]:
    if isinstance(value, list):
        return [_text(each) for each in value if each is not None]
    if isinstance(value, dict):
        raise TypeError("no caption: a text or a list of texts")
    return [_text(value)]


def _number(value: Any) -> float:
    if not isinstance(value, (int, float)):
        raise TypeError("no number")
    try:
        return float(value)
    except OverflowError:
        raise TypeError("too large a number") from None


def _numbers(value: Any) -> list[float]:
    if not isinstance(value, list):
        raise TypeError("no list of numbers")
    return [_number(each) for each in value]


CONVERSIONS: dict[pa.DataType, Callable[[Any], Any]] = {
    TEXT: _text, TEXTS: _texts, NUMBER: _number, NUMBERS: _numbers
}  # fmt: skip
