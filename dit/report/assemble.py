"""A report: what is known of some runs, put side by side, before it becomes a page or figures."""

from __future__ import annotations

import difflib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dit.report import clips, curves, groups, measures
from dit.report.ablation import Comparison
from dit.report.clips import Wall
from dit.report.curves import Curve
from dit.report.groups import Difference, Group
from dit.report.measures import MeasureTable
from dit.report.runs import Run, Say, find, read
from dit.scores import Measure
from dit.statistics import Estimate, estimate

NUMBERS = 400_000  # on a page, in all lines of all curves: some megabytes
OPENED = 4  # curves that are shown at first, unless others are asked for
FEWEST = 60  # points of a line, however many there are
# What a run has come to, beside the metrics that are looked at first.
COST = {
    "seen/tokens": Measure("tokens seen", "tokens"),
    "seen/flops": Measure("arithmetic", "FLOP"),
    "speed/seconds": Measure("time", "s"),
}


@dataclass(frozen=True)
class Report:
    """Runs and groups are named by their places here.

    opened: the metrics whose curves are shown at first. measures: a table for each suite. notes: what is missing or to
    be known, a line each. made: seconds since 1970. comparison: of variants, where the runs are those of an ablation.
    """

    runs: list[Run]
    groups: list[Group]
    differences: list[Difference]
    curves: list[Curve]
    opened: list[str]
    outcomes: MeasureTable
    measures: list[MeasureTable]
    walls: list[Wall]
    notes: list[str]
    made: float
    comparison: Comparison | None = None

    def group_of(self, run: int) -> int:
        return next(place for place, group in enumerate(self.groups) if run in group.runs)


def assemble(folders: Sequence[Path], *, metrics: Sequence[str] = (), videos: int, say: Say) -> Report:
    """Reads runs and puts them side by side.

    Args:
        folders: runs, and folders that hold runs. metrics: curves that come first. videos: how many are shown at most.
        say: is told, a line each, what was asked for and is not there; all else is made nevertheless.

    Raises:
        ValueError: there is nothing to report on.
    """
    lines: list[str] = []  # an error says them too, so they are said once it is known that there is none
    found = find(folders, lines.append)
    runs = read(found, lines.append)
    if not runs:
        raise ValueError("; ".join(lines) or "no run is named: scripts/report.py runs/mine")
    there = curves.names(runs)
    for metric in metrics:
        if metric not in there:
            near = difflib.get_close_matches(metric, there, n=3, cutoff=0.3) or there[:3]
            hint = f"; did you mean {' or '.join(near)}?" if near else ", or any yet"
            lines.append(f"no run has a metric {metric}{hint}")
    for line in lines:
        say(line)
    made = groups.grouped(runs)
    asked = [metric for metric in metrics if metric in there]
    wanted = list(dict.fromkeys([*asked, *there]))
    points = max(FEWEST, min(curves.POINTS, NUMBERS // max(1, 3 * len(wanted) * (len(runs) + len(made)))))
    tables = measures.by_suite(
        [(group.label, [(runs[place].name, runs[place].measured) for place in group.runs]) for group in made]
    )
    lines += groups.notes(runs, made)
    return Report(
        runs=runs,
        groups=made,
        differences=groups.differences(runs, made),
        curves=[curves.curve(metric, runs, made, points) for metric in wanted],
        opened=asked or ([metric for metric in curves.FIRST if metric in there] or there)[:OPENED],
        outcomes=_outcomes(runs, made, there),
        measures=tables,
        walls=clips.walls([run.name for run in runs], [run.clips for run in runs], videos),
        notes=lines + [line for table in tables for line in table.notes],
        made=time.time(),
    )


def _outcomes(runs: Sequence[Run], made: Sequence[Group], there: Sequence[str]) -> MeasureTable:
    """The last values of the metrics that are looked at first, and what they cost; one row a group."""
    ranks = {**curves.RANKS, f"{curves.WORLD}all": True}
    shown = {metric: Measure(metric, "", ranks.get(metric)) for metric in curves.FIRST if metric in there}
    kinds = {"step": Measure("step", "step"), **shown, **COST}
    rows: list[tuple[str, int | None, dict[str, Estimate]]] = []
    for place, group in enumerate(made):
        row = {}
        for column in kinds:
            own = [runs[run] for run in group.runs]
            values = [run.step if column == "step" else run.last(column) for run in own]
            joined = estimate([float(value) for value in values if value is not None])
            if joined is not None:
                row[column] = joined
        rows.append((group.label, place, row))
    used = {column: kind for column, kind in kinds.items() if any(column in row for _, _, row in rows)}
    return MeasureTable(used, rows, {place: len(group.runs) for place, group in enumerate(made)}, [])
