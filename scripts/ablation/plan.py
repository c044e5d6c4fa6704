"""The plan of an ablation, as plain values: it is what is printed, kept in plan.json, and run."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dit.media.files import atomic
from dit.report.ablation import off_budget
from dit.report.words import quantity
from dit.scores import Measure

RUNS = Path("runs")
PLAN = "plan.json"
LOGS = "logs"  # what the processes print
NOT_WHOLE = (LOGS, "multirun.yaml", ".submitit")  # what is written in place: here, by Hydra and by its launcher


@dataclass(frozen=True)
class PlannedVariant:
    """label, overrides: as `asked.Variant`. given: overrides that follow from the plan, as the number of steps.

    tokens, flops: of one step, over all devices.
    """

    label: str
    overrides: tuple[str, ...]
    given: tuple[str, ...]
    steps: int
    tokens: float
    flops: float

    def of_budget(self, budget_in: str) -> float:
        """What a run takes of a budget in FLOPs, tokens or steps."""
        return self.steps * {"flops": self.flops, "tokens": self.tokens, "steps": 1.0}[budget_in]


@dataclass(frozen=True)
class Plan:
    """What is run and compared.

    Attributes:
        shared: overrides of train.py for all variants.
        each: the budget of each run, in `budget_in`.
        metrics: what is compared, the first decides; with what is known of each.
        evaluate: arguments of scripts/evaluate.py for each run; None: runs are not evaluated.
        all_measures: whether what it measures is compared, too, beside `metrics`.
        devices: GPUs that each run trains on; 0: it trains on the CPU. gpus: that are there.
        versions: code, packages and machine.
        notes: what to know before, a line each.
    """

    name: str
    command: str
    shared: tuple[str, ...]
    variants: tuple[PlannedVariant, ...]
    seeds: tuple[int, ...]
    baseline: str
    budget_in: str
    each: float
    metrics: dict[str, Measure]
    evaluate: tuple[str, ...] | None
    all_measures: bool
    devices: int
    gpus: int
    versions: dict[str, Any]
    notes: tuple[str, ...] = ()
    launcher: str = "local"
    launch: tuple[str, ...] = field(default=())

    @property
    def folder(self) -> Path:
        return RUNS / self.name

    @property
    def cells(self) -> list[Cell]:
        """All runs, seed by seed: what is there after a while are pairs."""
        return [Cell(self, variant, seed) for seed in self.seeds for variant in self.variants]

    def write(self) -> None:
        content = {**asdict(self), "commands": [shell(cell.train()) for cell in self.cells]}
        with atomic(self.folder / PLAN) as part:
            part.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class Cell:
    """One run of the plan."""

    plan: Plan
    variant: PlannedVariant
    seed: int

    @property
    def label(self) -> str:
        return f"{self.variant.label}-seed.{self.seed}"

    @property
    def folder(self) -> Path:
        """The run directory."""
        return self.plan.folder / self.label

    @property
    def log(self) -> Path:
        """What its processes print."""
        return self.plan.folder / LOGS / f"{self.label}.txt"

    def train(self) -> list[str]:
        """The command that trains it, as one could type it."""
        own = [f"name={self.plan.name}/{self.label}", f"seed={self.seed}"]
        return ["train.py", *self.plan.shared, *self.variant.overrides, *self.variant.given, *own]

    def evaluate(self) -> list[str]:
        return ["scripts/evaluate.py", f"ckpt={self.folder}", *(self.plan.evaluate or ())]


def shell(command: Sequence[str]) -> str:
    """A command as one types it."""
    return shlex.join(["python", *command])


def described(plan: Plan) -> list[str]:
    """What the plan is, for a terminal."""
    count = len(plan.variants) * len(plan.seeds)
    unit = {"flops": "FLOP", "tokens": "tokens", "steps": "step"}[plan.budget_in]
    words = {"flops": "{}", "tokens": "{} tokens", "steps": "{} steps"}[plan.budget_in]
    each = words.format(quantity(plan.each, unit))
    whole = words.format(quantity(plan.each * count, unit))
    seeds = f"{len(plan.seeds)} seeds ({plan.seeds[0]} to {plan.seeds[-1]})"
    lines = [f"{plan.folder}: {len(plan.variants)} variants x {seeds}; a run takes {each}, all of them {whole}"]
    width = max(len(variant.label) for variant in plan.variants)
    for variant in plan.variants:
        off = round(100 * off_budget(variant.of_budget(plan.budget_in), plan.each), 1) + 0.0  # and no -0.0
        lines.append(
            f"  {variant.label:{width}}  {variant.steps:,} steps of {quantity(variant.flops, 'FLOP')} and"
            f" {quantity(variant.tokens, 'tokens')} tokens: {quantity(variant.steps * variant.flops, 'FLOP')},"
            f" {quantity(variant.steps * variant.tokens, 'tokens')} tokens ({off:+.1f} % of the budget)"
            + ("; the baseline" if variant.label == plan.baseline else "")
        )
    better = {True: "higher is better", False: "lower is better", None: "which is better is not known"}
    first, *others = [f"{name} ({better[kind.larger]})" for name, kind in plan.metrics.items()]
    lines.append(f"  {first} decides" + (f"; beside it {', '.join(others)}" if others else ""))
    if plan.evaluate is not None:
        also = ", whose measures are compared, too" if plan.all_measures else ""
        lines.append(f"  each run is evaluated: {shell(['scripts/evaluate.py', 'ckpt=...', *plan.evaluate])}{also}")
    return [*lines, *(f"  note: {note}" for note in plan.notes)]
