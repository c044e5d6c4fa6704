"""Between backward and update: clip the gradient, and stop before a non-finite one is used."""

from __future__ import annotations

import math

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from data.batch import Batch
from dit.engine import finite, parallel
from dit.engine.callbacks.place import Place
from dit.engine.finite import NonFinite
from dit.engine.module import VideoDiffusion


class GradientGuard(Callback):
    """Clips the gradient's norm over all parameters, and raises `NonFinite` before a bad update.

    Args:
        max_norm: largest norm of the gradient, or None to only measure it.
    """

    place = Place.UPDATE

    def __init__(self, max_norm: float | None) -> None:
        if max_norm is not None and not 0 < max_norm < math.inf:
            raise ValueError(
                f"trainer.gradient_clip_norm={max_norm} must be a finite number above 0, or null for no clipping"
            )
        self.max_norm = max_norm
        self.norm: Tensor | None = None  # of the last step, before clipping
        self._seen: list[tuple[list[str], Tensor]] = []  # ids and losses of the micro-batches of this step

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int) -> None:
        self._ids = batch.ids

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        assert isinstance(pl_module, VideoDiffusion) and pl_module.last_step is not None
        self._seen.append((self._ids, pl_module.last_step.per_sample))

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        parameters = [p for p in pl_module.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        self.norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        seen, self._seen = self._seen, []
        # One transfer to the host for both questions.
        bad = torch.stack([self.norm.float(), *(losses.sum().float() for _, losses in seen)]).isfinite().logical_not()
        if bool(parallel.any_rank(bad.any()[None])):
            # An update may have spoiled the weights; then neither this loss nor its clips are to blame.
            finite.check({"the weights": finite.trained(pl_module)}, trainer.global_step, pl_module.device)
            self._stop(trainer.global_step + 1, bool(bad[1:].any()), seen)
        if self.max_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, self.max_norm, norm)

    def _stop(self, step: int, loss_is_bad: bool, seen: list[tuple[list[str], Tensor]]) -> None:
        losses = [(id, loss) for ids, part in seen for id, loss in zip(ids, part.tolist(), strict=True)]
        culprits = [id for id, loss in losses if not math.isfinite(loss)]
        everyone = parallel.gather_objects((loss_is_bad, culprits or [id for id, _ in losses], bool(culprits)))
        what = "loss" if any(bad for bad, _, _ in everyone) else "gradient"
        certain = any(known for _, _, known in everyone)
        ids = [id for _, ids, known in everyone for id in ids if known or not certain]
        which = "sample" if certain else "one of the samples"
        raise NonFinite(
            f"the {what} is not finite at step {step}, {which} {', '.join(ids)}; this step updated nothing. "
            "Look at the data, lower optim.lr, or set trainer.gradient_clip_norm"
        )
