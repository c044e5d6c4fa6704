"""Compares variants at an equal budget, over several seeds: which differs from the baseline by more than seeds do?

    python scripts/ablate.py experiment=demo vary='net/position=rope3d,sincos' seeds=3 budget=2e13
    python scripts/ablate.py experiment=demo vary='net.depth=2,4 net/mlp=gelu,swiglu' budget_each=1e13      # 4 variants
    python scripts/ablate.py experiment=demo variant.base='' variant.wide='net.width=256 optim.lr=0.01' budget=1e14
    python scripts/ablate.py ... budget_each=600 budget_in=steps         # or tokens; without it FLOPs
    python scripts/ablate.py ... jobs=4                                  # four runs at once share cores and GPUs
    python scripts/ablate.py ... launcher=submitit_slurm hydra.launcher.partition=gpu hydra.launcher.timeout_min=600
    python scripts/ablate.py ... show=true                               # the plan, its commands, and nothing else

Takes the overrides of train.py; `vary` (any number) and `variant.NAME` (at least two) say what differs, and variants
are all combinations. Every variant is built before anything is trained. Each run trains for the steps that come nearest
to its budget, and its learning rate ends there. runs/NAME holds the plan, the runs, results.json, results.md and a
page. A command that was stopped or killed goes on when it is given again: finished runs stay, the others go on from
their last checkpoint. Runs that fail end no other, are listed, and tried again by the next command; the exit code is
then 1. docs/ablations.md says how to read the table. Settings:
"""

from __future__ import annotations

import multiprocessing
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tqdm import tqdm

from dit.entry import ROOT, explain, one_line_errors
from dit.entry.command import INTERRUPTED
from dit.locks import lock
from dit.report.words import span
from dit.runfiles import check_links
from scripts import arguments
from scripts.ablation import launching
from scripts.ablation.asked import LOCAL, Request, parsed
from scripts.ablation.local import Failure, Local, Stopped
from scripts.ablation.plan import NOT_WHOLE, PLAN, Plan, described, shell

EXAMPLE = "experiment=demo vary='net/position=rope3d,sincos' seeds=3 budget=2e13"
INCOMPLETE = 1  # exit code
RUNNING = "being run by another process; wait for it, or choose another name=..."


def main(typed: Sequence[str]) -> int:
    request = parsed(typed, EXAMPLE)
    if request.asked.launcher != LOCAL:
        launching.check(request.asked.launcher)
    plan = planned(request, shlex.join(["python", "scripts/ablate.py", *typed]))
    print("\n".join(described(plan)), flush=True)
    if request.asked.show:
        print("\n".join(shown(plan)))
        return 0
    if plan.folder.is_dir() and any(plan.folder.iterdir()) and not (plan.folder / PLAN).is_file():
        raise ValueError(f"{plan.folder} is there and no ablation, since it holds no {PLAN}; choose another name=...")
    for part in NOT_WHOLE:  # each run sees to its own
        check_links(plan.folder, part)
    with lock(plan.folder, RUNNING):
        plan.write()
        failures = run(plan, request.asked.jobs)
        return report(plan, failures)


def planned(request: Request, command: str) -> Plan:
    """The plan, made in a process that has gone when the runs begin: it builds every variant."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        made = pool.submit(plan_or_mistake, request, command).result()
    if isinstance(made, str):
        raise ValueError(made)
    return made


def plan_or_mistake(request: Request, command: str) -> Plan | str:
    """A mistake comes back as its line."""
    from scripts.ablation.planning import plan

    try:
        return plan(request, command)
    except Exception as error:
        message = explain(error, "train")
        if message is None:
            raise
        return message


def shown(plan: Plan) -> list[str]:
    """The commands that would be given."""
    if plan.launcher == LOCAL:
        commands = [cell.train() for cell in plan.cells]
        if plan.evaluate is not None:
            commands += [cell.evaluate() for cell in plan.cells]
    else:
        commands = [command for _, command in launching.trainings(plan)]
    return ["", *(shell(command) for command in commands)]


def run(plan: Plan, at_once: int) -> list[Failure]:
    """Does what is left, and returns what failed."""
    if plan.launcher != LOCAL:
        return launching.submit(plan, ROOT, print)
    with Progress(plan.name, sum(cell.variant.steps for cell in plan.cells)) as progress:
        return Local(min(at_once, len(plan.cells)), ROOT, progress.say, progress).run(plan.cells)


class Progress:
    """A bar on a terminal; elsewhere lines alone, each with the steps of all runs that are done and the time left.

    name: of the ablation. total: steps of all runs.
    """

    def __init__(self, name: str, total: int) -> None:
        self.total = total
        self.done = 0
        self.first: int | None = None  # steps that were done before
        self.began = time.monotonic()
        self.bar = tqdm(total=total, unit="step", desc=name, disable=None, file=sys.stderr)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def __call__(self, done: int) -> None:
        """So many steps are done."""
        if self.first is None:
            self.first = done
            self.bar.initial = done  # or the speed would be that of earlier commands, too
        self.done = done
        self.bar.update(done - self.bar.n)

    def say(self, line: str) -> None:
        new = self.done - (self.first or 0)
        left = (time.monotonic() - self.began) * (self.total - self.done) / new if new > 0 else None
        soon = f", about {span(left)} left" if left else ""
        tqdm.write(f"{line} ({self.done:,} of {self.total:,} steps{soon})")
        sys.stdout.flush()


def report(plan: Plan, failures: Sequence[Failure]) -> int:
    """Prints the table, and writes it beside the runs."""
    from dit.report.ablation import explained, text
    from scripts.ablation.results import collect, write

    def say(line: str) -> None:
        print(f"note: {line}", file=sys.stderr)

    results = collect(plan, say)
    written = write(results, failures, say)
    if results.comparison is not None:
        print(f"\n{text(results.comparison)}\n")
        print("\n".join(explained(results.comparison)))
    print("\n".join(["", *(f"note: {note}" for note in (*plan.notes, *results.notes)), *map(str, written)]))
    if failures:
        print(f"error: {len(failures)} runs failed; the same command tries them again:", file=sys.stderr)
        print("\n".join(f"  {each}" for each in failures), file=sys.stderr)
    return INCOMPLETE if failures or len(results.runs) < len(plan.cells) else 0


def guarded(task: Callable[[Sequence[str]], int], typed: Sequence[str]) -> int:
    """The exit code of a task that may be stopped."""
    try:
        return task(typed)
    except Stopped as stopped:
        print(f"stopped by {stopped}; the same command goes on from here", file=sys.stderr)
        return 128 + stopped.number
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return INTERRUPTED


if __name__ == "__main__":
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(arguments.usage(str(Path(__file__).parent / "ablation" / "asked.py"), __doc__ or ""))
        sys.exit()
    with one_line_errors("train"):
        sys.exit(guarded(main, sys.argv[1:]))
