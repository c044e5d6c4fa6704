"""Fits loss against compute over a family of runs, and says what the next compute reaches, with its uncertainty.

    python scripts/scaling.py runs/family                            # a folder of runs, or several folders
    python scripts/scaling.py runs/s runs/m runs/l --metric val/x0_error --at 1e17 1e18
    python scripts/scaling.py runs/family --loss 0.05 --out law.svg  # the compute that a loss needs, and a figure

Each run counts with the last value of its metric and the compute (seen/flops) that it had come to by then. The law is
L(C) = L_inf + a C^-b. The size of the next network, in FLOPs a token, and the tokens that it sees are said as the
family grows: powers of the compute. Intervals are of 95 %, of the law; a single run scatters around it. They hold if
the law goes on beyond the runs. Give runs that are alike but for size and compute, each with the settings that are best
for it.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from dit.entry import one_line_errors
from dit.report.figures import COLOURS, HEIGHT, WIDTH, save, styled
from dit.report.runs import Run, find, read
from dit.report.scaling import Law, fit, grown
from dit.statistics import Estimate
from scripts.arguments import Parser

COMPUTE, TOKENS = "seen/flops", "seen/tokens"


def parser() -> Parser:
    made = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("runs", nargs="+", type=Path, help="run directories, and folders that hold some")
    made.add_argument("--metric", default="val/x0_error", help="column of metrics.csv, above 0 (val/x0_error)")
    made.add_argument("--at", type=float, nargs="+", help="computes to foretell, FLOP (10 times the largest)")
    made.add_argument("--loss", type=float, nargs="+", default=[], help="losses whose compute is wanted")
    made.add_argument("--resamples", type=int, default=2000, help="of the bootstrap (2000)")
    made.add_argument("--seed", type=int, default=0, help="of the bootstrap (0)")
    made.add_argument("--out", type=Path, help="a figure, .svg")
    return made


def main(arguments: Sequence[str]) -> None:
    asked = parser().parse_intermixed_args(arguments)
    if asked.out is not None and asked.out.suffix != ".svg":
        raise ValueError(f"--out {asked.out} must end in .svg")
    if asked.resamples < 100:
        raise ValueError(f"--resamples {asked.resamples} must be at least 100, for an interval of 95 %")
    for name, values in (("at", asked.at or []), ("loss", asked.loss)):
        for value in values:
            if not 0 < value < math.inf:
                raise ValueError(f"--{name} {value:g} must be a finite number above 0")
    runs = read(find(asked.runs, _note), _note)
    if not runs:
        raise ValueError(f"there are no runs in {', '.join(map(str, asked.runs))}")
    points = [point(run, asked.metric) for run in runs]
    law = fit([c for c, _ in points], [loss for _, loss in points], resamples=asked.resamples, seed=asked.seed)
    largest = max(c for c, _ in points)
    print(f"{asked.metric} of {len(runs)} runs = L_inf + a (C / {law.reference:.3g} FLOP)^-b")
    for name, title in (("floor", "L_inf"), ("amount", "a"), ("exponent", "b")):
        print(f"  {title:6}{words(law.parameter(name))}")
    print(f"  a run scatters around the law by {law.scatter:.2%} (standard deviation)")
    sizes = [size(run) for run in runs]
    for compute in asked.at or [10 * largest]:
        print(f"at {compute:.3g} FLOP ({compute / largest:.3g} times the largest run): {words(law.loss(compute))}")
        if 0 < min(sizes) < max(sizes):
            wanted = grown([c for c, _ in points], sizes, compute)
            tokens = Estimate(compute / wanted.mean, compute / (wanted.high or 0.0), compute / (wanted.low or 0.0))
            print(f"  as the family grows: {words(wanted)} FLOPs a token, {words(tokens)} tokens")
    for loss in asked.loss:
        print(f"for {asked.metric} {loss:g}: {needed(law.compute(loss))}")
    if asked.out is not None:
        draw(asked.out, law, points, asked.metric, max([*(asked.at or []), 10 * largest]))
        print(asked.out)


def _note(line: str) -> None:
    print(f"note: {line}", file=sys.stderr)


def point(run: Run, metric: str) -> tuple[float, float]:
    """(compute, last value of the metric) of a run. ValueError where it lacks a column."""
    for column in (metric, COMPUTE):
        if column not in run.metrics:
            raise ValueError(f"{run.folder} has no {column}; it has {', '.join(run.metrics) or 'no metrics'}")
    steps, values = run.metrics[metric]
    if not 0 < values[-1] < math.inf:
        raise ValueError(f"{run.folder} ends with {metric} {values[-1]:g}, which is no finite number above 0")
    return float(np.interp(steps[-1], *run.metrics[COMPUTE])), float(values[-1])


def size(run: Run) -> float:
    """FLOPs that a token takes, forward and backward; 0 where the run does not say."""
    if not {COMPUTE, TOKENS} <= set(run.metrics):
        return 0.0
    return float(run.metrics[COMPUTE][1][-1] / run.metrics[TOKENS][1][-1])


def words(value: Estimate) -> str:
    return f"{value.mean:.4g} ({value.low:.4g} to {value.high:.4g})"


def needed(compute: Estimate) -> str:
    """The compute of a loss, which the law may not reach."""
    if math.isinf(compute.mean):
        least = (
            "" if compute.low is None or math.isinf(compute.low) else f"; the interval begins at {compute.low:.3g} FLOP"
        )
        return f"not reached at any compute: it is not above L_inf{least}"
    end = "no end" if compute.high is None or math.isinf(compute.high) else f"{compute.high:.3g}"
    return f"{compute.mean:.3g} FLOP ({compute.low:.3g} to {end})"


def draw(path: Path, law: Law, points: Sequence[tuple[float, float]], metric: str, most: float) -> None:
    """The runs, the law and its interval, on logarithmic axes."""
    along = np.geomspace(min(c for c, _ in points), most, 100)
    found = [law.loss(float(compute)) for compute in along]
    with styled(WIDTH, HEIGHT) as figure:
        axes = figure.add_subplot()
        axes.plot(along, [each.mean for each in found], color=COLOURS[0])
        low, high = ([each.low for each in found], [each.high for each in found])
        axes.fill_between(along, np.array(low, float), np.array(high, float), color=COLOURS[0], alpha=0.18, linewidth=0)
        axes.plot(*zip(*points, strict=True), "o", color=COLOURS[1], markersize=2.5)
        axes.set(xscale="log", yscale="log", xlabel="FLOP", ylabel=metric)
        save(figure, path)


if __name__ == "__main__":
    with one_line_errors():
        main(sys.argv[1:])
