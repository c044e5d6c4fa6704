"""Kills and interrupts real runs at random moments, lets the same command go on, and compares what is left.

`python -m tests.engine.kill_runs count=30 seed=0` sends SIGKILL to 30 trainers and other signals (one or two) to the
process groups of 30 more, with workers, validation and previews on. Every run that gets to its end is held against one
that nobody touched: weights, EMA, optimizer, random state, metrics.csv and previews, bit for bit. `test_kill_runs.py`
does a few. Trainers are forked from this process, which has imported everything: starting is what takes time.
"""

from __future__ import annotations

import logging
import os
import random
import re
import signal
import sys
import tempfile
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hydra
from omegaconf import OmegaConf

from dit import entry
from dit.engine import run
from dit.engine.interrupts import INTERRUPTS
from tests.engine import small

OVERRIDES = (
    "net=demo", "net.depth=1", "net.width=32", "net.heads=2", "net.text_width=16", "text.width=16", "text.depth=1",
    "text.heads=2", "data=demo", "data.batch_size=2", "data.train.num_clips=7", "data.val.num_clips=6",
    "data.val_batch_size=2", "data.num_workers=2", "logger=none", "trainer=default",
    "trainer.accumulate=2", "callbacks.checkpoints.every=4", "callbacks.validation.every=3", "preview.every=3",
    "preview.prompts=[a red circle moves right,a blue bar moves up]", "sampling.num_steps=4",
    "callbacks.metrics.every=1", "callbacks.progress.seconds=0",
)  # fmt: skip
DONE = "straight"
PATIENCE = 300.0  # seconds for something that takes one: beyond it hangs


@dataclass
class Tally:
    """What was done and found."""

    kills: int = 0
    signals: int = 0
    finished: int = 0  # runs that were killed or interrupted and came to their end, all compared
    in_training: int = 0  # of both kinds: killed behind the first step, or told to stop and saved
    faults: list[str] = field(default_factory=list)


class Trainer:
    """`train.py` in a forked process with a process group of its own, in `folder`."""

    def __init__(self, config: dict[str, Any], folder: Path, name: str) -> None:
        self.log = folder / f"{name}.log"
        self.before = self.log.stat().st_size if self.log.exists() else 0
        sys.stdout.flush()
        # Nothing but `os._exit` may end the child: an exception that left `_train` would go on with the work of this
        # script, and remove the folder of all runs. So no KeyboardInterrupt, not even before the child's first line.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        self.pid = os.fork()
        if self.pid == 0:
            signal.signal(signal.SIGINT, lambda number, frame: os._exit(128 + number))
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            self._train({**config, "name": name}, folder)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        with suppress(OSError):
            os.setpgid(self.pid, self.pid)  # here as well: whoever comes first

    def _train(self, config: dict[str, Any], folder: Path) -> None:
        code = 1
        try:
            os.setpgid(0, 0)
            os.chdir(folder)
            out = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(out, 1), os.dup2(out, 2)
            logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s", force=True)
            with entry.one_line_errors():
                run.train(config)
            code = 0
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush(), sys.stderr.flush()
            os._exit(code)

    def wait(self, seconds: float) -> int | None:
        """Its exit code, as subprocess has it; None when it still runs after `seconds`."""
        end = time.monotonic() + seconds
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            if time.monotonic() > end:
                return None
            time.sleep(0.01)

    def begins(self) -> None:
        """Waits until it is about to train."""
        end = time.monotonic() + PATIENCE
        while "MFU is the share" not in self.said() and time.monotonic() < end and self.runs():
            time.sleep(0.01)

    def runs(self) -> bool:
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

    def said(self) -> str:
        """Its lines so far. The last one may be cut in the middle of a letter."""
        return self.log.read_bytes()[self.before :].decode(errors="replace") if self.log.exists() else ""

    def group_is_gone(self) -> bool:
        """Whether no process of its group is left, after a moment."""
        for _ in range(1000):
            if not any(_group(entry) == self.pid for entry in Path("/proc").iterdir() if entry.name.isdigit()):
                return True
            time.sleep(0.01)
        return False


def _group(process: Path) -> int | None:
    """The process group of a process that still does something."""
    try:
        state, _, group = (process / "stat").read_text().rpartition(")")[2].split()[:3]
        return None if state == "Z" else int(group)
    except (OSError, ValueError):
        return None


def main(folder: Path, count: int, seed: int, tally: Tally, steps_of_run: int = 24) -> None:
    """Does `count` SIGKILLs and `count` other signals; what went wrong is in the tally's faults."""
    chance = random.Random(seed)
    with hydra.initialize_config_dir(str(entry.CONFIGS), version_base="1.3"):
        composed = hydra.compose("train", overrides=[*OVERRIDES, f"trainer.max_steps={steps_of_run}"])
    config: Any = OmegaConf.to_container(composed, resolve=True)
    config.pop("hydra", None)
    straight = Trainer(config, folder, DONE)
    straight.begins()
    began = time.monotonic()
    if straight.wait(PATIENCE) != 0:
        tally.faults.append(f"the run that nobody touches failed: {straight.said()[-2000:]}")
        return
    lasts = time.monotonic() - began
    for kind in ("kill", "signal"):
        number = 0
        while getattr(tally, f"{kind}s") < count or number:
            name = f"{kind}-{tally.finished:03d}"
            trainer = Trainer(config, folder, name)
            left = getattr(tally, f"{kind}s") < count
            if left and chance.random() < 0.9:  # the others may come before training begins
                trainer.begins()
            code = trainer.wait(chance.uniform(0, 0.5 * lasts) if left else PATIENCE)
            number += 1
            if code is None and left:
                (_kill if kind == "kill" else _interrupt)(trainer, folder / "runs" / name, chance, tally)
                done = f"{tally.finished} runs finished, {name} at step {steps(folder / 'runs' / name)}"
                print(f"{tally.kills} kills, {tally.signals} signals, {done}", flush=True)
            elif code == 0:
                tally.faults += [f"{name}: {where}" for where in differences(folder / "runs" / name, folder)]
                tally.finished, number = tally.finished + 1, 0
            else:
                tally.faults.append(f"{name}: exit code {code} by itself: {trainer.said()[-2000:]}")
                return
            if not trainer.group_is_gone():
                tally.faults.append(f"{name}: processes of its group are left")


def _kill(trainer: Trainer, where: Path, chance: random.Random, tally: Tally) -> None:
    tally.kills += 1
    tally.in_training += "steps/s" in trainer.said()
    before = steps(where)
    os.kill(trainer.pid, signal.SIGKILL)
    trainer.wait(PATIENCE)
    if steps(where) < before:
        tally.faults.append(f"{where.name}: step {steps(where)} after a kill, {before} before it")


def _interrupt(trainer: Trainer, where: Path, chance: random.Random, tally: Tally) -> None:
    tally.signals += 1
    number = chance.choice(INTERRUPTS)
    os.killpg(trainer.pid, number)
    if chance.random() < 0.5:  # once more, as schedulers do
        time.sleep(chance.uniform(0, 0.2))
        with suppress(ProcessLookupError):
            os.killpg(trainer.pid, chance.choice(INTERRUPTS))
    code = trainer.wait(PATIENCE)
    stopped = re.search(r"stopped by (SIG\w+) at step (\d+)", trainer.said())
    if stopped:
        tally.in_training += 1
        if code != 128 + signal.Signals[stopped.group(1)] or steps(where) != int(stopped.group(2)):
            tally.faults.append(f"{where.name}: exit code {code}, saved step {steps(where)}, but {stopped.group()}")
    elif code != 0 and "saving after this step" in trainer.said():
        tally.faults.append(f"{where.name}: exit code {code}: {trainer.said()[-2000:]}")
    if "Traceback" in trainer.said():
        tally.faults.append(f"{where.name}: {trainer.said()[-2000:]}")


def steps(where: Path) -> int:
    """Steps in the last checkpoint of a run, 0 without one. What a kill left of an unfinished file is ignored."""
    return small.load(where)["global_step"] if (where / "checkpoints" / "last.ckpt").exists() else 0


def differences(where: Path, folder: Path) -> list[str]:
    """What differs between a run and the one that nobody touched."""
    straight = folder / "runs" / DONE
    a, b = small.load(straight), small.load(where)
    found = [each for key in small.EXACT for each in small.same(a[key], b[key], key)]
    found += small.same(small.table(straight), small.table(where), "metrics")
    found += small.same(_samples(straight), _samples(where), "samples")
    left = [str(path.relative_to(where)) for kind in ("*.part", "due.json") for path in where.rglob(kind)]
    return found + [f"{name} is left" for name in left]


def _samples(where: Path) -> dict[str, bytes]:
    return {str(file.relative_to(where)): file.read_bytes() for file in (where / "samples").rglob("*.mp4")}


if __name__ == "__main__":
    asked = dict(argument.split("=", 1) for argument in sys.argv[1:])
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    run.reference_rate = lambda *_: (1e12, "not measured")  # which takes longer than these trainings
    tally = Tally()
    with tempfile.TemporaryDirectory(dir=asked.get("folder")) as temporary:
        try:
            numbers = (int(asked.get(name, usual)) for name, usual in (("count", "30"), ("seed", "0")))
            main(Path(temporary), *numbers, tally, int(asked.get("steps", "24")))
        except Exception:  # what was found until then is said all the same
            tally.faults.append(f"this script failed: {traceback.format_exc()}")
    print(
        f"{tally.kills} SIGKILLs, {tally.signals} signals to the group, {tally.in_training} of them while it trained;"
    )
    print(f"{tally.finished} runs finished and compared, {len(tally.faults)} faults")
    print(*tally.faults, sep="\n")
    raise SystemExit(bool(tally.faults))
