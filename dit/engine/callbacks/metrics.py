"""Training metrics: collected each step, averaged over micro-batches, steps and ranks, handed to the writers."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import reduce
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from data.batch import Batch
from dit.checkpoint import entries
from dit.engine.arithmetic import Arithmetic
from dit.engine.callbacks.guard import GradientGuard
from dit.engine.module import StepOutput, VideoDiffusion
from dit.engine.ranks import gather_objects, sum_over_ranks
from dit.engine.writers import Unwritten, Writers
from dit.recipes.base import NET


class Speed:
    """Steps, tokens and FLOPs a second over a recent window, without the time of validation, previews and saving."""

    def __init__(self) -> None:
        self.window = 50
        self._seconds: list[float] = []
        self._tokens: list[float] = []
        self._flops: list[float] = []
        self._began: float | None = None

    def start(self) -> None:
        self._began = time.perf_counter()

    def stop(self, tokens: float, flops: float) -> None:
        """A step of so many tokens and FLOPs (over all ranks) has ended."""
        if self._began is not None:
            self._seconds = [*self._seconds, time.perf_counter() - self._began][-self.window :]
            self._tokens = [*self._tokens, tokens][-self.window :]
            self._flops = [*self._flops, flops][-self.window :]

    @property
    def steps_per_second(self) -> float:
        return len(self._seconds) / sum(self._seconds) if self._seconds else 0.0

    @property
    def tokens_per_second(self) -> float:
        return sum(self._tokens) / sum(self._seconds) if self._seconds else 0.0

    @property
    def flops_per_second(self) -> float:
        return sum(self._flops) / sum(self._seconds) if self._seconds else 0.0


class Metrics(Callback):
    """Writes losses, speeds and the clips seen so far, every `every` steps; docs/architecture.md lists the columns.

    What has been summed up since the last row is part of the checkpoint, so a resumed run writes the same numbers; so
    are rows that metrics.csv could not take, and lines that details.csv could not.

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
        self.flops_per_token = 0.0  # where all clips have one shape
        self.arithmetic: Arithmetic | None = None  # where they have not
        self.reference_rate = 0.0  # FLOP/s that MFU is a share of, all devices together
        self.reference_is_stated = False  # by a data sheet: the MFU of two runs can be compared
        self._seconds = 0.0  # that earlier processes of this run took
        self._began = time.perf_counter()
        self.last_loss = float("nan")
        self._losses: dict[str, list[Tensor]] = {}  # by optimizer, of the micro-batches since the last row
        self._saved: dict[str, list[list[float]]] = {}  # the same of all ranks
        self._unwritten = Unwritten([], [])
        self._work = (0, 0)  # tokens and FLOPs of this rank since the last step
        self._seen = (0, 0)  # of this rank in this process
        self._seen_before = (0, 0)  # of all ranks, before it
        self._weights: dict[str, list[float]] = {}  # of the losses in `_losses`
        self._saved_weights: dict[str, list[list[float]]] = {}
        self._last_step = 0

    @property
    def mfu(self) -> float:
        """Model FLOPs utilisation: the share of the devices' rate that the model's own arithmetic makes up."""
        return self.share(self.flops_per_second)

    def share(self, flops_per_second: float) -> float:
        """Of the devices' rate."""
        return flops_per_second / self.reference_rate if self.reference_rate else 0.0

    @property
    def flops_per_second(self) -> float:
        """The model's own arithmetic."""
        return self.speed.flops_per_second

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
                weights = self._saved_weights.get(name)
                self._weights[name] = [1.0] * len(mine) if weights is None else list(weights[trainer.global_rank])
        if trainer.is_global_zero:
            self.writers.start(Path(trainer.default_root_dir), pl_module.config, trainer.global_step)
            self.writers.restore(self._unwritten)
        self.speed.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, VideoDiffusion) and pl_module.last_step is not None
        last = pl_module.last_step
        for name, loss in last.losses.items():
            self._losses.setdefault(name, []).append(loss.shown.float())
            self._weights.setdefault(name, []).append(last.weight)
        flops = 0 if self.arithmetic is None else self.arithmetic.of(last.clips)
        self._work, self._seen = added(self._work, (last.tokens, flops)), added(self._seen, (last.tokens, flops))
        step = trainer.global_step
        if step == self._last_step:
            return  # in the middle of an accumulated step
        self._last_step = step
        (tokens, flops), self._work = self._work, (0, 0)
        ranks = trainer.world_size  # with about as many tokens each
        self.speed.stop(tokens * ranks, (flops if self.arithmetic else tokens * self.flops_per_token) * ranks)
        if step % self.every == 0:
            named = {
                name: mean_over_ranks(losses, self._weights[name]) for name, losses in self._losses.items() if losses
            }
            self.last_loss, self._losses, self._weights = named.get(NET, self.last_loss), {}, {}
            tokens_per_second, flops_per_second = self._speed_of_all()
            rates = {group.get("optimizer", NET): group["lr"] for group in reversed(trainer.optimizers[0].param_groups)}
            self.write(
                step,
                {
                    **of_each("train/loss", named),
                    **columns_of(last),
                    **of_each("train/grad_norm", {name: float(norm) for name, norm in self.guard.norms.items()}),
                    **of_each("train/lr", rates),
                    "speed/steps_per_second": self.speed.steps_per_second,
                    "speed/tokens_per_second": tokens_per_second,
                    "speed/mfu": self.share(flops_per_second),
                    "speed/tflops": flops_per_second / 1e12,
                    "speed/reference_tflops": self.reference_rate / 1e12,
                    "speed/reference_is_stated": float(self.reference_is_stated),
                    "speed/seconds": self.seconds,
                    **self._seen_so_far(batch, last.tokens),
                },
            )

    def _speed_of_all(self) -> tuple[float, float]:
        """Tokens and FLOPs a second of all ranks. Where clips have several shapes each rank knows its own alone, and
        takes the others to be as fast."""
        own = self.speed.tokens_per_second, self.flops_per_second
        if self.arithmetic is None:
            return own
        tokens, flops = zip(*gather_objects(own), strict=True)
        return fmean(tokens), fmean(flops)

    def _seen_so_far(self, batch: Batch, tokens: int) -> dict[str, float]:
        """What the run was trained on so far. The position in the stream of clips counts all ranks and all processes,
        and is part of each checkpoint. Where every clip has as many tokens as those of this batch of `tokens`, all else
        follows from it; where they have not, tokens and FLOPs are summed up."""
        if self.arithmetic is not None:
            seen_tokens, seen_flops = self._seen_by_all()
            return {"seen/clips": batch.position, "seen/tokens": seen_tokens, "seen/flops": float(seen_flops)}
        seen = batch.position * (tokens // len(batch))
        return {"seen/clips": batch.position, "seen/tokens": seen, "seen/flops": seen * self.flops_per_token}

    def _seen_by_all(self) -> tuple[int, int]:
        """Tokens and FLOPs of all ranks since the first step, as whole numbers: equal over every resume."""
        return reduce(added, gather_objects(self._seen), self._seen_before)

    def write(self, step: int, values: dict[str, float]) -> None:
        """One more set of numbers for the row of `step`. The writers are closed on all ranks but the first."""
        self.writers.metrics(step, values)

    def details(self, step: int, values: dict[str, float]) -> None:
        """Numbers of `step` of which there are too many for columns."""
        self.writers.details(step, values)

    def flush(self) -> None:
        self.writers.flush()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self.writers.flush()  # a checkpoint never knows of steps that the table does not
        entries.SECONDS.put(checkpoint, self.seconds)
        unwritten = self.writers.unwritten()
        entries.UNWRITTEN_METRICS.put(checkpoint, unwritten.rows)
        if unwritten.details:
            entries.UNWRITTEN_DETAILS.put(checkpoint, unwritten.details)
        running = gather_objects({name: [float(x) for x in each] for name, each in self._losses.items()})
        entries.RUNNING_LOSSES.put(checkpoint, [named.pop(NET, []) for named in running])
        if others := {name: [named[name] for named in running] for name in running[0]}:
            entries.OTHER_RUNNING_LOSSES.put(checkpoint, others)
        if self.arithmetic is not None:
            weights = gather_objects(self._weights)
            entries.RUNNING_WEIGHTS.put(checkpoint, {name: [each[name] for each in weights] for name in weights[0]})
            entries.SEEN.put(checkpoint, self._seen_by_all())

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        own, others = entries.RUNNING_LOSSES.of(checkpoint), entries.OTHER_RUNNING_LOSSES.of(checkpoint)
        self._saved = {NET: own, **others}
        self._saved_weights = entries.RUNNING_WEIGHTS.of(checkpoint)
        tokens, flops = entries.SEEN.of(checkpoint)
        self._seen_before = tokens, flops
        self._seconds = float(entries.SECONDS.of(checkpoint))
        rows, details = entries.UNWRITTEN_METRICS.of(checkpoint), entries.UNWRITTEN_DETAILS.of(checkpoint)
        self._unwritten = Unwritten(rows, details)

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


def mean_over_ranks(losses: Sequence[Tensor], weights: Sequence[float]) -> float:
    """The weighted mean of 0-dim losses, all those of all ranks."""
    stacked = torch.stack(list(losses)).double()
    counting = torch.tensor(list(weights), dtype=torch.float64).to(stacked.device)
    total = sum_over_ranks(torch.stack([(stacked * counting).sum(), counting.sum()]))
    return float(total[0] / total[1])


def columns_of(step: StepOutput) -> dict[str, float]:
    """`train/<name>` for each further column of the losses of this step (`Loss.columns`), the mean over the ranks."""
    return {
        f"train/{name}": mean_over_ranks([value], [step.weight])
        for loss in step.losses.values()
        for name, value in loss.columns.items()
    }


def added(one: tuple[int, int], other: tuple[int, int]) -> tuple[int, int]:
    """The sums of two pairs."""
    return one[0] + other[0], one[1] + other[1]
