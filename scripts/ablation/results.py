"""What an ablation has come to: values out of the directories of its runs, the comparison, files and page."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from dit.media.files import atomic
from dit.report import page
from dit.report.ablation import (
    CLOSE,
    Comparison,
    compare,
    cost_line,
    explained,
    many,
    markdown,
    off_budget,
    plain,
)
from dit.report.assemble import assemble
from dit.report.runs import Run, read
from dit.scores import Measure
from scripts.ablation.local import Failure, is_trained
from scripts.ablation.plan import Cell, Plan, described, shell

RESULTS, TABLES, PAGE = "results.json", "results.md", "report.html"
VIDEOS, MOST_BYTES = 96, 20_000_000  # of the page
COLUMNS = {"tokens": "seen/tokens", "flops": "seen/flops", "seconds": "speed/seconds"}


@dataclass(frozen=True)
class Result:
    """One run that is trained: values of metrics and measures, and what it cost, as its own files say."""

    cell: Cell
    run: Run
    values: dict[str, float]
    costs: dict[str, float]

    @property
    def off(self) -> float:
        """By which share of the budget it missed it, by what it says that it saw; NaN where it does not say."""
        plan = self.cell.plan
        seen = self.costs.get(plan.budget_in, math.nan)
        return off_budget(seen, plan.each)


@dataclass(frozen=True)
class Results:
    """comparison: None where nothing can be compared. notes: what is missing or off, a line each."""

    plan: Plan
    runs: list[Result]
    comparison: Comparison | None
    notes: list[str]


def collect(plan: Plan, say: Callable[[str], None]) -> Results:
    """Reads the runs that are trained. say: is told of files that cannot be read."""
    cells = [cell for cell in plan.cells if is_trained(cell)]
    kinds = dict(plan.metrics)
    found: list[Result] = []
    for cell in cells:
        for run in read([cell.folder], say):
            measures = _measures(run, cell.variant.steps)
            kinds |= {name: kind for name, (kind, _) in measures.items() if plan.all_measures or name in kinds}
            values = {name: value for name in kinds if (value := run.last(name)) is not None}
            values |= {name: value for name, (_, value) in measures.items()}
            found.append(Result(cell, run, values, _costs(cell, run)))
    notes = [f"{cell.label} is missing" for cell in plan.cells if cell not in cells]
    values_of = {name: there for name in kinds if (there := _of_metric(plan, found, name, notes)) is not None}
    notes += _of_budget(plan, found)
    comparison = None
    if next(iter(plan.metrics)) in values_of:
        costs_of = {
            variant.label: {each.cell.seed: each.costs for each in found if each.cell.variant == variant}
            for variant in plan.variants
        }
        comparison = compare(values_of, kinds, plan.baseline, costs_of)
    return Results(plan, found, comparison, notes)


def _of_metric(
    plan: Plan, found: Sequence[Result], metric: str, notes: list[str]
) -> dict[str, dict[int, float]] | None:
    """Variant -> seed -> value, where it is finite; None where no run has one. What lacks is noted."""
    of = {variant.label: _finite(found, variant.label, metric) for variant in plan.variants}
    lacking = [each.cell.label for each in found if each.cell.seed not in of[each.cell.variant.label]]
    if len(lacking) == len(found):
        there = sorted({name for each in found for name in (*each.run.metrics, *each.values)})
        there = [name for name in there if "_level_" not in name and "_frame_" not in name]
        if found:
            notes.append(f"no run has {metric}; there are {many(there, 12)}")
        return None
    if lacking:
        notes.append(f"{metric} is missing, or not finite, of {many(lacking)}")
    return of


def _costs(cell: Cell, run: Run) -> dict[str, float]:
    """What a run took, by the last row of its table that says so. Its last steps may be behind that row: they count as
    the others."""
    costs = {"steps": float(cell.variant.steps)}
    for name, column in COLUMNS.items():
        if column in run.metrics:
            steps, values = run.metrics[column]
            costs[name] = float(values[-1]) * max(1.0, cell.variant.steps / float(steps[-1]))
    return costs


def _measures(run: Run, step: int) -> dict[str, tuple[Measure, float]]:
    """`suite/measure` -> what it is, and what the samples of a step have; of each suite what was written last."""
    last = {each.suite: each for each in run.measured if each.step == step}
    return {
        f"{suite}/{name}": (each.kinds[name], value.mean)
        for suite, each in last.items()
        for name, value in each.samples.items()
    }


def _finite(found: Sequence[Result], label: str, metric: str) -> dict[int, float]:
    return {
        each.cell.seed: each.values[metric]
        for each in found
        if each.cell.variant.label == label and math.isfinite(each.values.get(metric, math.nan))
    }


def _of_budget(plan: Plan, found: Sequence[Result]) -> list[str]:
    """What the runs say that they took, held against the budget: one line for all, and one for each that took something
    else than it was planned to."""
    known = [each.off for each in found if math.isfinite(each.off)]
    what = {"flops": "FLOPs", "tokens": "tokens", "steps": "steps"}[plan.budget_in]
    lines = []
    if known:
        lines.append(
            f"budget: {plan.each:.4g} {what} a run; by metrics.csv the runs took {100 * min(known):+.2f} % to"
            f" {100 * max(known):+.2f} % beside it"
        )
    for each in found:
        seen, wanted = each.costs.get(plan.budget_in, math.nan), each.cell.variant.of_budget(plan.budget_in)
        off = off_budget(seen, wanted)
        if not abs(off) <= CLOSE:
            said = f"{100 * off:+.1f} %" if math.isfinite(off) else "unknown, since metrics.csv does not say"
            lines.append(f"{each.cell.label} did not take the {wanted:.4g} {what} that were planned: {said}")
    return lines


def write(results: Results, failures: Sequence[Failure], say: Callable[[str], None]) -> list[Path]:
    """Writes the results as JSON, as Markdown and as a page, beside the runs, and returns their paths."""
    plan = results.plan
    folder = plan.folder
    content: dict[str, Any] = {
        "name": plan.name,
        "command": plan.command,
        "versions": plan.versions,
        "budget": {"each": plan.each, "in": plan.budget_in},
        "seeds": list(plan.seeds),
        "baseline": plan.baseline,
        "metrics": {name: asdict(kind) for name, kind in plan.metrics.items()},
        "variants": {
            each.label: {
                "overrides": list(each.overrides),
                "follows": list(each.given),
                "steps": each.steps,
                "tokens_per_step": each.tokens,
                "flops_per_step": each.flops,
            }
            for each in plan.variants
        },
        "runs": [
            {
                "variant": each.cell.variant.label,
                "seed": each.cell.seed,
                "folder": str(each.cell.folder),
                "command": shell(each.cell.train()),
                "values": {name: value if math.isfinite(value) else None for name, value in each.values.items()},
                "costs": each.costs,
                "off_budget": each.off if math.isfinite(each.off) else None,
            }
            for each in results.runs
        ],
        "failed": [{"run": each.cell.label, "what": each.what, "why": each.why} for each in failures],
        "notes": [*plan.notes, *results.notes],
        "comparison": None if results.comparison is None else plain(results.comparison),
    }
    with atomic(folder / RESULTS) as part:
        part.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    with atomic(folder / TABLES) as part:
        part.write_text(as_markdown(results, failures), encoding="utf-8")
    written = [folder / RESULTS, folder / TABLES]
    if results.runs:
        written.append(_page(results, say))
    return written


def as_markdown(results: Results, failures: Sequence[Failure]) -> str:
    plan = results.plan
    parts = [f"# {plan.name}", f"```\n{plan.command}\n```"]
    if results.comparison is not None:
        parts.append(markdown(results.comparison).replace("### ", "## "))
        parts.append("\n".join(f"- {line}" for line in explained(results.comparison)))
    if failures:
        parts.append("## Failed\n\n" + "\n".join(f"- {each}" for each in failures))
    if lines := [*plan.notes, *results.notes]:
        parts.append("## To know\n\n" + "\n".join(f"- {line}" for line in lines))
    parts.append("## Plan\n\n```\n" + "\n".join(described(plan)) + "\n```")
    parts.append("## Runs\n\n```\n" + "\n".join(shell(cell.train()) for cell in plan.cells) + "\n```")
    costs = [f"- {each.cell.label}: {cost_line(each.costs)}" for each in results.runs]
    parts += ["\n".join(costs)] if costs else []
    code = plan.versions
    changed = f", {code['changed_files']} files changed since" if code.get("changed_files") else ""
    packages = ", ".join(f"{name} {version}" for name, version in (code.get("packages") or {}).items())
    parts.append(
        f"Made with code {str(code.get('commit') or 'unknown')[:12]}{changed}, Python {code.get('python')}, {packages},"
        f" on {code.get('device')}."
    )
    return "\n\n".join(parts) + "\n"


def _page(results: Results, say: Callable[[str], None]) -> Path:
    """The page of all runs, with the comparison on it."""
    plan = results.plan
    shown = [name for name in (*plan.metrics, "train/loss") if any(name in each.run.metrics for each in results.runs)]
    report = assemble([each.cell.folder for each in results.runs], metrics=shown, videos=VIDEOS, say=say)
    path = plan.folder / PAGE
    report = replace(report, comparison=results.comparison, notes=[*report.notes, *plan.notes, *results.notes])
    page.write(path, report, MOST_BYTES, say)
    return path
