"""What a run directory holds, by name, how its table of metrics is read, and where runs lie: for whoever writes or
looks at one."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CONFIG = "config.yaml"
METRICS = "metrics.csv"
DETAILS = "details.csv"  # step, name, value: what would be too many columns of the table of metrics
HISTORY = "history.jsonl"
SAMPLES = "samples"  # previews in step-00000200/, and what sample.py and scripts/evaluate.py made in 001/, 002/, ...
DEEPEST = 4  # folders in which runs are looked for: multirun/<day>/<time>/<job>
DUE = "due.json"  # in the folder of checkpoints: tasks that are still to be done at the step of the newest one
FINDINGS = "evaluation"  # what scripts/evaluate.py found without making samples, in 001/, 002/, ...
MEASURES = "report.json"  # of scripts/evaluate.py, beside samples or findings
# Files that may be links to elsewhere, since none is ever opened to be written: weights, in whose place others are put,
# and wandb's own link to its log.
MAY_LEAD_OUT = ("checkpoints/*.ckpt", "checkpoints/*.pt", "ema/*.ckpt", "wandb/*/logs/debug-core.log")


@dataclass(frozen=True)
class Rows:
    """Rows of a table of metrics: what can be read of its file.

    columns: `step` first; no columns but that one where the head is none.
    rows: step as a whole number, all else as the text of a number; cells that are empty are left out.
    bad: lines that are no rows. cut: whether the last line was cut off, as of a run that was killed.
    """

    columns: list[str]
    rows: list[dict[str, Any]]
    bad: int
    cut: bool


def read_rows(content: bytes) -> Rows:
    """Reads a table of metrics line by line, since a stray quote would swallow all that follow it."""
    head, *lines = content.decode("utf-8", errors="replace").split("\n")
    columns = _cells(head)
    if columns[0] != "step" or len(set(columns)) != len(columns):
        return Rows(["step"], [], len(lines), False)
    last = lines.pop() if lines else ""  # "", unless a kill cut it off
    rows, bad = [], 0
    for line in lines:
        row = _row(columns, line)
        if row is not None:
            rows.append(row)
        else:
            bad += bool(line.strip())
    return Rows(columns, rows, bad, bool(last.strip()))


def _cells(line: str) -> list[str]:
    try:
        return next(csv.reader([line.rstrip("\r")]), [""]) or [""]
    except csv.Error:
        return [""]


def _row(columns: Sequence[str], line: str) -> dict[str, Any] | None:
    """A line of the table, or None when it is damaged."""
    cells = _cells(line)
    if len(cells) != len(columns):
        return None
    row: dict[str, Any] = {name: cell for name, cell in zip(columns, cells, strict=True) if cell}
    try:
        for cell in row.values():
            float(cell)
        return {**row, "step": int(row["step"])}
    except (KeyError, ValueError):
        return None


def read_details(text: str) -> list[tuple[int, str, str]]:
    """The lines of a details.csv as (step, name, the text of a number). Those that are damaged are left out, and what
    is behind the last line break, which a kill cut off."""
    found = []
    for line in text.split("\n")[1:-1]:
        try:
            step, name, value = next(csv.reader([line.rstrip("\r")]), [])
            float(value)
            found.append((int(step), name, value))
        except (csv.Error, ValueError):
            continue
    return found


def check_links(run: Path, part: str = "") -> None:
    """Raises ValueError where a link in a run directory, or in a part of one, leads out of it: what is written there
    would land elsewhere. The directory itself may be a link."""
    home = Path(os.path.realpath(run))
    for link in _links(run / part, not part):
        if Path(os.path.realpath(link)).is_relative_to(home):
            continue
        if any(link.match(each) for each in MAY_LEAD_OUT) and not os.path.isdir(link):
            continue
        raise ValueError(
            f"{link} is a link that leads out of {run}, to {os.readlink(link)}, and what is written there would land"
            " elsewhere: put what it leads to in its place, or remove it"
        )


def _links(place: Path, may_be_one: bool) -> Iterator[Path]:
    """The links in a folder, at any depth, and the folder itself where it is one and may not be."""
    if place.is_symlink() and not may_be_one:
        yield place
        return
    for folder, folders, files in os.walk(place):
        for name in (*folders, *files):
            if os.path.islink(each := os.path.join(folder, name)):
                yield Path(each)


def runs_in(folder: Path, depth: int = DEEPEST) -> list[Path]:
    """The run directories in a folder, as that of a sweep, in natural order; a run is not looked into."""
    try:
        entries = sorted((each for each in folder.iterdir() if each.is_dir()), key=natural)
    except OSError:
        return []
    runs: list[Path] = []
    for each in entries:
        if (each / CONFIG).is_file():
            runs.append(each)
        elif depth > 1 and not each.is_symlink():
            runs += runs_in(each, depth - 1)
    return runs


def natural(path: Path) -> list[tuple[int, int, str]]:
    """A key that sorts `width.96` in front of `width.384`."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", path.name) if part]


def short_names(folders: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell the runs apart: `rope`, or `monday/rope` beside `tuesday/rope`."""
    paths = [folder.resolve().parts for folder in folders]
    longest = max((len(parts) for parts in paths), default=0)
    for length in range(1, longest + 1):
        short = ["/".join(parts[-length:]) for parts in paths]
        if len(set(short)) == len(short):
            return short
    return [str(folder) for folder in folders]
