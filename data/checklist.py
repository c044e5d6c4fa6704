"""The check of a whole list of clips: what is to be looked at, what was found, and what becomes of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data import enrich, tables
from data.checks import Checks, Finding
from data.columns import FOUND, KIND, OK, STATES, TEXT, spelt
from data.duplicates import duplicates
from data.filter import Filter
from data.fingerprint import fingerprint
from data.journal import NUMBER, Journal
from data.manifest import Manifest, Row, read_manifest, taken_by
from data.report import summary
from data.rights import is_allowed
from data.shards import are_shards

PROGRESS = ".progress"  # behind the name of what will be written


@dataclass(frozen=True)
class Settings:
    """What is checked, and what becomes of it.

    Attributes:
        manifest: the list, or None for the clips of `root`.
        root: folder that paths are relative to; None: the manifest's own.
        out: where the list with its findings is written.
        shard_cache: folder for shards that are fetched.
        columns: that a run asks for, which must be there.
        checks: what is looked at in each clip.
        duplicates: whether clips that look as an earlier one does are faults.
        licences: those that are allowed; None allows all.
        filter: rows that it does not take are faults, too.
        max_bytes: the longest caption that a run reads; None: any.
    """

    manifest: str | None
    root: Path | None
    out: Path
    shard_cache: str | None
    columns: tuple[str, ...]
    checks: Checks
    duplicates: bool
    licences: Sequence[str] | None
    filter: Filter | None
    max_bytes: int | None


class Checklist:
    """A context in which clips are checked; `finish` behind it writes the result.

    Rows that name the same part of the same file, with other captions, are checked once.

    Raises:
        ValueError, FileNotFoundError: what is asked for cannot be done; nothing is written.
    """

    def __init__(self, settings: Settings, decoders: Sequence[str]) -> None:
        self.settings = settings
        out = settings.out
        if out.suffix not in tables.READERS:
            raise ValueError(f"out={out}: cannot write {out.suffix or 'no suffix'}; use {', '.join(tables.READERS)}")
        if not out.parent.is_dir():
            raise FileNotFoundError(f"out={out}: no folder {out.parent}")
        if out.is_dir():
            raise ValueError(f"out={out} is a folder; name a file")
        asked = settings.manifest
        self.table = None if asked is None or are_shards(asked) else Path(asked)
        if self.table is not None and self.table.exists() and out.exists() and out.samefile(self.table):
            raise ValueError(f"out={out} is the manifest itself; write to another file")
        self.clips = self._read()
        self.groups, self.firsts = _parts(self.clips)
        about = {
            "clips": fingerprint(self.clips.root, self.clips.table.select(["path", *self._parts_named()])),
            "checks": json.loads(json.dumps(settings.checks, default=vars)),
            "decoders": list(decoders),
        }
        self.journal = Journal(out.with_name(out.name + PROGRESS), about)
        self.done = self.journal.done()

    def _parts_named(self) -> list[str]:
        return [name for name in ("start", "end") if name in self.clips.table.column_names]

    def _read(self) -> Manifest:
        settings, also = self.settings, []
        if settings.filter is not None and self.table is not None:
            there = tables.names(self.table)
            settings.filter.check_columns([*there, *FOUND, KIND])
            also = [name for name in settings.filter.columns if spelt(name, there) and name not in FOUND]
        elif settings.filter is not None:
            settings.filter.check_columns([*STATES, "licence", "source", *FOUND, KIND])
        return read_manifest(
            settings.root, settings.manifest, settings.columns, also, every=True, shard_cache=settings.shard_cache
        )

    @property
    def total(self) -> int:
        """Parts of files to be checked."""
        return len(self.firsts)

    @property
    def ready(self) -> int:
        """Those that an earlier process has checked."""
        return len(self.done)

    @property
    def bad(self) -> int:
        """Faults among `ready`."""
        return pc.sum(pc.not_equal(self.journal.findings().column("status"), OK)).as_py() or 0 if self.ready else 0

    def waiting(self) -> Iterator[tuple[int, Row]]:
        """Rows that are still to be checked, with their numbers."""
        for row in np.setdiff1d(self.firsts, self.done).tolist():
            yield row, self.clips[row]

    def add(self, row: int, finding: Finding) -> None:
        self.journal.add(row, finding)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is not None:
            self.journal.close()

    def finish(self) -> dict[str, Any]:
        """Writes the list with its findings and the report, and returns the report (`report.summary`)."""
        settings = self.settings
        told = self.journal.findings()
        place = np.searchsorted(np.asarray(told.column(NUMBER)), self.firsts)[self.groups]
        found = told.select(list(FOUND)).take(pa.array(place))
        moved = enrich.mover(self.clips.root, settings.out)
        found = self._judged(found, moved)
        clips = _with(self.clips, found)
        report = summary(clips, settings.out, settings.max_bytes)

        def rows() -> Iterator[enrich.Cells]:
            return enrich.rows_of(self.table) if self.table is not None else enrich.of_table(self.clips.table)

        enrich.write_enriched(settings.out, rows, found, moved)
        enrich.write_text(
            settings.out.with_suffix(".report.json"), json.dumps(report, indent=2, ensure_ascii=False) + "\n"
        )
        self.journal.remove()
        return report

    def _judged(self, found: pa.Table, moved: Any) -> pa.Table:
        """With the faults that a clip alone does not show: its licence, its doubles, the filter."""
        settings = self.settings
        status = np.array(found.column("status").to_pylist(), object)
        reason = np.array(found.column("reason").to_pylist(), object)
        doubles = np.full(len(status), "", object)

        def mark(wrong: Any, fault: str, why: Any) -> None:
            rows = np.flatnonzero(np.asarray(wrong, bool) & (status == OK))
            status[rows] = fault
            for row in rows:
                reason[row] = why(row)

        if settings.licences is not None:
            there = self.clips.table.column("licence") if "licence" in self.clips.table.column_names else None
            mark(
                ~np.asarray(is_allowed(self.clips, settings.licences)),
                "licence",
                lambda row: f"licence {(there[row].as_py() if there is not None else '') or 'unknown'} is not allowed",
            )
        if settings.duplicates:
            of = duplicates(self._contents(found), _filled(found, "looks"), self._files(), status == OK)
            for row in np.flatnonzero(of >= 0):
                id = self.clips[int(of[row])].id
                doubles[row] = moved(id)
            mark(of >= 0, "duplicate", lambda row: f"looks as {doubles[row]} does")
        if settings.filter is not None:
            text = settings.filter.text
            mark(~np.asarray(taken_by(settings.filter, _with(self.clips, found))), "filtered", lambda _: f"not {text}")
        for name, column in (("status", status), ("reason", reason), ("duplicate_of", doubles)):
            found = found.set_column(found.column_names.index(name), name, pa.array(column.tolist(), TEXT))
        return found

    def _contents(self, found: pa.Table) -> list[str]:
        hashes = pc.fill_null(found.column("hash"), "")
        parts = pc.binary_join_element_wise(hashes, _part_texts(self.clips), "#")
        return pc.if_else(pc.equal(hashes, ""), "", parts).to_pylist()

    def _files(self) -> np.ndarray:
        files = self.clips.files()
        return np.asarray(pc.index_in(files, value_set=pc.unique(files)))


def _part_texts(clips: Manifest) -> pa.ChunkedArray:
    """Start and end of each row as one text."""
    empty = pa.chunked_array([pa.repeat("", len(clips))])
    there = clips.table.column_names
    ends = [pc.fill_null(clips.table.column(n).cast(TEXT), "") if n in there else empty for n in ("start", "end")]
    return pc.binary_join_element_wise(*ends, "-")


def _parts(clips: Manifest) -> tuple[np.ndarray, np.ndarray]:
    """For each row which of the different parts of files it is (rows,), and the first row of each part (parts,)."""
    keys = pc.binary_join_element_wise(clips.table.column("path"), _part_texts(clips), "\n")
    different = pc.unique(keys)
    groups = np.asarray(pc.index_in(keys, value_set=different))
    firsts = np.full(len(different), len(groups), np.int64)
    np.minimum.at(firsts, groups, np.arange(len(groups)))
    return groups, firsts


def _filled(table: pa.Table, name: str) -> list[str]:
    texts: list[str] = pc.fill_null(table.column(name), "").to_pylist()
    return texts


def _with(clips: Manifest, found: pa.Table) -> Manifest:
    """The clips with what was found out, in place of what their list said of that before."""
    kept = clips.table.select([name for name in clips.table.column_names if name not in FOUND])
    for name in FOUND:
        kept = kept.append_column(name, found.column(name))
    return Manifest(clips.root, kept)
