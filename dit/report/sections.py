"""The parts of the page, each as HTML. All that runs say goes through `escape`: prompts and names come from anyone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from html import escape

from dit.report.ablation import COST_HEAD, HEAD, Comparison, explained, rows_of, titled
from dit.report.assemble import Report
from dit.report.clips import Cell, Wall
from dit.report.levels import shade
from dit.report.levels import span as span_of
from dit.report.measures import MeasureTable
from dit.report.runs import Run
from dit.report.words import SCALED, interval, number, quantity, span
from dit.scores import Measure
from dit.statistics import Estimate

COLOURS = 8  # of the page's style, by the place of a group
MANY = 24  # differences that are shown without being asked for


def sections(report: Report) -> dict[str, str]:
    """Part of the page -> its HTML. The curves are drawn by the page itself."""
    return {
        "comparison": _comparison(report.comparison) if report.comparison is not None else "",
        "runs": _runs(report),
        "notes": _notes(report.notes),
        "differences": _differences(report),
        "outcomes": _measures(report.outcomes, report),
        "measures": "".join(_suite(table, report) for table in report.measures),
        "levels": _levels(report),
        "walls": "".join(_wall(wall, report) for wall in report.walls),
    }


def mark(group: int) -> str:
    """The colour of a group."""
    return f'<i class="mark c{group % COLOURS}" aria-hidden="true"></i>'


def _runs(report: Report) -> str:
    rows = []
    for place, group in enumerate(report.groups):
        for run in group.runs:
            rows.append(_run(report.runs[run], place, group.label, report.made))
    head = ["run", "group", "seed", "state", "step", "time", "tokens", "command", "code"]
    if all(len(group.runs) == 1 for group in report.groups):  # a column that would repeat the first
        head, rows = _without(1, [head, *rows])
    return _table(head, rows, "runs")


def _without(column: int, rows: list[list[str]]) -> tuple[list[str], list[list[str]]]:
    """The first row and the others, without a column."""
    first, *others = ([cell for place, cell in enumerate(row) if place != column] for row in rows)
    return first, others


def _run(run: Run, group: int, label: str, now: float) -> list[str]:
    seconds, tokens = run.last("speed/seconds"), run.last("seen/tokens")
    of = f" of {run.max_steps:,}" if run.max_steps else ""
    began = run.began or {}
    commit = str(began.get("commit") or "")[:8] + ("+" if began.get("changed_files") else "")
    command = str(began.get("command") or "")
    return [
        f'{mark(group)}<b title="{escape(str(run.folder))}">{escape(run.name)}</b>',
        escape(label),
        escape(str(run.seed)),
        _state(run, now),
        f"{run.step:,}{of}",
        span(seconds) if seconds is not None else "",
        quantity(tokens, "tokens") if tokens is not None else "",
        f"<details><summary><code>{escape(command)}</code></summary></details>" if command else "",
        f"<code>{escape(commit)}</code>",
    ]


def _state(run: Run, now: float) -> str:
    state = run.state
    why = str((run.ended or {}).get("why", ""))
    if not run.metrics:
        return escape(f"{state}, no metrics yet" if state else "no metrics yet")
    if state == "running":
        return f"running, last row {span(max(0.0, now - run.written))} ago"
    return f'<span title="{escape(why)}">{escape(state)}</span>' if why else escape(state)


def _notes(notes: Iterable[str]) -> str:
    lines = "".join(f"<li>{escape(line)}</li>" for line in dict.fromkeys(notes))
    return f"<ul>{lines}</ul>" if lines else ""


def _differences(report: Report) -> str:
    if len(report.groups) < 2:
        return '<p class="faint">There is one group of runs; nothing differs but seeds.</p>'
    if not report.differences:
        return '<p class="faint">The configs differ in nothing but seeds, names and how runs are watched.</p>'
    head = ["setting", *(group.label for group in report.groups)]
    rows = []
    for each in report.differences:
        usual = max(each.values, key=each.values.count)
        cells = [
            f"<code>{escape(value)}</code>" if value == usual else f'<code class="other">{escape(value)}</code>'
            for value in each.values
        ]
        rows.append([f"<code>{escape(each.key)}</code>", *cells])
    marks = [None, *range(len(report.groups))]
    shown = _table(head, rows[:MANY], "differences", marks)
    more = len(rows) - MANY
    if more > 0:
        shown += f"<details><summary>{more} more settings</summary>"
        shown += _table(head, rows[MANY:], "differences", marks) + "</details>"
    return shown


def _suite(table: MeasureTable, report: Report) -> str:
    """The measures of a suite, under its title where there are several."""
    title = f"<h3>{escape(table.title)}</h3>" if len(report.measures) > 1 and table.title else ""
    return title + _measures(table, report)


def _measures(table: MeasureTable, report: Report) -> str:
    if not table.rows:
        return ""
    best = {measure: _best(table, measure) for measure in table.kinds}
    rows = []
    for name, group, row in table.rows:
        said = _seeds(table.runs[group], len(report.groups[group].runs)) if group is not None else ""
        cells = [f"{mark(group) if group is not None else ''}{escape(name)}{said}"]
        for measure, kind in table.kinds.items():
            is_best = group is not None and best[measure] == row.get(measure) and best[measure] is not None
            cells.append(_cell(row.get(measure), kind, is_best))
        rows.append(cells)
    heads = [""] + [_head(kind) for kind in table.kinds.values()]
    return _table(heads, rows, "measures")


def _comparison(comparison: Comparison) -> str:
    """A table a metric, with what its columns are; a section of its own, which other pages do not have."""
    parts = ['<section id="comparison"><h2>Variants</h2>']
    for metric in comparison.rows:
        head = HEAD + (COST_HEAD if metric == comparison.first else [])
        rows = [[escape(cell) for cell in row] for row in rows_of(comparison, metric)]
        parts.append(f"<h3>{escape(titled(comparison, metric))}</h3>{_table(head, rows, 'measures')}")
    parts += [f'<p class="faint">{escape(line)}</p>' for line in explained(comparison)]
    return "".join([*parts, "</section>"])


def _levels(report: Report) -> str:
    """A heat map a run, weights and shape, all in the same shades; nothing where no run has one."""
    every = [table for run in report.runs for table in run.levels]
    if not every:
        return ""
    least, most = span_of(every)
    parts = ['<section id="levels"><h2>Error of x0 by noise level and frame</h2><div class="heats">']
    for place, run in enumerate(report.runs):
        for table in run.levels:
            about = ", ".join(filter(None, [f"step {table.step:,}", table.weights, table.shape]))
            head = ["noise", *(f"{frame}" for frame in table.frames)]
            rows = "".join(
                f'<tr><th scope="row">{level:g}</th>{"".join(_heat(error, least, most) for error in row)}</tr>'
                for level, row in zip(table.levels, table.errors, strict=True)
            )
            heads = "".join(f'<th scope="col">{each}</th>' for each in head)
            title = f"{mark(report.group_of(place))}{escape(run.name)} <span class='faint'>{escape(about)}</span>"
            parts.append(
                f'<div><h3>{title}</h3><div class="scroll"><table class="heat"><thead><tr>{heads}</tr></thead>'
                f"<tbody>{rows}</tbody></table></div></div>"
            )
    parts.append(
        '</div><p class="faint">Mean squared error of x0 on the validation clips. Rows: the share of noise in all'
        " frames. Columns: latent frames. Shades are logarithmic and the same for all runs, from"
        f" {number(least, 3)} to {number(most, 3)}.</p></section>"
    )
    return "".join(parts)


def _heat(error: float | None, least: float, most: float) -> str:
    if error is None:
        return '<td class="faint">–</td>'
    return f'<td class="h{shade(error, least, most)}" title="{error:.6g}">{number(error, 3)}</td>'


def _seeds(measured: int, there: int) -> str:
    if there == 1:
        return ""
    count = f"{there}" if measured == there else f"{measured} of {there}"
    return f' <span class="faint">{count} seeds</span>'


def _head(kind: Measure) -> str:
    unit = f" ({kind.unit})" if kind.unit and kind.unit not in SCALED else ""
    arrow = {True: " ↑", False: " ↓", None: ""}[kind.larger]
    return f"{kind.title}{unit}{arrow}"


def _best(table: MeasureTable, measure: str) -> Estimate | None:
    """The best mean of the groups; None where that is not known, or where it is that of several."""
    larger = table.kinds[measure].larger
    own = [row[measure] for _, group, row in table.rows if group is not None and measure in row]
    if larger is None or len(own) < 2:
        return None
    means = [each.mean for each in own]
    best = max(means) if larger else min(means)
    return own[means.index(best)] if means.count(best) == 1 else None


def _cell(each: Estimate | None, kind: Measure, best: bool) -> str:
    if each is None:
        return '<span class="faint">–</span>'
    value = escape(quantity(each.mean, kind.unit))
    spread = interval(each, kind.unit)
    behind = f' <span class="spread">{escape(spread)}</span>' if spread else ""
    return f"<b>{value}</b>{behind}" if best else f"{value}{behind}"


def _wall(wall: Wall, report: Report) -> str:
    alone = len(wall.columns) == 1
    left_out = f'<p class="faint">{wall.left_out} more prompts and seeds are left out.</p>' if wall.left_out else ""
    title = f"<h3>{escape(wall.title)}</h3>"
    if alone:
        cards = "".join(
            f'<div class="card row">{_clip(row[0], True)}</div>' for _, _, row in wall.rows if row[0] is not None
        )
        return f'<div class="wall">{title}<div class="cards">{cards}</div>{left_out}</div>'
    of_runs = {cell.run: place for *_, row in wall.rows for place, cell in enumerate(row) if cell is not None}
    marks: dict[int, str] = {}
    if len(of_runs) > 1:
        marks = {place: mark(report.group_of(run)) for run, place in of_runs.items()}
    head = "".join(
        f'<th scope="col">{marks.get(place, "")}{escape(column)}</th>' for place, column in enumerate(wall.columns)
    )
    body = []
    for prompt, seed, row in wall.rows:
        said = f'<th scope="row">{_asked(prompt, seed)}</th>'
        cells = "".join(f"<td>{_clip(cell, False)}</td>" for cell in row)
        body.append(f'<tr class="row">{said}{cells}</tr>')
    table = f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"
    return f'<div class="wall">{title}<div class="scroll">{table}</div>{left_out}</div>'


def _asked(prompt: str, seed: str) -> str:
    behind = f'<span class="faint">seed {escape(seed)}</span>' if seed else ""
    return f"<span>{escape(prompt) or '(no prompt)'}</span> {behind}"


def _clip(cell: Cell | None, with_prompt: bool) -> str:
    if cell is None:
        return '<div class="none">–</div>'
    clip = cell.clip
    said = [f"step {clip.step:,}" if clip.step is not None else "", clip.weights]
    about = _asked(clip.prompt, clip.seed) if with_prompt else ""
    if clip.wrong is not None:
        verdict = "; ".join(clip.wrong) if clip.wrong else "right"
        about += f'<span class="{"wrong" if clip.wrong else "right"}">{escape(verdict)}</span>'
    title = escape(", ".join([*filter(None, said), str(clip.file)]))
    return (
        f'<figure title="{title}"><video muted loop playsinline preload="none" data-clip="{clip.key}"'
        f' data-fps="{clip.fps:g}" width="{clip.width}" height="{clip.height}"'
        f' aria-label="{escape(clip.prompt)}, seed {escape(clip.seed)}"></video>'
        + (f"<figcaption>{about}</figcaption>" if about else "")
        + "</figure>"
    )


def _table(head: Iterable[str], rows: Iterable[list[str]], name: str, marks: Iterable[int | None] = ()) -> str:
    """head: plain text; rows: HTML. marks: the group whose colour stands before each head."""
    known: Mapping[int, int | None] = dict(enumerate(marks))
    heads = ""
    for place, each in enumerate(head):
        group = known.get(place)
        heads += f'<th scope="col">{"" if group is None else mark(group)}{escape(each)}</th>'
    body = "".join(
        "<tr>" + f'<th scope="row">{row[0]}</th>' + "".join(f"<td>{cell}</td>" for cell in row[1:]) + "</tr>"
        for row in rows
    )
    table = f"<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="scroll {name}">{table}</div>'


def when(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds):%Y-%m-%d %H:%M:%S}"
