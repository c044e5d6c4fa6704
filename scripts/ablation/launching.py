"""Runs through one of Hydra's launchers, as submitit's for SLURM: a sweep over the seeds of each variant.

The launcher is a plug-in of Hydra's. A command hands the jobs of a variant over and waits for them; all variants wait
at once, each in a process of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

from scripts.ablation.local import Failure, failed_why, is_evaluated, is_trained, stop_with_parent
from scripts.ablation.plan import LOGS, Cell, Plan

PLUGINS = {"submitit": ("hydra_plugins.hydra_submitit_launcher", "requirements-slurm.txt")}
PAUSE = 1.0  # seconds between two looks at the processes


def check(launcher: str) -> None:
    """Raises ValueError where the plug-in that a launcher belongs to is known, and not installed."""
    module, requirements = PLUGINS.get(launcher.partition("_")[0], ("", ""))
    if not module:
        return
    try:
        there = find_spec(module) is not None
    except ModuleNotFoundError:  # hydra_plugins itself
        there = False
    if not there:
        raise ValueError(f"launcher={launcher} needs a plug-in of Hydra's: pip install -r {requirements}")


def trainings(plan: Plan) -> list[tuple[list[Cell], list[str]]]:
    """For each variant the runs that are not finished, and the command that submits them."""
    found = []
    for variant in plan.variants:
        cells = [cell for cell in plan.cells if cell.variant == variant and not is_trained(cell)]
        if cells:
            found.append((cells, training(plan, cells)))
    return found


def training(plan: Plan, cells: Sequence[Cell]) -> list[str]:
    """One sweep over seeds. Hydra names its jobs `NAME-seed.0`, as `Cell.label` does; a single one is named here."""
    first = cells[0]
    if len(cells) == 1:
        own = [f"name={plan.name}/{first.label}", f"seed={first.seed}"]
    else:
        seeds = ",".join(str(cell.seed) for cell in cells)
        own = [f"name={plan.name}/{first.variant.label}", f"seed={seeds}"]
    shared = [*plan.shared, *first.variant.overrides, *first.variant.given]
    return ["train.py", *_sweep(plan), *shared, *own]


def evaluations(plan: Plan) -> list[tuple[list[Cell], list[str]]]:
    """The runs that are trained and not evaluated, and the command that submits them; none where there are none."""
    if plan.evaluate is None:
        return []
    cells = [cell for cell in plan.cells if is_trained(cell) and not is_evaluated(cell)]
    if not cells:
        return []
    folders = [str(cell.folder) for cell in cells]
    named = f"ckpt={folders[0]}" if len(folders) == 1 else f"ckpt=choice({','.join(folders)})"
    return [(cells, ["scripts/evaluate.py", *_sweep(plan), named, *plan.evaluate])]


def _sweep(plan: Plan) -> list[str]:
    """What makes a command a sweep through the launcher, which leaves its own files in the ablation's folder."""
    return ["-m", f"hydra/launcher={plan.launcher}", f"hydra.sweep.dir={plan.folder}", *plan.launch]


def submit(plan: Plan, root: Path, say: Callable[[str], None]) -> list[Failure]:
    """Submits what is left, waits for it, and returns what failed."""
    failures: list[Failure] = []
    # Only behind the trainings it is known which runs there are to evaluate.
    for commands, is_done, what in ((trainings, is_trained, "failed"), (evaluations, is_evaluated, "was not measured")):
        for cells, log, code in _wait(plan, commands(plan), root, say):
            for cell in cells:
                if not is_done(cell):
                    why = failed_why(log, code) if code else "its job did not come to its end"
                    failures.append(Failure(cell, what, why, log))
                    say(str(failures[-1]))
    return failures


def _environment(root: Path) -> dict[str, str]:
    """Where jobs find this project's modules: they are started by the launcher, in whatever folder this command is."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))}


def _wait(
    plan: Plan, commands: Sequence[tuple[list[Cell], list[str]]], root: Path, say: Callable[[str], None]
) -> list[tuple[list[Cell], Path, int]]:
    working = []
    (plan.folder / LOGS).mkdir(parents=True, exist_ok=True)
    for cells, command in commands:
        log = plan.folder / LOGS / f"submitted-{Path(command[0]).stem}-{cells[0].variant.label}.txt"
        with log.open("ab") as file:
            file.write(f"$ {' '.join(command)}\n".encode())
            file.flush()
            process = subprocess.Popen(
                [sys.executable, str(root / command[0]), *command[1:]],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=_environment(root),
                preexec_fn=stop_with_parent,
            )
        say(f"{len(cells)} jobs by {plan.launcher}: {', '.join(cell.label for cell in cells)} ({log})")
        working.append((cells, log, process))
    while any(process.poll() is None for *_, process in working):
        time.sleep(PAUSE)
    return [(cells, log, process.returncode) for cells, log, process in working]
