"""The LightningModule: what one training step is, and what a checkpoint holds."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from data.batch import Batch
from dit.codec.base import Codec
from dit.diffusion.denoiser import Denoiser
from dit.diffusion.errors import errors
from dit.diffusion.loss import LossOutput, Objective
from dit.engine import parallel, rng
from dit.engine.lr_schedule import LRSchedule
from dit.net import runner
from dit.net.alignment import Alignment
from dit.net.backbone import Backbone
from dit.net.patches import token_grid
from dit.onednn import accelerate
from dit.signals.base import Signal, cond_of_batch
from dit.signals.label import brief
from dit.text.base import TextEncoder


class StepOutput(NamedTuple):
    """What the callbacks see of a training step beside Lightning's own loss."""

    loss: Tensor  # 0-dim
    per_sample: Tensor  # (B,)
    alignment: Tensor | None  # 0-dim, where there is one
    tokens: int


class Validated(NamedTuple):
    """What validation knows of a clip."""

    loss: LossOutput  # of this clip alone, in the run's own weighting, levels and space
    errors: Tensor | None  # (3, L, F) of x0, eps and velocity at L fixed levels; None where no level was asked for


class VideoDiffusion(LightningModule):
    """Network, codec and text encoder under one objective.

    Args:
        net, codec, text: the parts; `text` is None for a network that reads none. The codec, and whatever has no
            trainable parameter, stays out of checkpoints.
        signals: what the network is told of clips, by name.
        objective: loss of the network on clean latents.
        alignment: `alignment(width)`, a loss on a middle layer that is added with its weight; None: there is none.
        optimizer: `optimizer(model) -> Optimizer`.
        lr_schedule: factor on the learning rate by step.
        max_steps: optimizer steps of the whole run, for the schedule.
        caption_dropout: probability that all that can be left unsaid of a clip (caption, class, ...) is, in training,
            for classifier-free guidance. Drawn from python's generator, so that no device is asked to wait.
        compile_mode: compile the network block by block in this mode (`default`, `max-autotune`, ...), or None.
        config: the resolved config, plain containers only; it goes into every checkpoint.
        classes: names of the data's classes, which go into every checkpoint; None for a network that reads no labels.

    Raises:
        ValueError: what does not fit.
    """

    def __init__(
        self,
        net: Backbone,
        codec: Codec,
        text: TextEncoder | None,
        signals: Mapping[str, Signal],
        objective: Objective,
        alignment: Callable[[int], Alignment] | None,
        optimizer: Callable[[nn.Module], Optimizer],
        lr_schedule: LRSchedule,
        max_steps: int,
        caption_dropout: float,
        compile_mode: str | None,
        config: dict[str, Any],
        classes: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= caption_dropout <= 1:
            raise ValueError(f"caption_dropout={caption_dropout} is a probability; 0.1 is usual")
        self.net = net
        self.codec = codec.requires_grad_(False)
        self.text = text
        self.signals = signals
        self.classes = None if classes is None else list(classes)
        self.objective = objective
        self.alignment = None if alignment is None else alignment(net.width)
        if self.alignment is not None:
            runner.check(net, [self.alignment.block])
        self.optimizer = optimizer
        self.lr_schedule = lr_schedule
        self.max_steps = max_steps
        self.caption_dropout = caption_dropout
        self.compile_mode = compile_mode
        self.config = config
        self.trained = {name for name, part in self.named_children() if any(p.requires_grad for p in part.parameters())}
        self.frozen: set[str] = set()  # weights of trained parts that stand still, beside adapters
        self.frozen_mark: str | None = None  # of the file that holds them (`frozen.py`)
        self.held_lr_factor: float | None = None  # stands in for the schedule
        self.last_step: StepOutput | None = None

    # -- the step

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        x0 = self.encode(batch.pixels)  # (B, C, F, H, W)
        left_out = [random.random() < self.caption_dropout for _ in batch.ids]
        cond = cond_of_batch(self.signals, batch, left_out)
        out, aligned = self.losses(x0, cond, batch.pixels)
        tokens = self.count_tokens(x0)
        self.last_step = StepOutput(out.loss.detach(), out.per_sample.detach(), detached(aligned), tokens)
        return out.loss if aligned is None or self.alignment is None else out.loss + self.alignment.weight * aligned

    def losses(self, x0: Tensor, cond: dict[str, Tensor], pixels: Tensor) -> tuple[LossOutput, Tensor | None]:
        """The denoising loss, and the alignment of a middle layer with an encoder's features of the pixels, if any."""
        if self.alignment is None:
            return self.objective(self.net, x0, cond), None
        with runner.tapped(self.net, self.alignment.block) as tap:
            out = self.objective(self.net, x0, cond)
        grid = token_grid(self.net.patch, *x0.shape[2:])
        return out, self.alignment(tap.tokens, grid, pixels).mean()

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """Pixels (B, 3, num_frames, height, width) to latents (B, C, F, H, W)."""
        return self.codec.encode(pixels)

    def count_tokens(self, latents: Tensor) -> int:
        """Tokens that the network sees in a batch of latents."""
        return latents.shape[0] * self.net.num_tokens(*latents.shape[2:])

    def validation_step(  # type: ignore[override]
        self, batch: Batch, batch_idx: int, noise_shares: Sequence[float] = ()
    ) -> list[Validated]:
        """The loss and the errors at `noise_shares` of each clip, one by one and under noise that belongs to the clip
        alone: the same whatever the batch size and the number of devices, and comparable between steps. The errors are
        comparable between runs, too (`dit/diffusion/errors.py`)."""
        x0 = self.encode(batch.pixels)
        denoiser = Denoiser(self.net, self.objective.path, self.objective.prediction)
        validated = []
        for i, name in enumerate(batch.ids):
            latents, clip = x0[i : i + 1], zlib.crc32(name.encode())
            cond = cond_of_batch(self.signals, batch.one(i))
            loss = self.objective(self.net, latents, cond, rng.generator("cpu", clip))
            noise = rng.generator("cpu", clip, 1)
            wrong = errors(denoiser, latents, cond, noise_shares, noise) if noise_shares else None
            validated.append(Validated(loss, wrong))
        return validated

    # -- set-up

    def configure_model(self) -> None:
        strategy = self.trainer.strategy
        if self.compile_mode is not None:
            parallel.compile_blocks(self.net, self.compile_mode)
        else:
            accelerate(self.net)
        if isinstance(strategy, parallel.FSDP2):
            strategy.shard([part for part in (self.net, self.text, self.alignment) if part is not None])

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer(self)
        scheduler = LambdaLR(optimizer, lambda step: self.lr_factor(step))
        # As the config has them: a checkpoint puts its own in their place.
        self._settings = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def lr_factor(self, step: int) -> float:
        """The share of the peak rate at which update number `step` (0, 1, ...) is made."""
        return self.lr_schedule(step, self.max_steps) if self.held_lr_factor is None else self.held_lr_factor

    def on_train_start(self) -> None:
        """Rates and other settings of the optimizer are the config's, its moments the checkpoint's. They differ only
        where the run was told to change something when it was resumed."""
        scheduler = self.trainer.lr_scheduler_configs[0].scheduler
        assert isinstance(scheduler, LambdaLR)
        scheduler.base_lrs = [settings["initial_lr"] for settings in self._settings]
        factor = self.lr_factor(scheduler.last_epoch)
        for group, settings in zip(scheduler.optimizer.param_groups, self._settings, strict=True):
            group.update(settings)
            group["lr"] = settings["initial_lr"] * factor
        scheduler._last_lr = [group["lr"] for group in scheduler.optimizer.param_groups]

    def adapt(self, lora: Callable[[nn.Module], None]) -> None:
        """Puts adapters into the network, beside which nothing else of network and text encoder trains. What stands
        still is kept once for the run, not with each checkpoint."""
        lora(self.net)
        if self.text is not None:
            self.text.requires_grad_(False)
        self.frozen = {key for key, p in self.named_parameters() if self.is_trained(key) and not p.requires_grad}

    # -- checkpoints: raw weights of what is trained, and the config

    @property
    def strict_loading(self) -> bool:
        return False  # frozen parts are not in the file; `on_load_checkpoint` is strict about everything else

    @strict_loading.setter
    def strict_loading(self, value: bool) -> None:
        raise AttributeError("strict_loading is fixed: on_load_checkpoint checks the keys")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["config"] = self.config
        if self.classes is not None:
            checkpoint["classes"] = self.classes
        checkpoint["lr_factor"] = self.lr_factor(checkpoint["global_step"])
        if self.frozen:
            checkpoint["frozen"] = self.frozen_mark
        weights = checkpoint["state_dict"]
        checkpoint["state_dict"] = {key: weights[key] for key in weights if self.is_saved(key)}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        before = checkpoint.get("classes", self.classes)
        if before != self.classes:
            raise ValueError(
                f"this run's classes were {brief(before or [])}, and are now {brief(self.classes or [])}: numbers"
                " would mean something else; restore the data, or start a run under another name"
            )
        if "state_dict" not in checkpoint:
            return  # FSDP2 has loaded the weights before this hook, strictly by shape
        here = {key for key in self.state_dict() if self.is_saved(key)}
        differing = sorted(here ^ (checkpoint["state_dict"].keys() - self.frozen))  # which older files hold as well
        if differing:
            where = "the checkpoint" if differing[0] in here else "this network"
            raise ValueError(f"{len(differing)} weights do not match: {differing[0]} is not in {where}")

    def is_trained(self, key: str) -> bool:
        """Whether a key of the state dict belongs to a part that is trained, if only by its adapters."""
        return key.split(".")[0] in self.trained

    def is_saved(self, key: str) -> bool:
        """Whether checkpoints hold a key of the state dict."""
        return self.is_trained(key) and key not in self.frozen


def detached(loss: Tensor | None) -> Tensor | None:
    """The loss without its graph."""
    return None if loss is None else loss.detach()
