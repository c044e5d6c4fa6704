"""What a suite has measured: scores with their intervals, and what must be said beside them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dit.scores import Measure
from dit.statistics import Estimate


@dataclass(frozen=True)
class Score:
    """A number, and the ends of its 95 % interval where it has one."""

    value: float
    low: float | None = None
    high: float | None = None


def scores_of(estimates: Mapping[str, Estimate | None]) -> dict[str, Score]:
    """A row of scores; a measure that there is no estimate of is left out."""
    return {name: Score(each.mean, each.low, each.high) for name, each in estimates.items() if each is not None}


@dataclass(frozen=True)
class Result:
    """What a suite has measured of one checkpoint.

    Attributes:
        folder: what `Work` gave for it; the report goes there.
        rows: name -> measure -> score. The first row is of the checkpoint, the others are what it is held against
            (real clips, chance).
        measures: what each measure is.
        protocol: plain values in which two checkpoints must agree to be compared: split, number of clips, seeds,
            sampler, hash of a feature network. What belongs to the machine is not among them.
        clips: row -> what was found of each clip. Of samples `file` (in `folder`), `prompt`, `seed`, and `reasons`, a
            line for each thing that is wrong.
        said: lines for whoever started it, in front of the table.
    """

    folder: Path
    rows: Mapping[str, Mapping[str, Score]]
    measures: Mapping[str, Measure]
    protocol: Mapping[str, Any]
    clips: Mapping[str, list[dict[str, Any]]] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)


def as_report(suite: str, title: str, checkpoint: Mapping[str, Any], result: Result) -> dict[str, Any]:
    """A result as `report.json` holds it (docs/architecture.md). JSON has no NaN: scores that are not finite are left
    out."""
    rows = {
        name: {measure: score for measure, score in row.items() if math.isfinite(score.value)}
        for name, row in result.rows.items()
    }
    return {
        "suite": suite,
        "title": title,
        "checkpoint": dict(checkpoint),
        "settings": dict(result.protocol),
        "metrics": {name: {key: score.value for key, score in row.items()} for name, row in rows.items()},
        "intervals": {
            name: {key: [score.low, score.high] for key, score in row.items() if score.low is not None}
            for name, row in rows.items()
        },
        "measures": {
            name: {"title": each.title, "unit": each.unit, "larger_is_better": each.larger}
            for name, each in result.measures.items()
        },
        "clips": dict(result.clips),
    }
