"""What follows an optimizer step, in this order: save, validate, preview. The run can be stopped between any two of
them, and within validation and previews."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer

from dit.checkpoint.files import FOLDER
from dit.engine import parallel, ranks
from dit.engine.callbacks.checkpoint import Checkpoints
from dit.engine.callbacks.place import Place
from dit.engine.interrupts import Interrupts
from dit.engine.module import VideoDiffusion
from dit.runfiles import DUE

log = logging.getLogger(__name__)

SAVING = "checkpoint"
FAILED = 1000  # above every signal's number

Ask = Callable[..., None]  # `AfterStep.ask`


class Stopped(Exception):
    """A rank was told to stop. All ranks raise this at the same question."""


class Failed(Exception):
    """A rank has failed in its part of the task. All others raise this at the same question."""


class EndsRun(ValueError):
    """A task failed where the other ranks wait for this one and cannot be told: the run ends here."""


class Task:
    """Work at some steps, done by all ranks together: validation, previews.

    Attributes:
        name: in the log and in `due.json`.
        every: it is done at multiples of so many steps, and at the last step; None: never.
    """

    place = Place.TASK
    name: str
    every: int | None

    def is_due(self, step: int, last: bool) -> bool:
        """Whether it is to be done at `step`. last: that is the last step of the run."""
        return self.every is not None and (last or step % self.every == 0)

    def may_end_run(self, trainer: Trainer) -> bool:
        """Whether a failure may end the run (`EndsRun`), so that its step is to be saved before."""
        return False

    def check(self) -> None:
        """Raises ValueError, before the first step, for settings with which it could never succeed."""

    def run(self, trainer: Trainer, module: VideoDiffusion, step: int, ask: Ask) -> bool:
        """Does it. Returns False where its results could not be written for want of room, so that it stays due.

        Between pieces of the work, and equally often, all ranks call `ask()`, and let what it raises pass."""
        raise NotImplementedError


class AfterStep(Callback):
    """Saves the step, then does the tasks that are due, so that a failing task loses no training. Stops when told to.

    Before a checkpoint is saved, the tasks that are due at its step are noted beside it (`due.json`), and each is
    crossed out when it is done. A run that ends in between, in whatever way, begins with the rest when it goes on. The
    result of a task depends on the checkpoint alone, so doing it again gives the same.

    Args:
        interrupts: knows whether this process was told to stop.
        checkpoints: saves.
        tasks: in the order in which they are done.
    """

    place = Place.SAVE

    def __init__(self, interrupts: Interrupts, checkpoints: Checkpoints, tasks: Sequence[Task]) -> None:
        self.interrupts = interrupts
        self.checkpoints = checkpoints
        self.tasks = tasks
        self.stopped_by: int | None = None  # number of the signal, the same on all ranks
        self._last_step = -1
        self._drawn: Any = None  # the place in the data after the last step; None within a step
        self._took: dict[str, float] = {}  # seconds of the last checkpoint and of the last task of each name

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
            trainer.should_stop = True  # all steps were done before; only tasks were left

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
                self._save(trainer, due)  # no task is done yet: `_make` saves when it is stopped
            trainer.should_stop = True

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Saves the last step when something between two steps ends the run, as data that cannot be read. Not with
        several ranks: saving needs all of them, and the others may be in the middle of a step."""
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

    def ask(self, failed: bool = False, may_stop: bool = True) -> None:
        """Raises `Failed` on all ranks if one has failed, else `Stopped` if one was told to stop and it may. All must
        call it together: a rank that has failed calls it with `failed=True` when its next question would be due.
        """
        told = self.interrupts.received or 0 if may_stop else 0
        status = ranks.highest(FAILED if failed else told, self._device)
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
            except Exception as error:
                self._leave(trainer, task, error, [*unwritten, *due[index:]])
                raise
            if self.checkpoints.saved_step == trainer.global_step and trainer.is_global_zero:
                self._cross_out(trainer, [*unwritten, *due[index + 1 :]])

    def _leave(self, trainer: Trainer, task: Task, error: Exception, due: Sequence[Task]) -> None:
        """A task has failed, on this rank or, if `error` is `Failed`, on another one: saves the step on all ranks.

        One process does that when the error has passed (`on_exception`). The ranks of a sharded network may be waiting
        for this one in a forward pass, and are not asked. Raises ValueError on ranks that have not failed.
        """
        if trainer.world_size == 1 or isinstance(trainer.strategy, parallel.FSDP2):
            return
        said = None if isinstance(error, Failed) else f"{type(error).__name__}: {error}".strip().splitlines()[0]
        if said is not None:
            with suppress(Failed):
                self.ask(failed=True)
        whys = ranks.gather_objects(said)
        if self.checkpoints.saved_step != trainer.global_step:
            self._save(trainer, due)
        log.warning("saved step %d before leaving", trainer.global_step)
        if said is None:
            rank, why = next((rank, why) for rank, why in enumerate(whys) if why is not None)
            raise ValueError(
                f"{task.name} failed on rank {rank} ({why}); step {trainer.global_step} is saved"
            ) from None

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
        """Seconds that checkpoints and tasks after `step` will take, and whether all are known.

        Each counts as long as the last one of its name. Before the first of a name it counts as 0 and is not known.
        """
        every = {SAVING: self.checkpoints.every, **{task.name: task.every for task in self.tasks}}
        times = {name: to_come(step, max_steps, each) for name, each in every.items() if each is not None}
        known = all(name in self._took for name, count in times.items() if count and name != SAVING)
        return sum(count * self._took.get(name, 0.0) for name, count in times.items()), known


def to_come(step: int, max_steps: int, every: int) -> int:
    """How many of the steps after `step` are multiples of `every` or the last one."""
    return max_steps // every - step // every + (max_steps % every != 0 and step < max_steps)


def duration(seconds: float) -> str:
    """`5:30`, `2:05:30`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def drawn(trainer: Trainer) -> Any:
    """The place in the data that the run has reached."""
    return trainer.datamodule.state_dict()  # type: ignore[attr-defined]


def owed(run: Path, step: int) -> list[str]:
    """Names of the tasks that are still to be done at `step`, the last one of `run`."""
    try:
        noted = json.loads((run / FOLDER / DUE).read_text())
        return [str(name) for name in noted["tasks"]] if noted["step"] == step else []
    except (OSError, ValueError, KeyError, TypeError):
        return []


def note(run: Path, step: int, due: Sequence[Task]) -> None:
    """Notes which tasks are still to be done at `step`. The file is written whole, or not at all with an OSError."""
    file = run / FOLDER / DUE
    if not due:
        file.unlink(missing_ok=True)
        return
    part = file.with_suffix(".part")
    part.write_text(json.dumps({"step": step, "tasks": [task.name for task in due]}) + "\n")
    os.replace(part, file)
