"""A run as it lies on the disk: config, metrics, history, samples and what was measured of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from dit.config.renamed import current
from dit.foreign import read_yaml
from dit.report.clips import ClipFile, clips_in
from dit.report.levels import LevelTable, tables_in
from dit.report.measures import Measured, measured_in
from dit.runfiles import CONFIG, DETAILS, HISTORY, METRICS, SAMPLES, read_rows, runs_in, short_names
from dit.statistics import Floats

Columns = dict[str, tuple[Floats, Floats]]
Say = Callable[[str], None]  # takes one line about what is wrong and left out


@dataclass(frozen=True)
class Run:
    """One run directory, as far as it can be read.

    name: short, and another one for each run of a report. config: in the words of today.
    metrics: column -> (steps, values), both `(rows,)`, without empty cells; infinities and NaN stay in.
    began, ended: the last of each in its history; None where that says nothing.
    """

    folder: Path
    name: str
    config: dict[str, Any]
    metrics: Columns = field(default_factory=dict)
    clips: tuple[ClipFile, ...] = ()
    measured: tuple[Measured, ...] = ()
    levels: tuple[LevelTable, ...] = ()
    began: dict[str, Any] | None = None
    ended: dict[str, Any] | None = None
    written: float = 0.0  # when its metrics were last written, seconds since 1970

    @property
    def seed(self) -> Any:
        return self.config.get("seed")

    @property
    def step(self) -> int:
        """The last step with a row; 0 where there is none."""
        return int(max((steps[-1] for steps, _ in self.metrics.values()), default=0))

    @property
    def max_steps(self) -> int | None:
        trainer = self.config.get("trainer")
        steps = trainer.get("max_steps") if isinstance(trainer, dict) else None
        return steps if isinstance(steps, int) else None

    @property
    def state(self) -> str:
        """`finished`, `stopped`, `failed`, `running` (or killed: it left no word), or `` where nothing is known."""
        if self.ended is not None:
            return str(self.ended.get("event", ""))
        return "running" if self.began is not None else ""

    def last(self, column: str) -> float | None:
        """The last value of a column; None where there is none."""
        found = self.metrics.get(column)
        return float(found[1][-1]) if found is not None and len(found[1]) else None


def find(folders: Sequence[Path], say: Say) -> list[Path]:
    """The run directories that are meant: each folder is one, or holds some, as that of a sweep. In natural order where
    several lie in one folder, each once."""
    found: dict[Path, Path] = {}
    for folder in folders:
        if not folder.exists():
            say(f"{folder} is not there, so it is left out")
            continue
        if not folder.is_dir():
            say(f"{folder} is a file, so it is left out; a run is a folder with a {CONFIG}")
            continue
        inside = [folder] if (folder / CONFIG).is_file() else runs_in(folder)
        if not inside:
            say(f"{folder} holds no {CONFIG}, nor does a folder in it, so it is left out: it is no run and no sweep")
        for run in inside:
            found.setdefault(run.resolve(), run)
    return list(found.values())


def read(folders: Sequence[Path], say: Say) -> list[Run]:
    """Reads run directories. What cannot be read of one is said in a line each and left out; without its config a run
    is left out whole."""
    runs = []
    for folder, name in zip(folders, short_names(folders), strict=True):
        try:
            config = current(read_yaml(folder / CONFIG))
        except (ValueError, OSError) as error:
            say(f"{folder} is left out: {error}")
            continue
        metrics, written = _metrics(folder / METRICS, say)
        began, ended = _history(folder / HISTORY)
        samples = folder / SAMPLES
        measured = measured_in(folder, say)
        clips = clips_in(samples, measured, say)
        levels = _levels(folder, say)
        runs.append(Run(folder, name, config, metrics, clips, measured, levels, began, ended, written))
    return runs


def _levels(folder: Path, say: Say) -> tuple[LevelTable, ...]:
    try:
        return tables_in(folder)
    except OSError as error:
        say(f"{folder / DETAILS} cannot be read: {error.strerror}; the run has no errors by noise level and frame")
        return ()


def _metrics(file: Path, say: Say) -> tuple[Columns, float]:
    """The columns of a table and when it was written."""
    try:
        now = file.stat()
        columns, bad = _columns(file.absolute(), now.st_mtime_ns, now.st_size)
    except FileNotFoundError:
        return {}, 0.0
    except OSError as error:
        say(f"{file} cannot be read: {error.strerror}; the run has no curves")
        return {}, 0.0
    if bad:
        say(f"{file}: {bad} lines are no rows and left out")
    return columns, now.st_mtime


@lru_cache(maxsize=256)  # a page that follows some runs reads the tables of the others once
def _columns(file: Path, written: int, size: int) -> tuple[Columns, int]:
    """The columns of a table that was `written` (nanoseconds) with so many bytes, and how many lines are no rows."""
    table = read_rows(file.read_bytes())
    by_step = {row["step"]: row for row in table.rows}  # of a step that is there twice the last one
    rows = [by_step[step] for step in sorted(by_step)]
    columns: Columns = {}
    for name in table.columns[1:]:
        pairs = [(row["step"], row[name]) for row in rows if name in row]
        if pairs:
            both = np.array(pairs, dtype=np.float64)
            columns[name] = (both[:, 0], both[:, 1])
    return columns, table.bad


def _history(file: Path) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """The last start, and the end of that one if it has ended."""
    began, ended = None, None
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None, None
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict):
            began, ended = (event, None) if event.get("event") == "start" else (began, event)
    return began, ended
