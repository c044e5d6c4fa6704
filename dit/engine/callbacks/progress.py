"""Steps done, speed and time left: a bar on a terminal, a line now and then in a log file."""

from __future__ import annotations

import math
import sys
import time
from typing import Any

from lightning import Callback, LightningModule, Trainer
from tqdm import tqdm  # type: ignore[import-untyped]

from dit.engine import history
from dit.engine.callbacks.after_step import AfterStep, duration
from dit.engine.callbacks.metrics import Metrics
from dit.engine.callbacks.place import Place


class Progress(Callback):
    """Shows step, loss, steps/s, tokens/s, MFU and time left on the first rank.

    It is called last after each step, so that the speed does not count validation, previews and saving. The time left
    counts those that are still to come, each as long as the last one of its kind; before the first of a kind it is a
    lower bound.

    Args:
        metrics: knows the numbers.
        seconds: between lines when the output is no terminal.
    """

    place = Place.SHOW

    def __init__(self, metrics: Metrics, *, seconds: float) -> None:
        self.metrics = metrics
        self.seconds = seconds
        self._bar: tqdm | None = None
        self._last_line = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._last_line = time.perf_counter()
        self.metrics.speed.start()  # behind what was still due at this step
        if trainer.is_global_zero and sys.stderr.isatty():
            self._bar = tqdm(
                total=trainer.max_steps, initial=trainer.global_step, dynamic_ncols=True, unit="step",
                bar_format="{n_fmt}/{total_fmt} {bar} {postfix}",
            )  # fmt: skip

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.is_global_zero:
            self._show(trainer)
        self.metrics.speed.start()

    def _show(self, trainer: Trainer) -> None:
        now, step = time.perf_counter(), trainer.global_step
        due = now - self._last_line > self.seconds or step == trainer.max_steps
        if self._bar is not None:
            self._bar.n = step
            self._bar.set_postfix_str(self.line(trainer), refresh=False)
            self._bar.update(0)
        if due:
            self._last_line = now
            line = f"step {step}/{trainer.max_steps}  {self.line(trainer)}"
            history.progress.info(line)
            if self._bar is None:
                print(line, file=sys.stderr, flush=True)

    def line(self, trainer: Trainer) -> str:
        speed, metrics = self.metrics.speed, self.metrics
        loss = "" if math.isnan(metrics.last_loss) else f"loss {metrics.last_loss:.4f}  "  # none is known at first
        return (
            f"{loss}{speed.steps_per_second:.2f} steps/s  "
            f"{speed.tokens_per_second:,.0f} tokens/s  MFU {100 * metrics.mfu:.0f} %  {self.left(trainer)} left"
        )

    def left(self, trainer: Trainer) -> str:
        """Time left: of the steps at the present speed, and of the checkpoints, validations and previews among them."""
        step, max_steps, speed = trainer.global_step, trainer.max_steps, self.metrics.speed.steps_per_second
        if not speed:
            return "?"
        after_step = next((each for each in trainer.callbacks if isinstance(each, AfterStep)), None)  # type: ignore[attr-defined]
        more, known = (0.0, True) if after_step is None else after_step.still_to_come(step, max_steps)
        return f"{'' if known else 'at least '}{duration((max_steps - step) / speed + more)}"

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
