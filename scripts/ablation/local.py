"""Runs on this machine: some at once, each in processes of its own, so that one that fails ends no other.

All that is known of a run lies in its directory. So a command that was killed goes on when it is given again: what is
finished stays, what is not goes on from its last checkpoint.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO, Any

from data.processes import cores
from dit.checkpoint.files import FOLDER, step_name
from dit.locks import is_locked
from dit.runfiles import DUE, FINDINGS, MEASURES, METRICS, SAMPLES, read_rows
from scripts.ablation.plan import Cell

PR_SET_PDEATHSIG = 1  # linux/prctl.h
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PAUSE = 0.2  # seconds between two looks at the processes
LOOK = 2.0  # seconds between two looks at how far they are
TAIL = 64 * 1024  # bytes of a log that are searched for the reason of a failure
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
SEEN_GPUS = "CUDA_VISIBLE_DEVICES"


class Stopped(Exception):
    """The command was told to stop; its runs have saved and ended."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@dataclass(frozen=True)
class Failure:
    """A run that did not come to its end, or was not measured. why: one line. log: of its processes."""

    cell: Cell
    what: str
    why: str
    log: Path

    def __str__(self) -> str:
        return f"{self.cell.label} {self.what}: {self.why} ({self.log})"


def step_of(run: Path) -> int:
    """The last step with a row in the table of a run; 0 where there is none."""
    try:
        rows = read_rows((run / METRICS).read_bytes()).rows
    except OSError:
        return 0
    return max((row["step"] for row in rows), default=0)


def done_of(cell: Cell) -> int:
    """Steps of a run that are done, as far as its table says."""
    return cell.variant.steps if is_trained(cell) else step_of(cell.folder)


def is_trained(cell: Cell) -> bool:
    """Whether a run has saved its last step, and done all that was due there."""
    checkpoints = cell.folder / FOLDER
    return (checkpoints / step_name(cell.variant.steps)).is_file() and not (checkpoints / DUE).exists()


def is_evaluated(cell: Cell) -> bool:
    """Whether the last step was measured by all suites that are named; where none is, or all are, by any."""
    measured = set()
    for file in (file for folder in (SAMPLES, FINDINGS) for file in (cell.folder / folder).glob(f"*/{MEASURES}")):
        with suppress(OSError, ValueError, LookupError, TypeError):
            content = json.loads(file.read_text(encoding="utf-8"))
            if content["checkpoint"]["step"] == cell.variant.steps:
                measured.add(content["suite"])
    asked = [each.removeprefix("suite=").strip("[]") for each in cell.plan.evaluate or () if each.startswith("suite=")]
    named = {name.strip() for each in asked for name in each.split(",")} - {"all"}
    return bool(measured) and named <= measured


def todo(cell: Cell) -> list[list[str]]:
    """What is left to be done for a run, one command after another."""
    commands = [] if is_trained(cell) else [cell.train()]
    if cell.plan.evaluate is not None and (commands or not is_evaluated(cell)):
        commands.append(cell.evaluate())
    return commands


def environment(place: int, at_once: int, devices: int, gpus: int, now: Mapping[str, str]) -> dict[str, str]:
    """What a run's processes are told of the machine that `at_once` of them share.

    Args:
        place: of this run among those at once. devices: GPUs that a run trains on. gpus: that are there.
        now: the environment of this process; what it says of threads is kept.
    """
    told = {**now, "PYTHONUNBUFFERED": "1"}
    if at_once == 1:
        return told
    if not set(THREADS) & set(now):
        own = max(1, int(cores() / at_once))
        told |= dict.fromkeys(THREADS, str(own))
    if devices and gpus:
        named = now[SEEN_GPUS].split(",") if now.get(SEEN_GPUS) else [str(number) for number in range(gpus)]
        told[SEEN_GPUS] = ",".join(named[(place * devices + each) % len(named)] for each in range(devices))
    return told


def failed_why(log: Path, code: int) -> str:
    """One line: what the last process of a log said of its failure."""
    if code < 0:
        name = signal.Signals(-code).name
        return f"killed by {name}" + (" (was there enough memory?)" if -code == signal.SIGKILL else "")
    with suppress(OSError):
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - TAIL))
            lines = file.read().decode("utf-8", errors="replace").splitlines()
        begun = max((place for place, line in enumerate(lines) if line.startswith("$ ")), default=0)
        own = [line.strip() for line in lines[begun:] if line.strip()]
        said = [line.removeprefix("error: ") for line in own if line.startswith("error: ")]
        raised = [line for line in own if re.match(r"[\w.]*(Error|Exception|NonFinite)\b", line)]
        if found := said or raised or own[1:]:
            return " ".join(found[-1].split())[:300]
    return f"exit code {code}"


@dataclass
class Working:
    """A run that is going on. place: among those at once."""

    cell: Cell
    left: list[list[str]]
    place: int
    process: subprocess.Popen[bytes]
    log: IO[bytes]


class Local:
    """Does what is left of runs.

    Args:
        at_once: so many at a time.
        root: where the scripts of commands are.
        say: takes a line for each thing that happens.
        progress: is told how many steps of all runs are done.
    """

    def __init__(
        self,
        at_once: int,
        root: Path,
        say: Callable[[str], None],
        progress: Callable[[int], None] = lambda done: None,
    ) -> None:
        self.at_once = at_once
        self.root = root
        self.say = say
        self.progress = progress
        self.failures: list[Failure] = []
        self.working: list[Working] = []
        self._told: int | None = None

    def run(self, cells: Sequence[Cell]) -> list[Failure]:
        """Does it, and returns what failed. Raises `Stopped` when told to stop, behind the last process."""
        waiting = [(cell, left) for cell in cells if (left := todo(cell))]
        steps = {cell.label: done_of(cell) for cell in cells}
        self.progress(sum(steps.values()))
        looked, waits = time.monotonic(), False
        with self._listening():
            try:
                while waiting or self.working:
                    if self._told is not None:
                        raise Stopped(self._told)
                    free = [each for each in waiting if not is_locked(each[0].folder)]
                    while free and len(self.working) < self.at_once:
                        each = free.pop(0)
                        waiting.remove(each)
                        self._start(each[0], each[1], self._free_place())
                    if waiting and not self.working and not waits:
                        waits = True
                        names = ", ".join(cell.label for cell, _ in waiting)
                        self.say(f"waiting for {names}, which another process trains")
                    time.sleep(PAUSE)
                    self._collect()
                    if time.monotonic() - looked > LOOK:
                        steps |= {each.cell.label: step_of(each.cell.folder) for each in self.working}
                        self.progress(sum(steps.values()))
                        looked = time.monotonic()
            finally:
                self._end()
        self.progress(sum(done_of(cell) for cell in cells))
        return self.failures

    def _free_place(self) -> int:
        taken = {each.place for each in self.working}
        return next(place for place in range(self.at_once) if place not in taken)

    def _start(self, cell: Cell, left: list[list[str]], place: int) -> None:
        command, *behind = left
        cell.log.parent.mkdir(parents=True, exist_ok=True)
        log = cell.log.open("ab")
        log.write(f"$ {' '.join(command)}\n".encode())
        log.flush()
        plan = cell.plan
        process = subprocess.Popen(
            [sys.executable, str(self.root / command[0]), *command[1:]],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment(place, self.at_once, plan.devices, plan.gpus, os.environ),
            start_new_session=True,  # a Ctrl-C comes to this process alone, which hands it on
            preexec_fn=stop_with_parent,
        )
        self.working.append(Working(cell, behind, place, process, log))
        self.say(f"{cell.label}: {command[0]} from step {step_of(cell.folder)}")

    def _collect(self) -> None:
        """Goes on behind processes that have ended."""
        for each in [each for each in self.working if each.process.poll() is not None]:
            self.working.remove(each)
            each.log.close()
            code, cell = each.process.returncode, each.cell
            training = not is_trained(cell)
            if self._told is not None:
                continue  # it was told to stop, too
            if code != 0 or training:
                what = "failed" if training else "was not measured"
                why = failed_why(cell.log, code) if code else "it ended before its last step"
                self.failures.append(Failure(cell, what, why, cell.log))
                self.say(str(self.failures[-1]))
            elif each.left:
                self._start(cell, each.left, each.place)
            else:
                self.say(f"{cell.label} is done")

    @contextmanager
    def _listening(self) -> Iterator[None]:
        before = {
            number: signal.signal(number, self._heard)
            for number in SIGNALS
            if signal.getsignal(number) != signal.SIG_IGN
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _heard(self, number: int, frame: FrameType | None) -> None:
        if self._told is None:
            self._told = number
        elif number == signal.SIGINT:
            self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        for each in self.working:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(each.process.pid, number)

    def _end(self) -> None:
        """Has processes that still run save and leave, and waits for them."""
        if self.working:
            self.say(f"{len(self.working)} runs save and leave (Ctrl-C once more: at once)")
        for each in self.working:
            with suppress(ProcessLookupError, PermissionError):
                each.process.send_signal(signal.SIGTERM)  # it ends its own workers
        while any(each.process.poll() is None for each in self.working):
            time.sleep(PAUSE)
        for each in self.working:
            each.log.close()
        self.working.clear()


_prctl: Any = getattr(ctypes.CDLL(None), "prctl", None) if sys.platform == "linux" else None


def stop_with_parent() -> None:
    """In a new process: it saves and leaves when the one that started it is killed (Linux)."""
    if _prctl is not None:
        _prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
