"""A manifest with what a check has found out: a row for each row, all of its columns kept."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet

from data.captions import from_json
from data.columns import FOUND, PLACES, STATES, TEXTS, TYPES
from data.jsonlines import objects

WHOLE = ("frames", "height", "width", "rotation", "scenes", *PLACES)  # numbers that are written without a point
BATCH = 65536
Cells = dict[str, Any]


def rows_of(manifest: Path) -> Iterator[Cells]:
    """Each row of a manifest with all of its columns, as the file has them."""
    csv.field_size_limit(2**31 - 1)
    if manifest.suffix == ".csv":
        with manifest.open(encoding="utf-8-sig", newline="") as file:
            yield from csv.DictReader(file)
    elif manifest.suffix == ".jsonl":
        yield from (value for _, value in objects(manifest))
    else:
        for batch in pyarrow.parquet.ParquetFile(manifest).iter_batches(BATCH):
            yield from batch.to_pylist()


def columns_of(rows: Iterable[Cells]) -> list[str]:
    """The names of all columns, in the order in which they come."""
    return [*dict.fromkeys(name for row in rows for name in row)]


def write_enriched(
    out: Path, rows: Callable[[], Iterator[Cells]], findings: pa.Table, moved: Callable[[str], str]
) -> None:
    """Writes rows with their findings, whole or not at all: .csv, .jsonl or .parquet.

    Args:
        rows: gives the rows; called twice.
        findings: the columns `FOUND`, a row for each.
        moved: path of a clip -> its path from the folder of `out`.
    """
    kept = [name for name in columns_of(rows()) if name not in FOUND]
    listed = out.suffix == ".csv" and any(isinstance(row.get("caption"), list) for row in rows())
    names = [("captions" if listed and name == "caption" else name) for name in kept] + list(FOUND)
    count = 0

    def enriched() -> Iterator[Cells]:
        nonlocal count
        source = rows()
        for begin in range(0, findings.num_rows, BATCH):
            for found in findings.slice(begin, BATCH).select(list(FOUND)).to_pylist():
                row = next(source)
                count += 1
                cells = {name: _whole(name, row.get(name)) for name in kept}
                cells["path"] = moved(str(cells["path"]))
                if listed:
                    cells["captions"] = cells.pop("caption")
                yield {**cells, **{name: _whole(name, value) for name, value in found.items()}}

    with _written(out) as file:
        if out.suffix == ".csv":
            table = csv.DictWriter(file, names, lineterminator="\n")
            table.writeheader()
            table.writerows({name: _cell(value) for name, value in row.items()} for row in enriched())
        elif out.suffix == ".jsonl":
            file.writelines(
                json.dumps({name: _json(name, value) for name, value in row.items() if value not in (None, "")}) + "\n"
                for row in enriched()
            )
        else:
            _write_parquet(Path(file.name), names, enriched())
    assert count == findings.num_rows


def _write_parquet(path: Path, names: Sequence[str], rows: Iterator[Cells]) -> None:
    """Columns without a meaning of their own are texts; what is no text is written as JSON."""
    caption = {"caption": TEXTS, "captions": TEXTS}
    schema = pa.schema([(name, caption.get(name) or TYPES.get(name, pa.string())) for name in names])
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        while batch := [row for _, row in zip(range(BATCH), rows, strict=False)]:
            arrays = [_column(name, schema.field(name).type, [row[name] for row in batch]) for name in names]
            writer.write_table(pa.table(arrays, schema=schema))


def _column(name: str, kind: pa.DataType, values: list[Any]) -> pa.Array:
    if kind == TEXTS:
        return pa.array([_captions(value) for value in values], kind)
    if kind == pa.string():
        return pa.array([_cell(value) if value is not None else None for value in values], kind)
    return pa.array([None if value in (None, "") else value for value in values]).cast(kind)


def _captions(value: Any) -> list[str]:
    if isinstance(value, list):
        return [str(each) for each in value if each is not None]
    return [] if value is None else from_json(value) if str(value).lstrip().startswith("[") else [str(value)]


def _whole(name: str, value: Any) -> Any:
    return int(value) if name in WHOLE and isinstance(value, float) and value.is_integer() else value


def _cell(value: Any) -> str:
    """A value as a CSV has it; lists are JSON."""
    if value is None:
        return ""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (list, dict, bool)) else str(value)


def _json(name: str, value: Any) -> Any:
    """Numbers of a CSV, which has texts alone, as numbers where the column means some, and its lists as lists."""
    if isinstance(value, str) and name in STATES | {"captions": TEXTS}:
        if TYPES.get(name) == pa.float64():
            return float(value)
        if name == "captions" and value.lstrip().startswith("["):
            return from_json(value)
    return value


@contextmanager
def _written(path: Path) -> Iterator[IO[str]]:
    """A file beside `path`, which takes its place if the body succeeds."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("w", encoding="utf-8", newline="") as file:
            yield file
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    with _written(path) as file:
        file.write(text)


def mover(root: Path, out: Path) -> Callable[[str], str]:
    """Path of a clip from `root` -> its path from the folder of `out`. Absolute paths stay as they are."""
    below = os.path.relpath(os.path.abspath(root), os.path.abspath(out.parent))
    if below == ".":
        return lambda path: path
    return lambda path: path if os.path.isabs(path) else os.path.normpath(os.path.join(below, path))


def of_table(table: pa.Table) -> Iterator[Cells]:
    """The rows of a folder that was read."""
    for begin in range(0, table.num_rows, BATCH):
        yield from table.slice(begin, BATCH).to_pylist()
