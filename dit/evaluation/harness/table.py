"""Scores as a Markdown table: one row for a checkpoint, one for each thing that it is held against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import floor, log10
from typing import Any

from dit.scores import SHARE, own_protocol, protocol_of


def table(reports: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """A table of the reports (`result.as_report`) of one suite, by the names of their checkpoints.

    The first row of each report is of its checkpoint. The others stand once, below, where they are the same in all of
    them, and else behind the name. A measure whose own protocol (the settings under its name) is not the same in all
    reports has a column for each: `fvd[i3d]` and `fvd[i3d] (2)`.
    """
    measures: dict[str, dict[str, Any]] = {}
    for _, report in reports:
        for measure, about in report["measures"].items():
            if any(measure in row for row in report["metrics"].values()):
                measures.setdefault(measure, about)
    columns = {}  # (measure, its own protocol) -> its head
    for measure, about in measures.items():
        there = [own_protocol(report["settings"], measure) for _, report in reports if measure in report["measures"]]
        for number, own in enumerate(dict.fromkeys(there), 1):
            columns[measure, own] = _head(about) + (f" ({number})" if number > 1 else "")
    rows = []
    beside: dict[str, dict[tuple[str, ...], str]] = {}  # row -> cells -> the first checkpoint with them
    for name, report in reports:
        for place, row in enumerate(report["metrics"]):
            cells = tuple(_cell(report, row, measure, own, measures[measure]) for measure, own in columns)
            if place == 0:
                rows.append((row if len(reports) == 1 else f"{name}: {row}", *cells))
            else:
                beside.setdefault(row, {}).setdefault(cells, name)
    for row, found in beside.items():
        rows += [(row if len(found) == 1 else f"{name}: {row}", *cells) for cells, name in found.items()]
    return markdown(["", *columns.values()], rows)


def markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns of equal width, so that the text itself can be read; the first to the left, the others to the right."""
    cells = [[each.replace("|", "\\|") for each in row] for row in (heads, *rows)]
    widths = [max(3, *(len(row[place]) for row in cells)) for place in range(len(heads))]
    lines = [
        " | ".join(each.ljust(width) if place == 0 else each.rjust(width) for place, (each, width) in enumerate(row))
        for row in (zip(row, widths, strict=True) for row in cells)
    ]
    rule = " | ".join("-" * width if place == 0 else "-" * (width - 1) + ":" for place, width in enumerate(widths))
    return "\n".join(f"| {line} |" for line in (lines[0], rule, *lines[1:]))


def _head(about: Mapping[str, Any]) -> str:
    unit = "%" if about["unit"] == SHARE else about["unit"]
    return f"{about['title']} ({unit})" if unit else str(about["title"])


def _cell(report: Mapping[str, Any], row: str, measure: str, own: str, about: Mapping[str, Any]) -> str:
    """`98.4 [91.7, 99.7]`, of a share in per cent; `-` where there is no score, or one under another protocol than
    `own`."""
    value = report["metrics"][row].get(measure)
    if value is None or own != own_protocol(report["settings"], measure):
        return "-"
    interval = report["intervals"].get(row, {}).get(measure)
    if about["unit"] == SHARE:
        ends = "" if interval is None else f" [{100 * interval[0]:z.0f}, {100 * interval[1]:z.0f}]"
        return f"{100 * value:z.1f}{ends}"
    if interval is None:
        return f"{value:z.4g}"
    half = (interval[1] - interval[0]) / 2
    decimals = min(9, max(0, 1 - floor(log10(half)))) if half > 0 else 3  # two digits of the interval tell something
    return f"{value:z.{decimals}f} [{interval[0]:z.{decimals}f}, {interval[1]:z.{decimals}f}]"


def protocol(reports: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """Under which settings the scores hold, a line; and one for each checkpoint that was measured otherwise."""
    (first, report), *others = reports
    own = protocol_of(report["settings"])
    lines = ["; ".join(f"{key} {brief(value)}" for key, value in own.items())]
    for name, other in others:
        their = protocol_of(other["settings"])
        if said := _differences(own, their):
            lines.append(f"{name} was not measured as {first}, so the two cannot be compared: {'; '.join(said)}")
    return lines


def _differences(own: Mapping[str, Any], their: Mapping[str, Any]) -> list[str]:
    """What two protocols do not have in common, as `steps 6 in place of 5`. What differs in those of single measures
    stands once, with their names."""
    found: dict[str, list[str]] = {}
    for key in dict.fromkeys([*own, *their]):
        one, other = own.get(key), their.get(key)
        pairs, of = {key: (one, other)}, []
        if isinstance(one, Mapping) and isinstance(other, Mapping) and "_target_" not in one:
            pairs, of = {each: (one.get(each), other.get(each)) for each in {**one, **other}}, [key]
        for name, (was, now) in pairs.items():
            if was != now:
                found.setdefault(f"{name} {brief(now)} in place of {brief(was)}", []).extend(of)
    return [f"{said} ({', '.join(measures)})" if measures else said for said, measures in found.items()]


def brief(value: Any) -> str:
    """A plain value in a line: of a node that builds something its class and arguments."""
    if isinstance(value, Mapping):
        inside = ", ".join(f"{key}={brief(each)}" for key, each in value.items() if key != "_target_")
        name = str(value.get("_target_", "")).rpartition(".")[2]
        return f"{name}({inside})" if name else f"{{{inside}}}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(brief, value))}]"
    return "none" if value is None else str(value)
