"""Training metrics: collected each step, averaged over micro-batches, steps and ranks, handed to the writers."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from data.batch import Batch
from dit.checkpoint import entries
from dit.engine.callbacks.guard import GradientGuard
from dit.engine.module import StepOutput, VideoDiffusion
from dit.engine.ranks import gather_objects, sum_over_ranks
from dit.engine.writers import Writers
from dit.recipes.base import NET


class Speed:
    """Steps and tokens a second over a recent window, without the time of validation, previews and saving."""

    def __init__(self) -> None:
        self.window = 50
        self._seconds: list[float] = []
        self._tokens: list[int] = []
        self._began: float | None = None

    def start(self) -> None:
        self._began = time.perf_counter()

    def stop(self, tokens: int) -> None:
        """A step of `tokens` tokens (over all ranks) has ended."""
        if self._began is not None:
            self._seconds = [*self._seconds, time.perf_counter() - self._began][-self.window :]
            self._tokens = [*self._tokens, tokens][-self.window :]

    @property
    def steps_per_second(self) -> float:
        return len(self._seconds) / sum(self._seconds) if self._seconds else 0.0

    @property
    def tokens_per_second(self) -> float:
        return sum(self._tokens) / sum(self._seconds) if self._seconds else 0.0


class Metrics(Callback):
    """Writes losses, speeds and the clips seen so far, every `every` steps; docs/architecture.md lists the columns.

    What has been summed up since the last row is part of the checkpoint, so a resumed run writes the same numbers; so
    are rows that metrics.csv could not take.

    Args:
        writers: where to; opened on rank 0 only.
        guard: knows the gradient's norm.
        every: optimizer steps between rows.
    """

    def __init__(self, writers: Writers, guard: GradientGuard, *, every: int) -> None:
        if every < 1:
            raise ValueError(f"callbacks.metrics.every={every} must be at least 1 step")
        self.writers = writers
        self.guard = guard
        self.every = every
        self.speed = Speed()
        self.flops_per_token = 0.0
        self.reference_rate = 0.0  # FLOP/s that MFU is a share of, all devices together
        self.reference_is_stated = False  # by a data sheet: the MFU of two runs can be compared
        self._seconds = 0.0  # that earlier processes of this run took
        self._began = time.perf_counter()
        self.last_loss = float("nan")
        self._losses: dict[str, list[Tensor]] = {}  # by optimizer, of the micro-batches since the last row
        self._saved: dict[str, list[list[float]]] = {}  # the same of all ranks
        self._unwritten: list[dict[str, Any]] = []
        self._tokens = 0
        self._last_step = 0

    @property
    def mfu(self) -> float:
        """Model FLOPs utilisation: the share of the devices' rate that the model's own arithmetic makes up."""
        return self.flops_per_second / self.reference_rate if self.reference_rate else 0.0

    @property
    def flops_per_second(self) -> float:
        """The model's own arithmetic."""
        return self.speed.tokens_per_second * self.flops_per_token

    @property
    def seconds(self) -> float:
        """What the run took so far: all its processes, from the first to the present step of each, everything counted.

        The time of a killed process after its last checkpoint is lost, as its steps are.
        """
        return self._seconds + time.perf_counter() - self._began

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, VideoDiffusion)
        self._last_step = trainer.global_step
        self._began = time.perf_counter()
        for name, saved in self._saved.items():
            if len(saved) == trainer.world_size:
                mine = saved[trainer.global_rank]
                self._losses[name] = [torch.tensor(x, device=pl_module.device) for x in mine]
        if trainer.is_global_zero:
            self.writers.start(Path(trainer.default_root_dir), pl_module.config, trainer.global_step)
            self.writers.restore(self._unwritten)
        self.speed.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, VideoDiffusion) and pl_module.last_step is not None
        for name, loss in pl_module.last_step.losses.items():
            self._losses.setdefault(name, []).append(loss.shown.float())
        self._tokens += pl_module.last_step.tokens
        step = trainer.global_step
        if step == self._last_step:
            return  # in the middle of an accumulated step
        self._last_step = step
        self.speed.stop(self._tokens * trainer.world_size)
        self._tokens = 0
        if step % self.every == 0:
            named = {name: mean_over_ranks(losses) for name, losses in self._losses.items() if losses}
            self.last_loss, self._losses = named.get(NET, self.last_loss), {}
            rates = {group.get("optimizer", NET): group["lr"] for group in reversed(trainer.optimizers[0].param_groups)}
            self.write(
                step,
                {
                    **of_each("train/loss", named),
                    **columns_of(pl_module.last_step, trainer.world_size),
                    **of_each("train/grad_norm", {name: float(norm) for name, norm in self.guard.norms.items()}),
                    **of_each("train/lr", rates),
                    "speed/steps_per_second": self.speed.steps_per_second,
                    "speed/tokens_per_second": self.speed.tokens_per_second,
                    "speed/mfu": self.mfu,
                    "speed/tflops": self.flops_per_second / 1e12,
                    "speed/reference_tflops": self.reference_rate / 1e12,
                    "speed/reference_is_stated": float(self.reference_is_stated),
                    "speed/seconds": self.seconds,
                    **self._seen(batch, pl_module.last_step.tokens),
                },
            )

    def _seen(self, batch: Batch, tokens: int) -> dict[str, float]:
        """What the run was trained on so far. The position in the stream of clips counts all ranks and all processes,
        and is part of each checkpoint; every clip of a run has as many tokens as those of this batch of `tokens`."""
        seen = batch.position * (tokens // len(batch))
        return {"seen/clips": batch.position, "seen/tokens": seen, "seen/flops": seen * self.flops_per_token}

    def write(self, step: int, values: dict[str, float]) -> None:
        """One more set of numbers for the row of `step`. The writers are closed on all ranks but the first."""
        self.writers.metrics(step, values)

    def flush(self) -> None:
        self.writers.flush()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self.writers.flush()  # a checkpoint never knows of steps that the table does not
        entries.SECONDS.put(checkpoint, self.seconds)
        entries.UNWRITTEN_METRICS.put(checkpoint, self.writers.unwritten())
        running = gather_objects({name: [float(x) for x in each] for name, each in self._losses.items()})
        entries.RUNNING_LOSSES.put(checkpoint, [named.pop(NET, []) for named in running])
        if others := {name: [named[name] for named in running] for name in running[0]}:
            entries.OTHER_RUNNING_LOSSES.put(checkpoint, others)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        own, others = entries.RUNNING_LOSSES.of(checkpoint), entries.OTHER_RUNNING_LOSSES.of(checkpoint)
        self._saved = {NET: own, **others}
        self._seconds = float(entries.SECONDS.of(checkpoint))
        self._unwritten = entries.UNWRITTEN_METRICS.of(checkpoint)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.writers.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.writers.close()


def of_each(column: str, values: Mapping[str, float]) -> dict[str, float]:
    """A column for each optimizer: `column` for the network that is sampled, `column_<name>` for the others."""
    return {column if name == NET else f"{column}_{name}": value for name, value in sorted(values.items(), key=not_net)}


def not_net(item: tuple[str, Any]) -> bool:
    """Sorts the network that is sampled to the front."""
    return item[0] != NET


def mean_over_ranks(losses: Sequence[Tensor]) -> float:
    """The mean of 0-dim losses, all those of all ranks."""
    stacked = torch.stack(list(losses)).double()
    total = sum_over_ranks(torch.stack([stacked.sum(), torch.tensor(float(len(stacked))).to(stacked)]))
    return float(total[0] / total[1])


def columns_of(step: StepOutput, world_size: int) -> dict[str, float]:
    """`train/<name>` for each further column of the losses of this step (`Loss.columns`), the mean over the ranks."""
    return {
        f"train/{name}": float(sum_over_ranks(value.double())) / world_size
        for loss in step.losses.values()
        for name, value in loss.columns.items()
    }
