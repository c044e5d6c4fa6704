"""Validation every so many steps, with the averaged weights, all clips shared out over the ranks.

It is one of `AfterStep`'s tasks rather than Lightning's loop: it comes behind the checkpoint of its step and can be
stopped between two batches, the weights are swapped in try/finally, and training's random numbers stay untouched.
"""

from __future__ import annotations

from contextlib import closing

import torch
from lightning import Trainer
from torch import Tensor

from dit.diffusion.loss import LossOutput, loss_by_level
from dit.engine import rng
from dit.engine.callbacks.after_step import Ask
from dit.engine.callbacks.metrics import Metrics, sum_over_ranks
from dit.engine.ema import EMA
from dit.engine.module import VideoDiffusion


class Validation:
    """Logs `val/loss`, `val/loss_level_*` by noise level and `val/loss_frame_*` by latent frame.

    Args:
        ema: lends the averaged weights.
        metrics: takes the results.
        every: optimizer steps between validations; None for none.
        level_buckets: equal intervals of the noise level that are told apart.
    """

    name = "validation"

    def __init__(self, ema: EMA, metrics: Metrics, *, every: int | None, level_buckets: int) -> None:
        if every is not None and every < 1:
            raise ValueError(f"callbacks.validation.every={every} must be at least 1 step, or null for no validation")
        self.ema = ema
        self.metrics = metrics
        self.every = every
        self.level_buckets = level_buckets

    def is_due(self, step: int, last: bool) -> bool:
        return self.every is not None and (last or step % self.every == 0)

    def run(self, trainer: Trainer, module: VideoDiffusion, step: int, ask: Ask) -> None:
        self.metrics.write(step, self.measure(trainer, module, ask))
        self.metrics.flush()  # the checkpoint of this step is saved already

    @torch.no_grad()
    def measure(self, trainer: Trainer, module: VideoDiffusion, ask: Ask) -> dict[str, float]:
        """One pass over the validation clips; the same numbers on every rank. Asks before each batch."""
        loader = trainer.datamodule.val_dataloader()  # type: ignore[attr-defined]
        sums: list[Tensor] = []
        was_training = module.training
        module.eval()
        try:
            with (
                rng.untouched(), self.ema.swapped(module), trainer.precision_plugin.val_step_context(),
                closing(batch for batch in loader) as batches,
            ):  # fmt: skip
                for index, batch in enumerate(batches):
                    ask()
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
