"""What was measured of a run: the JSON files that `scripts/evaluate.py` leaves beside samples and findings.

Read are `metrics` (row -> measure -> number, the first row of the samples, the others of what they are held against),
and where they are there `intervals` (row -> measure -> [low, high]), `measures` (what each is: title, unit, whether
larger is better), `clips` (what is wrong with which), `checkpoint`, `settings`, `suite` and `title`. Files of before
there were suites are of the suite `world`, and those of before there were intervals hold standard errors.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dit.runfiles import FINDINGS, MEASURES, SAMPLES
from dit.scores import Measure, own_protocol, protocol_of
from dit.statistics import NORMAL, Estimate, estimate

LARGEST = 64 * 2**20  # bytes of a file that is read
OLDEST = "world"  # the suite of files that name none


@dataclass(frozen=True)
class Measured:
    """One file of measures, of one suite.

    title: what the suite measures. wrong: file of a clip -> what is wrong with it, nothing for one that is right.
    """

    file: Path
    suite: str
    title: str
    step: int
    weights: str
    rows: dict[str, dict[str, Estimate]]
    kinds: dict[str, Measure]
    protocol: dict[str, Any]
    wrong: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def samples(self) -> dict[str, Estimate]:
        """The row of the samples."""
        return next(iter(self.rows.values()))


def measured_in(run: Path, say: Callable[[str], None]) -> tuple[Measured, ...]:
    """All measures of a run, of the latest step last; of one step the file written last."""
    found = []
    for file in (file for folder in (SAMPLES, FINDINGS) for file in sorted((run / folder).glob(f"*/{MEASURES}"))):
        try:
            if file.stat().st_size > LARGEST:
                raise ValueError(f"it has {file.stat().st_size:,} bytes, more than {LARGEST:,}")
            content = json.loads(file.read_text(encoding="utf-8"))
            found.append((file.stat().st_mtime, _measured(file, content)))
        except (ValueError, OSError, RecursionError) as error:
            say(f"{file} holds no measures that can be read ({' '.join(str(error).split())[:120]})")
    found.sort(key=lambda each: (each[1].step, each[0]))
    return tuple(each for _, each in found)


def _measured(file: Path, content: Any) -> Measured:
    metrics = _mapping(content, "metrics")
    intervals, errors = _mapping(content, "intervals", {}), _mapping(content, "standard_errors", {})
    clips, about = _mapping(content, "clips", {}), _mapping(content, "measures", {})
    checkpoint, settings = _mapping(content, "checkpoint", {}), _mapping(content, "settings", {})
    if not metrics:
        raise ValueError("its metrics are empty")
    rows = {}
    for name, values in metrics.items():
        if not isinstance(values, dict):
            raise ValueError(f"metrics.{name} is no mapping")
        count = len(clips[name]) if isinstance(clips.get(name), list) else 1
        rows[str(name)] = {
            str(measure): _estimate(value, _of(intervals, name, measure), _of(errors, name, measure), count)
            for measure, value in values.items()
            if _number(value)
        }
    own = clips.get(next(iter(metrics)))
    of_samples = [each for each in own if isinstance(each, dict)] if isinstance(own, list) else []
    wrong = {
        str(each["file"]): tuple(map(str, each["reasons"]))
        for each in of_samples
        if "file" in each and isinstance(each.get("reasons"), list)
    }
    asked = [(each.get("prompt"), each.get("seed")) for each in of_samples]
    step = checkpoint.get("step")
    return Measured(
        file=file,
        suite=str(content.get("suite", OLDEST)),
        title=str(content.get("title", "")),
        step=step if isinstance(step, int) else 0,
        weights=str(checkpoint.get("weights", "")),
        rows=rows,
        kinds={measure: _kind(measure, about.get(measure)) for row in rows.values() for measure in row},
        protocol=protocol_of(settings) | {"prompts and seeds": asked},
        wrong=wrong,
    )


def _mapping(content: Any, key: str, default: Any = None) -> dict[str, Any]:
    value = content.get(key, default) if isinstance(content, dict) else default
    if not isinstance(value, dict):
        raise ValueError(f"{key} is no mapping")
    return value


def _of(table: Mapping[str, Any], row: str, measure: str) -> Any:
    values = table.get(row)
    return values.get(measure) if isinstance(values, dict) else None


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _estimate(mean: float, interval: Any, error: Any, count: int) -> Estimate:
    if isinstance(interval, list) and len(interval) == 2 and all(map(_number, interval)):
        return Estimate(float(mean), float(interval[0]), float(interval[1]), count)
    if _number(error):
        return Estimate(float(mean), mean - NORMAL * error, mean + NORMAL * error, count)
    return Estimate(float(mean), None, None, count)


def _kind(measure: str, about: Any) -> Measure:
    about = about if isinstance(about, dict) else {}
    larger = about.get("larger_is_better")
    title = str(about.get("title", measure.replace("_", " ")))
    return Measure(title, str(about.get("unit", "")), larger if isinstance(larger, bool) else None)


@dataclass(frozen=True)
class MeasureTable:
    """Measures of groups of runs, of one suite. rows: (name, group or None for what samples are held against, measure
    -> estimate).

    runs: how many of its runs each group's row is of. notes: in what the runs were measured differently, a line each.
    title: what the suite measures.
    """

    kinds: dict[str, Measure]
    rows: list[tuple[str, int | None, dict[str, Estimate]]]
    runs: dict[int, int]
    notes: list[str]
    title: str = ""


def tabled(groups: Sequence[tuple[str, Sequence[tuple[str, Measured | None]]]]) -> MeasureTable | None:
    """One row a group, from the latest measures of each of its runs, and one for each thing that they are held against.

    Of several runs it is their mean with Student's interval over seeds, of a single one its own interval over clips.
    A measure that has a protocol of its own (the settings under its name) is another one where that differs.

    Args:
        groups: (label, (name, measures or None) of each run).
    """
    groups = _apart(groups)
    there = [(name, each) for _, runs in groups for name, each in runs if each is not None]
    if not there:
        return None
    kinds: dict[str, Measure] = {}
    for _, each in there:
        for measure, kind in each.kinds.items():
            kinds.setdefault(measure, kind)
    rows: list[tuple[str, int | None, dict[str, Estimate]]] = []
    counts: dict[int, int] = {}
    for place, (label, runs) in enumerate(groups):
        own = [each for _, each in runs if each is not None]
        if own:
            counts[place] = len(own)
            rows.append((label, place, {measure: joined for measure in kinds if (joined := _joined(own, measure))}))
    against: dict[str, dict[str, Estimate]] = {}
    for _, each in there:
        for name, row in list(each.rows.items())[1:]:
            against.setdefault(name, row)
    rows += [(name, None, row) for name, row in against.items()]
    return MeasureTable(kinds, rows, counts, _differing(there), there[0][1].title)


def by_suite(groups: Sequence[tuple[str, Sequence[tuple[str, Sequence[Measured]]]]]) -> list[MeasureTable]:
    """One such table for each suite, from the latest measures of each run.

    Args:
        groups: (label, (name, all its measures, the latest last) of each run).
    """
    suites = dict.fromkeys(each.suite for _, runs in groups for _, measured in runs for each in measured)
    tables = []
    for suite in suites:
        latest = [
            (label, [(name, next((each for each in reversed(own) if each.suite == suite), None)) for name, own in runs])
            for label, runs in groups
        ]
        if (table := tabled(latest)) is not None:
            tables.append(table)
    return tables


def _apart(
    groups: Sequence[tuple[str, Sequence[tuple[str, Measured | None]]]],
) -> list[tuple[str, list[tuple[str, Measured | None]]]]:
    """The same groups; a measure under its second protocol is called `fvd[i3d] (2)`, and so on."""
    met: dict[str, list[str]] = {}  # measure -> its protocols, as texts

    def told(each: Measured) -> Measured:
        numbers = {}
        for measure in each.kinds:
            own, protocols = own_protocol(each.protocol, measure), met.setdefault(measure, [])
            if own not in protocols:
                protocols.append(own)
            numbers[measure] = protocols.index(own) + 1
        ends = {measure: f" ({number})" if number > 1 else "" for measure, number in numbers.items()}
        kinds = {name + ends[name]: replace(kind, title=kind.title + ends[name]) for name, kind in each.kinds.items()}
        rows = {row: {name + ends[name]: value for name, value in own.items()} for row, own in each.rows.items()}
        return replace(each, kinds=kinds, rows=rows)

    return [(label, [(name, each and told(each)) for name, each in runs]) for label, runs in groups]


def _joined(measured: Sequence[Measured], measure: str) -> Estimate | None:
    values = [each.samples[measure] for each in measured if measure in each.samples]
    return values[0] if len(values) == 1 else estimate([each.mean for each in values])


def _differing(measured: Sequence[tuple[str, Measured]]) -> list[str]:
    """Settings in which runs were measured differently: such rows cannot be compared."""
    first_name, first = measured[0]
    notes = []
    for name, each in measured[1:]:
        keys = [*first.protocol, *(key for key in each.protocol if key not in first.protocol)]
        other = [key for key in keys if first.protocol.get(key) != each.protocol.get(key)]
        if other:
            notes.append(f"{name} and {first_name} were not measured alike: {', '.join(other)} differ")
    return notes
