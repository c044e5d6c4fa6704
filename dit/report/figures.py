"""Figures for papers, of the numbers that the page shows: SVG and PDF, and the numbers themselves as CSV."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from dit.media.files import atomic
from dit.report.assemble import Report
from dit.report.curves import Curve, Line, along
from dit.report.measures import MeasureTable
from dit.report.words import quantity
from dit.statistics import Floats

# Okabe and Ito 2008, which readers with any colour vision tell apart; line styles tell them apart in grey.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8a6d00", "#3a3ab0", "#56b4e9", "#555b63")
STYLES = ("-", "--", "-.", ":")
WIDTH, HEIGHT = 3.4, 2.3  # inches: one column of two
FORMATS = ("svg", "pdf")
LOG_FROM = 20.0  # the largest value over the smallest, above which the axis is logarithmic, as on the page
AXES = {
    "step": ("step", 1.0),
    "seen/tokens": ("tokens", 1.0),
    "seen/flops": ("FLOP", 1.0),
    "speed/seconds": ("hours", 1 / 3600),
}
PANELS = 4  # measures side by side
STYLE: dict[str, Any] = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.2,
    "legend.frameon": False,
    "legend.fontsize": 7,
    "pdf.fonttype": 42,  # fonts as journals take them
    "svg.hashsalt": "report",  # the same figure is the same bytes
    "figure.constrained_layout.use": True,
}


def write_figures(folder: Path, report: Report, axis: str = "step") -> list[Path]:
    """Draws the curves that the page shows at first, and the measures if there are any. Returns what was written.

    Raises:
        ValueError: an axis that no curve can be drawn along.
    """
    if axis not in AXES:
        raise ValueError(f"axis={axis} is none; there are {', '.join(AXES)}")
    written = []
    for curve in report.curves:
        if curve.metric in report.opened and curve.lines:
            with styled(WIDTH, HEIGHT) as figure:
                if _draw(figure, curve, report, axis):
                    written += _save(figure, folder, curve.metric)
    for place, table in enumerate(report.measures):
        rows = -(-len(table.kinds) // PANELS)
        height = 0.5 + 0.22 * len(table.rows)
        with styled(2 * WIDTH, rows * height) as figure:
            _draw_measures(figure, table, rows)
            written += _save(figure, folder, f"measures-{place + 1}" if place else "measures")
    return [*written, _numbers(folder / "curves.csv", report)]


@contextmanager
def styled(width: float, height: float) -> Iterator[Any]:
    """A figure with the style of papers, which is no part of anybody's settings: no window, no global state."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        yield Figure(figsize=(width, height))


def _draw(figure: Any, curve: Curve, report: Report, axis: str) -> bool:
    """Whether there was anything to draw."""
    title, scale = AXES[axis]
    owners = along(report.runs)
    axes = figure.add_subplot()
    several = {line.group for line in curve.lines if line.run is None}
    drawn: list[Floats] = []
    named: set[int] = set()
    for line in curve.lines:
        x = _along(line, axis, owners, report)
        if x is None:
            continue
        colour, style = COLOURS[line.group % len(COLOURS)], STYLES[line.group % len(STYLES)]
        drawn.append(line.value)
        if line.run is not None and line.group in several:
            axes.plot(scale * x, line.value, style, color=colour, linewidth=0.5, alpha=0.4)
            continue
        label = report.groups[line.group].label if line.group not in named else None
        named.add(line.group)
        marker = "o" if len(x) <= 12 else None
        axes.plot(scale * x, line.value, style, color=colour, label=label, marker=marker, markersize=2.5)
        if line.low is not None and line.high is not None:
            axes.fill_between(scale * x, line.low, line.high, color=colour, alpha=0.18, linewidth=0)
    if not drawn:
        return False
    least, most = float(np.concatenate(drawn).min()), float(np.concatenate(drawn).max())
    bottom, top = axes.get_ylim()
    if least > 0 and most / least > LOG_FROM:
        axes.set_yscale("log")
        axes.set_ylim(max(bottom, least / (most / least) ** 0.5), min(top, most * (most / least) ** 0.5))
    elif most > least:  # a wide interval, as of two seeds, is cut off rather than let it flatten the lines
        axes.set_ylim(max(bottom, least - (most - least) / 2), min(top, most + (most - least) / 2))
    if axis != "speed/seconds":
        from matplotlib.ticker import EngFormatter

        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlabel(title)
    axes.set_ylabel(curve.metric)
    if len(report.groups) > 1 or several:
        axes.legend()
    return True


def _along(line: Line, axis: str, owners: list[dict[str, tuple[Floats, Floats]]], report: Report) -> Floats | None:
    """Where the steps of a line lie along an axis; None where its runs do not know that."""
    if axis == "step":
        return line.step
    runs = report.groups[line.group].runs if line.run is None else (line.run,)
    if any(axis not in owners[run] for run in runs):
        return None
    found = [np.interp(line.step, *owners[run][axis]) for run in runs]
    return np.asarray(np.mean(found, axis=0), np.float64)


def _draw_measures(figure: Any, table: MeasureTable, rows: int) -> None:
    names = [name for name, _, _ in table.rows]
    panels = np.asarray(figure.subplots(rows, PANELS, sharey=True, squeeze=False)).ravel()
    for panel, (measure, kind) in zip(panels, table.kinds.items(), strict=False):
        for place, (_, group, row) in enumerate(table.rows):
            each = row.get(measure)
            if each is None:
                continue
            colour = COLOURS[group % len(COLOURS)] if group is not None else "#555b63"
            panel.plot(each.mean, place, "o" if group is not None else "|", color=colour, markersize=4)
            if each.low is not None and each.high is not None:
                panel.plot([each.low, each.high], [place, place], color=colour, linewidth=1)
        panel.set_title(kind.title)
        panel.grid(axis="x", linewidth=0.3)
        if kind.unit == "share":
            panel.set_xlim(-0.04, 1.04)
            panel.xaxis.set_major_formatter(lambda value, _: quantity(value, "share").replace(".0 %", " %"))
    panels[0].set_yticks(range(len(names)), names)
    panels[0].set_ylim(len(names) - 0.5, -0.5)
    for panel in panels[len(table.kinds) :]:
        panel.set_visible(False)


def _save(figure: Any, folder: Path, name: str) -> list[Path]:
    return [save(figure, folder / f"{file_name(name)}.{kind}") for kind in FORMATS]


def save(figure: Any, path: Path) -> Path:
    """Writes a figure in one of `FORMATS`, which its suffix names; the same figure is the same bytes."""
    kind = path.suffix.removeprefix(".")
    dates: dict[str, Any] = {"Date": None} if kind == "svg" else {"CreationDate": None}
    with atomic(path) as part:
        figure.savefig(part, format=kind, metadata=dates)
    return path


def file_name(metric: str) -> str:
    """`val-x0_error` of `val/x0_error`."""
    return re.sub(r"[^\w.+-]+", "-", metric).strip("-.") or "metric"


def _numbers(path: Path, report: Report) -> Path:
    """The lines of the drawn curves: a row a point; `run` is empty for a mean over seeds."""
    with atomic(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["metric", "group", "run", "step", "value", "low", "high", "runs"])
        for curve in report.curves:
            if curve.metric not in report.opened:
                continue
            for line in curve.lines:
                run = report.runs[line.run].name if line.run is not None else ""
                low = line.low if line.low is not None else np.full(len(line.step), np.nan)
                high = line.high if line.high is not None else np.full(len(line.step), np.nan)
                count = line.count if line.count is not None else np.ones(len(line.step))
                for values in zip(line.step, line.value, low, high, count, strict=True):
                    numbers = ["" if np.isnan(value) else repr(float(value)) for value in values]
                    table.writerow([curve.metric, report.groups[line.group].label, run, *numbers])
    return path
