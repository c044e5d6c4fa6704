"""Variants x seeds at an equal budget: which variant differs from the baseline by more than seeds do, and at what cost.

Plain values in, a `Comparison` out; of it come a table in Markdown, plain values for JSON, and rows for the page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from dit.report.significance import holm, paired, told_apart
from dit.report.words import interval, number, quantity, span
from dit.scores import Measure
from dit.statistics import Estimate, estimate

CLOSE = 0.01  # share by which a run may take more or less than was planned, without a note
COST = {
    "steps": Measure("steps", "step"),
    "tokens": Measure("tokens", "tokens"),
    "flops": Measure("FLOP", "FLOP"),
    "seconds": Measure("time", "s"),
}
Values = Mapping[str, Mapping[int, float]]  # variant -> seed -> a metric's value


@dataclass(frozen=True)
class Compared:
    """A variant under one metric.

    Attributes:
        mean: over its seeds; None where none has a value.
        difference: to the baseline, over the seeds that both have; None of the baseline, and where they share none.
        p: two-sided, of that difference alone; None where there is none, or of one seed.
        corrected: p corrected for all comparisons of its family.
        verdict: `baseline`, `better`, `worse`, `higher`, `lower` (where it is not known which is better), `not told
            apart`, or `` where nothing can be said.
    """

    mean: Estimate | None
    difference: Estimate | None = None
    p: float | None = None
    corrected: float | None = None
    verdict: str = ""


@dataclass(frozen=True)
class Comparison:
    """All variants under all metrics.

    Attributes:
        baseline: its label.
        first: the metric that decides. Its comparisons are one family; those of all other metrics are another.
        kinds: metric -> what it is. rows: metric -> variant -> what came of it.
        costs: variant -> each of `COST` -> the mean over its runs, with its interval.
        runs: variant -> how many runs it has.
    """

    baseline: str
    first: str
    kinds: dict[str, Measure]
    rows: dict[str, dict[str, Compared]]
    costs: dict[str, dict[str, Estimate]]
    runs: dict[str, int]

    @property
    def variants(self) -> list[str]:
        return list(self.runs)


def compare(
    values: Mapping[str, Values],
    kinds: Mapping[str, Measure],
    baseline: str,
    costs: Mapping[str, Mapping[int, Mapping[str, float]]],
) -> Comparison:
    """Compares variants.

    Args:
        values: metric -> variant -> seed -> value, all finite; every metric has every variant, and the first decides.
        kinds: of each metric.
        baseline: a variant. costs: variant -> seed -> each of `COST`.
    """
    first = next(iter(values))
    rows: dict[str, dict[str, Compared]] = {}
    families: dict[bool, list[tuple[str, str]]] = {True: [], False: []}  # of tests; True: those of the first metric
    for metric, of_variants in values.items():
        base = of_variants[baseline]
        rows[metric] = {}
        for variant, own in of_variants.items():
            mean = estimate(list(own.values()))
            if variant == baseline:
                rows[metric][variant] = Compared(mean, verdict="baseline")
                continue
            seeds = [seed for seed in own if seed in base]
            found = paired([own[seed] for seed in seeds], [base[seed] for seed in seeds])
            if found is None:
                rows[metric][variant] = Compared(mean)
                continue
            rows[metric][variant] = Compared(mean, found.difference, found.p)
            if found.p is not None:
                families[metric == first].append((metric, variant))
    for tests in families.values():
        single = [rows[metric][variant] for metric, variant in tests]
        corrected = holm([each.p for each in single if each.p is not None])
        for (metric, variant), each, p in zip(tests, single, corrected, strict=True):
            rows[metric][variant] = Compared(each.mean, each.difference, each.p, p, _verdict(each, p, kinds[metric]))
    return Comparison(
        baseline,
        first,
        {metric: kinds[metric] for metric in values},
        rows,
        {
            variant: {
                name: mean for name in COST if (mean := estimate([own[name] for own in of.values() if name in own]))
            }
            for variant, of in costs.items()
        },
        {variant: len(own) for variant, own in costs.items()},
    )


def _verdict(each: Compared, corrected: float, kind: Measure) -> str:
    assert each.difference is not None
    if not told_apart(corrected):
        return "not told apart"
    higher = each.difference.mean > 0
    if kind.larger is None:
        return "higher" if higher else "lower"
    return "better" if higher == kind.larger else "worse"


def off_budget(seen: float, budget: float) -> float:
    """By which share of the budget a run misses it; above 0: it took more."""
    return seen / budget - 1


HEAD = ["variant", "runs", "mean", "difference to the baseline", "p", "p corrected", "verdict"]
COST_HEAD = [kind.title for kind in COST.values()]


def rows_of(comparison: Comparison, metric: str) -> list[list[str]]:
    """One row a variant under one metric, as `HEAD`, with `COST_HEAD` behind it under the first."""
    kind = comparison.kinds[metric]
    rows = []
    for variant, each in comparison.rows[metric].items():
        runs = f"{each.mean.count}" if each.mean is not None else "0"
        if each.difference is not None and each.mean is not None and each.difference.count < each.mean.count:
            runs += f", {each.difference.count} of them in pairs"
        row = [
            variant,
            runs,
            _with_interval(each.mean, kind),
            _with_interval(each.difference, kind, signed=True),
            _p(each.p),
            _p(each.corrected),
            each.verdict or "–",
        ]
        if metric == comparison.first:
            costs = comparison.costs.get(variant, {})
            row += [quantity(costs[name].mean, kind.unit) if name in costs else "–" for name, kind in COST.items()]
        rows.append(row)
    return rows


def titled(comparison: Comparison, metric: str) -> str:
    """`val/x0_error, lower is better`."""
    kind = comparison.kinds[metric]
    unit = f" ({kind.unit})" if kind.unit and kind.unit != "share" else ""
    better = {True: ", higher is better", False: ", lower is better", None: ""}[kind.larger]
    return f"{metric}{unit}{better}"


def explained(comparison: Comparison) -> list[str]:
    """What the columns are, a line each."""
    tests = sum(row.p is not None for row in comparison.rows[comparison.first].values())
    others = sum(
        row.p is not None for metric, of in comparison.rows.items() if metric != comparison.first for row in of.values()
    )
    lines = [
        f"Means are over seeds with 95 % intervals (Student's t). Differences to {comparison.baseline} are taken seed"
        " by seed; each interval is of one difference alone.",
        f"p is of Student's paired test, two-sided. It is corrected (Holm) for the {tests} comparison"
        f"{'s' if tests != 1 else ''} of {comparison.first}, which decides"
        + (f", and for the {others} of all other metrics together." if others else ".")
        + " A variant is told apart where the corrected p is below 0.05.",
    ]
    return [*lines, "Not told apart does not mean equal: the interval of the difference says what it may still be."]


def markdown(comparison: Comparison) -> str:
    """The tables, one a metric."""
    parts = []
    for metric in comparison.rows:
        head = HEAD + (COST_HEAD if metric == comparison.first else [])
        lines = [head, ["---"] * len(head), *rows_of(comparison, metric)]
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        parts.append(f"### {titled(comparison, metric)}\n\n{table}")
    return "\n\n".join(parts)


def text(comparison: Comparison) -> str:
    """The tables for a terminal, in columns."""
    parts = []
    for metric in comparison.rows:
        head = HEAD + (COST_HEAD if metric == comparison.first else [])
        lines = [head, *rows_of(comparison, metric)]
        widths = [max(len(line[place]) for line in lines) for place in range(len(head))]
        shown = ["  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines]
        parts.append("\n".join([titled(comparison, metric), *shown]))
    return "\n\n".join(parts)


def plain(comparison: Comparison) -> dict[str, Any]:
    """All numbers, for JSON."""
    return asdict(comparison)


def _with_interval(each: Estimate | None, kind: Measure, signed: bool = False) -> str:
    if each is None:
        return "–"
    sign = "+" if signed and each.mean > 0 else ""
    behind = "" if signed and kind.unit == "share" else interval(each, kind.unit)
    if signed and kind.unit == "share" and each.low is not None and each.high is not None:
        behind = f"[{100 * each.low:+.0f}, {100 * each.high:+.0f}]"  # a difference may be below 0
    return f"{sign}{quantity(each.mean, kind.unit)}" + (f" {behind}" if behind else "")


def _p(p: float | None) -> str:
    if p is None:
        return "–"
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}"


def cost_line(costs: Mapping[str, float]) -> str:
    """`134 steps, 274 k tokens, 3.33 TFLOP, 52 s`."""
    words = {"steps": "{} steps", "tokens": "{} tokens", "flops": "{}", "seconds": "{}"}
    shown = {
        name: span(value) if name == "seconds" else quantity(value, COST[name].unit) for name, value in costs.items()
    }
    return ", ".join(words[name].format(value) for name, value in shown.items())


def many(items: Sequence[str], most: int = 5) -> str:
    """The first few of a list, and how many more there are."""
    more = f" and {number(len(items) - most)} more" if len(items) > most else ""
    return ", ".join(items[:most]) + more
