"""Validation every so many steps, with the averaged weights, all clips shared out over the ranks.

It runs in the hook after the update rather than in Lightning's loop: its place between the EMA and the checkpoint is
fixed (so a run that is killed after saving has lost no metric), the weights are swapped in try/finally, and training's
random numbers stay untouched.
"""

from __future__ import annotations

from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from dit.diffusion.loss import LossOutput, loss_by_level
from dit.engine import rng
from dit.engine.callbacks.metrics import Metrics, sum_over_ranks
from dit.engine.ema import EMA
from dit.engine.module import VideoDiffusion


class Validation(Callback):
    """Logs `val/loss`, `val/loss_level_*` by noise level and `val/loss_frame_*` by latent frame.

    Args:
        ema: lends the averaged weights.
        metrics: takes the results.
        every: optimizer steps between validations; None for none.
        level_buckets: equal intervals of the noise level that are told apart.
    """

    def __init__(self, ema: EMA, metrics: Metrics, *, every: int | None, level_buckets: int) -> None:
        if every is not None and every < 1:
            raise ValueError(f"callbacks.validation.every={every} must be at least 1 step, or null for no validation")
        self.ema = ema
        self.metrics = metrics
        self.every = every
        self.level_buckets = level_buckets
        self._last_step = -1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._last_step = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if self.every and step != self._last_step and (step % self.every == 0 or step == trainer.max_steps):
            assert isinstance(pl_module, VideoDiffusion)
            self.metrics.write(step, self.run(trainer, pl_module))
        self._last_step = step

    @torch.no_grad()
    def run(self, trainer: Trainer, module: VideoDiffusion) -> dict[str, float]:
        """One pass over the validation clips; the same numbers on every rank."""
        loader = trainer.datamodule.val_dataloader()  # type: ignore[attr-defined]
        sums: list[Tensor] = []
        was_training = module.training
        module.eval()
        try:
            with rng.untouched(), self.ema.swapped(module), trainer.precision_plugin.val_step_context():
                for index, batch in enumerate(loader):
                    batch = trainer.strategy.batch_to_device(batch)
                    sums += [self._sums(out) for out in module.validation_step(batch, index)]
        finally:
            module.train(was_training)
        if not sums:
            return {}
        total = sum_over_ranks(torch.stack(sums).sum(0))
        return self._named(total)

    def _sums(self, out: LossOutput) -> Tensor:
        """Float64 [clips, losses, frames by bucket, losses by bucket, frames by position, losses by position]."""
        by_level = loss_by_level(out, self.level_buckets)
        parts = (
            torch.tensor([len(out.per_sample)], device=out.loss.device), out.per_sample.sum()[None],
            by_level.frames, by_level.total, (~out.given).sum(0), out.per_frame.sum(0),
        )  # fmt: skip
        return torch.cat([part.double().flatten() for part in parts])

    def _named(self, total: Tensor) -> dict[str, float]:
        clips, losses, *rest = total.tolist()
        buckets, frames = self.level_buckets, (len(rest) - 2 * self.level_buckets) // 2
        named = {"val/loss": losses / clips}
        for i in range(buckets):
            if rest[i]:
                low, high = i / buckets, (i + 1) / buckets
                named[f"val/loss_level_{low:.2f}_{high:.2f}"] = rest[buckets + i] / rest[i]
        for f in range(frames):
            if rest[2 * buckets + f]:
                named[f"val/loss_frame_{f:02d}"] = rest[2 * buckets + frames + f] / rest[2 * buckets + f]
        return named
