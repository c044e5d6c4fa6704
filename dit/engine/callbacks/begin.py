"""When a run takes its directory: after all ranks have looked at it, and before any of them loads the checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lightning import Callback, LightningModule, Trainer

from dit.engine.callbacks.place import Place
from dit.engine.ranks import gather_objects
from dit.engine.resume import Start


class Begin(Callback):
    """Lets the first rank change the run directory once each rank has found where it would begin.

    Where a run begins depends on the files that are there (`resume.find_start`), and beginning moves files. Lightning
    calls `setup` when all processes are connected, so each has looked by then.

    Args:
        start: where this rank would begin.
        take: changes the directory; called on the first rank, while the others wait.
        then: called on every rank afterwards.
    """

    place = Place.FIRST

    def __init__(self, start: Start, take: Callable[[], None], then: Callable[[], None]) -> None:
        self.start = start
        self.take = take
        self.then = then

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Raises ValueError on all ranks where they would not begin at the same step, or the first cannot take the
        directory."""
        steps = gather_objects(self.start.step)
        if len(set(steps)) > 1:
            raise ValueError(
                f"the ranks would begin at different steps ({', '.join(map(str, steps))}): {trainer.default_root_dir}"
                " must be the same folder on all of them"
            )
        refused: str | None = None
        try:
            if trainer.is_global_zero:
                self.take()
        except Exception as error:
            refused = str(error) or type(error).__name__
            raise
        finally:
            refusals = gather_objects(refused)
        if refusals[0] is not None:
            raise ValueError(refusals[0])
        self.then()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lets an optimizer step end at each multiple of `accumulate` micro-batches from here on.

        Lightning takes that from the number of micro-batches of the whole run. A checkpoint is behind a whole step, but
        where other numbers were accumulated before, its count is no multiple of the present one.
        """
        done: Any = trainer.fit_loop.epoch_loop.batch_progress.current
        missing = trainer.global_step * trainer.accumulate_grad_batches - done.ready
        for count in ("ready", "started", "processed", "completed"):
            setattr(done, count, getattr(done, count) + missing)
