"""Between backward and update: clip the gradient, and stop before a non-finite one is used."""

from __future__ import annotations

import math

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from data.batch import Batch
from dit.engine import finite, ranks
from dit.engine.callbacks.place import Place
from dit.engine.finite import NonFinite
from dit.engine.module import VideoDiffusion


class GradientGuard(Callback):
    """Clips the norm of the gradient over all parameters of each optimizer, and raises `NonFinite` before a bad update.

    Args:
        max_norm: largest norm of an optimizer's gradient, or None to only measure it.
    """

    place = Place.UPDATE

    def __init__(self, max_norm: float | None) -> None:
        if max_norm is not None and not 0 < max_norm < math.inf:
            raise ValueError(
                f"trainer.gradient_clip_norm={max_norm} must be a finite number above 0, or null for no clipping"
            )
        self.max_norm = max_norm
        self.norms: dict[str, Tensor] = {}  # of the last step, before clipping, by optimizer
        self._seen: list[tuple[list[str], dict[str, Tensor]]] = []  # ids and losses of the micro-batches of this step

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int) -> None:
        self._ids = batch.ids

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        assert isinstance(pl_module, VideoDiffusion) and pl_module.last_step is not None
        losses = {name: loss.per_sample for name, loss in pl_module.last_step.losses.items()}
        self._seen.append((self._ids, losses))

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        assert isinstance(pl_module, VideoDiffusion)
        norms: dict[str, Tensor] = {}  # as torch gives them
        parameters: dict[str, list[Tensor]] = {}
        for name in self._seen[-1][1]:
            parameters[name] = [p for p in pl_module.parameters_of(name) if p.grad is not None]
            norms[name] = torch.nn.utils.get_total_norm([p.grad for p in parameters[name] if p.grad is not None])
        self.norms = {name: norm.full_tensor() if isinstance(norm, DTensor) else norm for name, norm in norms.items()}
        seen, self._seen = self._seen, []
        # One transfer to the host for all questions.
        named = {("gradient", name): norm.float() for name, norm in self.norms.items()}
        for name in norms:
            named["loss", name] = torch.stack([losses[name].sum().float() for _, losses in seen]).sum()
        bad = torch.stack(list(named.values())).isfinite().logical_not()
        if bool(ranks.any_rank(bad.any()[None])):
            # An update may have spoiled the weights; then neither this loss nor its clips are to blame.
            finite.check(finite.weights(pl_module), trainer.global_step, pl_module.device)
            wrong = [each for each, is_bad in zip(named, bad.tolist(), strict=True) if is_bad]
            self._stop(trainer.global_step + 1, wrong, seen)
        if self.max_norm is not None:
            for name, norm in norms.items():
                torch.nn.utils.clip_grads_with_norm_(parameters[name], self.max_norm, norm)

    def _stop(self, step: int, bad: list[tuple[str, str]], seen: list[tuple[list[str], dict[str, Tensor]]]) -> None:
        """Raises `NonFinite`, naming the losses, or where those are finite the gradients, and their samples."""
        losses = [
            (id, loss)
            for ids, named in seen
            for part in named.values()
            for id, loss in zip(ids, part.tolist(), strict=True)
        ]
        culprits = list(dict.fromkeys(id for id, loss in losses if not math.isfinite(loss)))
        mine = culprits or list(dict.fromkeys(id for id, _ in losses))
        everyone = ranks.gather_objects((bad, mine, bool(culprits)))
        wrong = dict.fromkeys(each for bad, _, _ in everyone for each in bad)
        what = "loss" if any(kind == "loss" for kind, _ in wrong) else "gradient"
        whose = " and the ".join(f"{what}{finite.of(name)}" for kind, name in wrong if kind == what)
        certain = any(known for _, _, known in everyone)
        ids = [id for _, ids, known in everyone for id in ids if known or not certain]
        which = "sample" if certain else "one of the samples"
        raise NonFinite(
            f"the {whose} is not finite at step {step}, {which} {', '.join(ids)}; this step updated nothing. "
            "Look at the data, lower optim.lr, or set trainer.gradient_clip_norm"
        )
