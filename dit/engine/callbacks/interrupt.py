"""SIGTERM, SIGINT and SIGUSR1: finish the step, save, leave. The scheduler's warning must not cost the run."""

from __future__ import annotations

import logging
import signal
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from lightning import Callback, LightningModule, Trainer

log = logging.getLogger(__name__)
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class Interrupt(Callback):
    """Turns a signal on any rank into one common stop after the current optimizer step. A second one stops at once.

    It stands before the checkpoint callback, which saves when the trainer is about to stop.
    """

    def __init__(self) -> None:
        self.received: int | None = None  # by this rank
        self.stopped_by: int | None = None  # agreed on by all ranks
        self._previous: dict[int, Any] = {}
        self._last_step = -1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Lightning has put its own handlers by now; its SIGTERM handler stops without saving.
        self._previous = {number: signal.signal(number, self._handle) for number in SIGNALS}
        self._last_step = trainer.global_step

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            raise KeyboardInterrupt
        self.received = number
        log.warning("%s: saving after this step, then leaving (once more: leave at once)", signal.Signals(number).name)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self._last_step:
            return  # in the middle of an accumulated step
        self._last_step = trainer.global_step
        number = self.received or 0
        if dist.is_available() and dist.is_initialized():
            agreed = torch.tensor(number, device=pl_module.device)
            dist.all_reduce(agreed, dist.ReduceOp.MAX)
            number = int(agreed)
        if number and trainer.global_step < trainer.max_steps:
            self.stopped_by = number
            trainer.should_stop = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._restore()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
