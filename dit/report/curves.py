"""Curves of metrics: one a run, and the mean over seeds with its 95 % interval for each group."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dit.report.groups import Group
from dit.report.runs import Run
from dit.scores import Measure
from dit.statistics import Floats, columnwise

AXES = ("seen/tokens", "seen/flops", "speed/seconds")  # what a curve can be drawn along, beside the step
FIRST = (
    "val/x0_error",
    "val/loss",
    "train/loss",
    "val/psnr",
    "world/all",
)  # what is looked at first, where a run has it
# Metrics that rank runs, and whether larger is better. Losses rank the steps of one run alone.
RANKS = {"val/x0_error": False, "val/eps_error": False, "val/velocity_error": False, "val/psnr": True}
WORLD = "world/"  # what samples show of their prompts: shares of right ones, and errors
LOSSES = ("val/loss", "train/loss")
POINTS = 600  # of a line at most


@dataclass(frozen=True)
class Line:
    """One run's values, or the mean of a group's with its interval. All `(S,)`, floats.

    run: by its place in the report; None for a mean. count: runs that a mean is of, at each step.
    """

    group: int
    run: int | None
    step: Floats
    value: Floats
    low: Floats | None = None
    high: Floats | None = None
    count: Floats | None = None


@dataclass(frozen=True)
class Curve:
    """A metric over training. averaged: how many rows each point is the mean of; more than 1 in long runs."""

    metric: str
    lines: list[Line]
    averaged: int = 1


def names(runs: Sequence[Run]) -> list[str]:
    """The metrics that can be drawn, those that are looked at first in front, then in the order of the tables."""
    there = dict.fromkeys(name for run in runs for name in run.metrics if name not in AXES)
    return [*(name for name in FIRST if name in there), *(name for name in there if name not in FIRST)]


def kind_of(metric: str) -> Measure:
    """What is known of a metric by its name: whether larger is better. Also of one noise level, frame or shape."""
    if metric.startswith(WORLD):
        return Measure(metric, "", not metric.endswith(("_error", "_worst")))
    whole = re.sub(r"_(level|frame|shape)_.*", "", metric)
    return Measure(metric, "dB" if whole == "val/psnr" else "", False if whole in LOSSES else RANKS.get(whole))


def curve(metric: str, runs: Sequence[Run], groups: Sequence[Group], most: int = POINTS) -> Curve:
    """The lines of a metric. Values that are not finite are left out; where a line has more than `most` points, each
    point is the mean of equally many rows that follow one another."""
    finite = [_finite(run, metric) for run in runs]
    longest = max((len(step) for step, _ in finite), default=0)
    averaged = max(1, -(-longest // most))
    lines: list[Line] = []
    for place, group in enumerate(groups):
        own = {run: finite[run] for run in group.runs if len(finite[run][0])}
        if len(own) > 1:
            lines += _mean(place, list(own.values()), averaged)
        for run, (step, value) in own.items():
            lines.append(Line(place, run, _thinned(step, averaged), _thinned(value, averaged)))
    return Curve(metric, lines, averaged)


def _finite(run: Run, metric: str) -> tuple[Floats, Floats]:
    step, value = run.metrics.get(metric, (np.zeros(0), np.zeros(0)))
    good = np.isfinite(value)
    return step[good], value[good]


def _thinned(values: Floats, every: int) -> Floats:
    if every == 1:
        return values
    whole = len(values) // every * every
    means = values[:whole].reshape(-1, every).mean(axis=1)
    return means if whole == len(values) else np.append(means, values[whole:].mean())


def _mean(group: int, own: Sequence[tuple[Floats, Floats]], averaged: int) -> list[Line]:
    """The mean at the steps at which all runs have a value that have not ended before; at least two.

    One line for each set of runs: the mean of fewer is no continuation of the mean of more.
    """
    ends = sorted({float(step[-1]) for step, _ in own})
    lines, after = [], -np.inf
    for end in ends:
        going = [(step, value) for step, value in own if step[-1] >= end]
        if len(going) < 2:
            break
        steps = going[0][0]
        for step, _ in going[1:]:
            steps = np.intersect1d(steps, step, assume_unique=True)
        steps = steps[(steps > after) & (steps <= end)]
        after = end
        if not len(steps):
            continue
        values = np.stack([_thinned(value[np.isin(step, steps)], averaged) for step, value in going])
        mean, low, high = columnwise(values)
        at = _thinned(steps, averaged)
        lines.append(Line(group, None, at, mean, low, high, np.full(len(at), float(len(going)))))
    return lines


def along(runs: Sequence[Run], most: int = POINTS) -> list[dict[str, tuple[Floats, Floats]]]:
    """For each run: axis -> (steps, its values there), by which a step is turned into tokens, FLOPs or seconds. An axis
    begins with 0 at step 0, since a run may be validated before the first row that states its cost."""
    found = []
    for run in runs:
        own = {}
        for axis in AXES:
            step, value = _finite(run, axis)
            if len(step):
                picked = np.unique(np.linspace(0, len(step) - 1, min(most, len(step))).round().astype(int))
                begin = [0.0] if step[0] > 0 else []
                own[axis] = (np.concatenate([begin, step[picked]]), np.concatenate([begin, value[picked]]))
        found.append(own)
    return found
