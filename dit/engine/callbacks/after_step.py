"""What follows an optimizer step, in one order: save, validate, preview; and leave between any two pieces of that."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer

from dit.checkpoint.files import FOLDER
from dit.engine import ranks
from dit.engine.callbacks.checkpoint import Checkpoints
from dit.engine.callbacks.place import Place
from dit.engine.interrupts import Interrupts
from dit.engine.module import VideoDiffusion

log = logging.getLogger(__name__)

DUE = "due.json"  # in the folder of checkpoints: which tasks the newest one still owes
SAVING = "checkpoint"
FAILED = 1000  # above every signal's number

Ask = Callable[..., None]  # `AfterStep.ask`


class Stopped(Exception):
    """Some rank was told to stop: all leave the task here."""


class Failed(Exception):
    """Some rank could not do its part of the task: all leave it here."""


class EndsRun(ValueError):
    """A task failed where the other ranks wait for this one and cannot be told: the run ends here."""


class Task:
    """Something to be made at some steps, by all ranks together: validation, previews.

    Attributes:
        name: what it is called in the log and in `due.json`.
        every: steps from one to the next, and at the last one; None: it is never made.
    """

    place = Place.TASK
    name: str
    every: int | None

    def is_due(self, step: int, last: bool) -> bool:
        """Whether it is to be made at `step`, the run's last one if `last`."""
        return self.every is not None and (last or step % self.every == 0)

    def may_end_run(self, trainer: Trainer) -> bool:
        """Whether a failure may end the run (`EndsRun`), so that its step is to be saved before."""
        return False

    def check(self) -> None:
        """ValueError, before the first step, for what would always keep it from being made."""

    def run(self, trainer: Trainer, module: VideoDiffusion, step: int, ask: Ask) -> bool:
        """Makes it; False where the disk had no room for what came of it, so that it stays due. All ranks call `ask()`
        equally often, between pieces of the work, and let it raise."""
        raise NotImplementedError


class AfterStep(Callback):
    """Saves, then does what is due, so that no task can cost what was trained; stops between pieces when told to.

    A checkpoint is of its step alone: what is due there is noted beside it before it is saved, and crossed out once
    made. A run that ends in between, however it ends, begins with the rest when it goes on. Tasks are pure functions of
    the checkpoint, so what is made twice is the same twice.

    Args:
        interrupts: knows whether this process was told to stop.
        checkpoints: saves.
        tasks: in their order.
    """

    place = Place.SAVE

    def __init__(self, interrupts: Interrupts, checkpoints: Checkpoints, tasks: Sequence[Task]) -> None:
        self.interrupts = interrupts
        self.checkpoints = checkpoints
        self.tasks = tasks
        self.stopped_by: int | None = None  # the signal, agreed on by all ranks
        self._last_step = -1
        self._drawn: Any = None  # what was read of the data behind the last step; None within a step
        self._took: dict[str, float] = {}  # seconds of the last one of each kind, by name

    # -- hooks

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, VideoDiffusion)
        self._device, self._last_step, self._drawn = pl_module.device, trainer.global_step, drawn(trainer)
        self.checkpoints.start(trainer)
        names = ranks.gather_objects(owed(Path(trainer.default_root_dir), trainer.global_step))[0]
        try:
            self.ask()
            self._make(trainer, pl_module, [task for task in self.tasks if task.name in names])
        except Stopped:
            trainer.should_stop = True
        if trainer.global_step >= pl_module.max_steps:
            trainer.should_stop = True  # nothing but tasks was left of this run

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._drawn = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if step == self._last_step:
            return  # in the middle of an accumulated step
        assert isinstance(pl_module, VideoDiffusion)
        self._last_step, self._drawn = step, drawn(trainer)
        last = step >= pl_module.max_steps
        due = [task for task in self.tasks if task.is_due(step, last)]
        try:
            if last or self.checkpoints.is_due(step) or any(task.may_end_run(trainer) for task in due):
                self._save(trainer, due)
            self.ask()
            self._make(trainer, pl_module, due)
        except Stopped:
            if self.checkpoints.saved_step != step:
                self._save(trainer, due)  # none of them is made: `_make` saves before it crosses out the first
            trainer.should_stop = True

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Keeps what was trained when something between two steps ends the run, as data that cannot be read. Not on
        several ranks: the others may be waiting for this one in the middle of a step."""
        assert isinstance(pl_module, VideoDiffusion)
        step = trainer.global_step
        between_steps = self._drawn is not None and self._drawn == drawn(trainer)
        unsaved = step != self.checkpoints.saved_step and not self.checkpoints.failed
        if trainer.world_size > 1 or not (between_steps and unsaved):
            return
        try:
            due = [task for task in self.tasks if task.is_due(step, step >= pl_module.max_steps)]
            self._save(trainer, due)
            log.warning("saved step %d before leaving", step)
        except Exception as error:  # the first one says why the run ends
            log.warning("step %d could not be saved before leaving: %s", step, error)

    # -- pieces

    def ask(self, failed: bool = False) -> None:
        """Raises `Stopped` or `Failed` on all ranks when any was told to stop or has failed; all must call it together.

        A rank whose part has failed asks as well, in the place of its next question, with `failed=True`.
        """
        status = ranks.highest(FAILED if failed else self.interrupts.received or 0, self._device)
        if status == FAILED:
            raise Failed
        if status:
            self.stopped_by = status
            raise Stopped

    def _make(self, trainer: Trainer, module: VideoDiffusion, due: list[Task]) -> None:
        unwritten: list[Task] = []
        for index, task in enumerate(due):
            try:
                log.info("step %d: %s begins", trainer.global_step, task.name)
                with self._timed(task.name):
                    written = task.run(trainer, module, trainer.global_step, self.ask)
                if not written:
                    unwritten.append(task)
                log.info("step %d: %s took %s", trainer.global_step, task.name, duration(self._took[task.name]))
            except Stopped:
                if self.checkpoints.saved_step != trainer.global_step:
                    self._save(trainer, [*unwritten, *due[index:]])
                raise
            except EndsRun:  # or the next start would begin with the same failure; the first rank may not get here
                self._cross_out(trainer, [*unwritten, *due[index + 1 :]])
                raise
            if self.checkpoints.saved_step == trainer.global_step and trainer.is_global_zero:
                self._cross_out(trainer, [*unwritten, *due[index + 1 :]])

    def _cross_out(self, trainer: Trainer, still_due: Sequence[Task]) -> None:
        """Notes that only `still_due` is left to be made at this step."""
        try:
            note(Path(trainer.default_root_dir), trainer.global_step, still_due)
        except OSError as error:  # it would be made once more, no worse
            log.warning("%s cannot be written: %s", DUE, error)

    def _save(self, trainer: Trainer, due: Sequence[Task]) -> None:
        with self._timed(SAVING):
            self.checkpoints.save(trainer, trainer.global_step, lambda run: note(run, trainer.global_step, due))

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self._took[name] = time.perf_counter() - began

    def still_to_come(self, step: int, max_steps: int) -> tuple[float, bool]:
        """Seconds of all checkpoints and tasks behind `step`, and whether they are known: one of each kind was made.

        What was not made yet counts nothing.
        """
        every = {SAVING: self.checkpoints.every, **{task.name: task.every for task in self.tasks}}
        times = {name: to_come(step, max_steps, each) for name, each in every.items() if each is not None}
        known = all(name in self._took for name, count in times.items() if count and name != SAVING)
        return sum(count * self._took.get(name, 0.0) for name, count in times.items()), known


def to_come(step: int, max_steps: int, every: int) -> int:
    """How many of the steps behind `step` are multiples of `every` or the last one."""
    return max_steps // every - step // every + (max_steps % every != 0 and step < max_steps)


def duration(seconds: float) -> str:
    """`5:30`, `2:05:30`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def drawn(trainer: Trainer) -> Any:
    """How far the run has read its data."""
    return trainer.datamodule.state_dict()  # type: ignore[attr-defined]


def owed(run: Path, step: int) -> list[str]:
    """Names of the tasks that the checkpoint of `step` in `run` still owes."""
    try:
        noted = json.loads((run / FOLDER / DUE).read_text())
        return [str(name) for name in noted["tasks"]] if noted["step"] == step else []
    except (OSError, ValueError, KeyError, TypeError):
        return []


def note(run: Path, step: int, due: Sequence[Task]) -> None:
    """Writes which tasks are still to be made at `step`, whole or not at all. OSError when it cannot."""
    file = run / FOLDER / DUE
    if not due:
        file.unlink(missing_ok=True)
        return
    part = file.with_suffix(".part")
    part.write_text(json.dumps({"step": step, "tasks": [task.name for task in due]}) + "\n")
    os.replace(part, file)
