"""The LightningModule: one training step, and what of the model goes into a checkpoint."""

from __future__ import annotations

import operator
import random
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import reduce
from operator import itemgetter
from typing import Any, NamedTuple, Self, cast

import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from data.batch import Batch
from dit.checkpoint import entries
from dit.codec.base import Codec
from dit.codec.vae.network import Autoencoder
from dit.diffusion.footage import CLIP, Footage, KeptFootage, frames_of
from dit.diffusion.loss import Objective
from dit.engine import blocks, parallel
from dit.engine.clip_mean import ClipMean
from dit.engine.lr_schedule import LRSchedule
from dit.engine.optim import joined
from dit.engine.validated import Validated, validated
from dit.net.backbone import Backbone
from dit.onednn import accelerate
from dit.recipes.base import NET, Clips, Loss, Recipe
from dit.signals.base import Signal, cond_of_batch
from dit.signals.label import brief
from dit.text.base import TextEncoder

LatentShape = tuple[int, int, int]  # (F, H, W)


class StepOutput(NamedTuple):
    """What the callbacks see of a training step beside Lightning's own loss."""

    losses: dict[str, Loss]  # by optimizer, without graphs
    tokens: int
    clips: dict[LatentShape, int]  # of each shape
    weight: float  # of the losses among those of other micro-batches and ranks


class VideoDiffusion(LightningModule):
    """Network, codec, text encoder and the networks of a recipe, each a submodule under its name.

    Args:
        net, codec, text: the parts; `text` is None for a network that reads none. Checkpoints hold no part without
            trainable parameters, as the codec.
        signals: what the networks are told of clips, by name.
        objective: loss of the network on clean latents, for validation; its path and prediction are the sampler's. None
            where the recipe trains an autoencoder.
        recipe: what a training step is.
        optimizer: `optimizer(model) -> Optimizer`, of the network and what is trained with it.
        lr_schedule: factor on the learning rate by step.
        max_steps: optimizer steps of the whole run, for the schedule.
        caption_dropout: probability that a training clip is shown without caption, class and whatever else can be left
            out, for classifier-free guidance. Drawn from Python's generator, so that no device has to be waited for.
        compile_mode: compile the network block by block in this mode (`default`, `max-autotune`, ...), or None.
        config: the resolved config, plain containers only; it goes into every checkpoint.
        classes: names of the data's classes, which go into every checkpoint; None for a network that reads no labels.
        uneven: whether ranks and micro-batches may have different numbers of clips, which then count alike
            (`clip_mean.py`).

    Raises:
        ValueError: a `caption_dropout` that is no probability, or a network that is not what the recipe needs.
    """

    def __init__(
        self,
        net: Backbone | Autoencoder,
        codec: Codec,
        text: TextEncoder | None,
        signals: Mapping[str, Signal],
        objective: Objective | None,
        recipe: Recipe,
        optimizer: Callable[[nn.Module], Optimizer],
        lr_schedule: LRSchedule,
        max_steps: int,
        caption_dropout: float,
        compile_mode: str | None,
        config: dict[str, Any],
        classes: Sequence[str] | None = None,
        uneven: bool = False,
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
        self.recipe = recipe
        self.parts = recipe.parts(net)
        for name, part in self.parts.items():
            self.add_module(name, part.module if part.optimizer is not None else part.module.requires_grad_(False))
        if text is not None and not recipe.trains_text:
            text.requires_grad_(False)
        self.optimizers_by_name = {NET: optimizer, **recipe.optimizers}
        self.lr_schedule = lr_schedule
        self.max_steps = max_steps
        self.caption_dropout = caption_dropout
        self.compile_mode = compile_mode
        self.config = config
        self.trained = {name for name, part in self.named_children() if any(p.requires_grad for p in part.parameters())}
        self.frozen: set[str] = set()  # keys of weights that are saved once for the run (`frozen.py`)
        if not recipe.trains_text:
            self._freeze(["text"])
        self._freeze([name for name, part in self.parts.items() if part.optimizer is None])
        self.frozen_mark: str | None = None  # fingerprint of the file that holds them
        self.data_cards: list[str] = []  # hashes of the cards of all that it was trained on, the present data's last
        self.held_lr_factor: float | None = None  # replaces the schedule
        self.last_step: StepOutput | None = None
        self.clip_mean = ClipMean() if uneven else None

    # -- the step

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        each = [self.latents(*group) for group in groups(batch)]
        whole: Callable[[Sequence[Any]], Any] = tuple if batch.is_packed else itemgetter(0)
        x0 = whole(each)  # (B, C, F, H, W); of a packed batch (n, C, F, H, W) of each shape
        footage = [self.footage(*group, latents) for group, latents in zip(groups(batch), each, strict=True)]
        left_out = [random.random() < self.caption_dropout for _ in batch.ids]
        cond = cond_of_batch(self.signals, batch, left_out)
        clips = Clips(
            x0, whole(batch.groups), cond, lambda: cond_of_batch(self.signals, batch, [True] * len(batch.ids)),
            whole(footage),
        )  # fmt: skip
        losses = self.recipe.losses(self.networks, clips, self.global_step)
        self._check_reached(losses)
        detached = {name: loss.detached() for name, loss in losses.items()}
        shapes: Counter[LatentShape] = Counter()
        for latents, _ in clips.groups:
            shapes[latents.shape[2:]] += len(latents)  # type: ignore[index]
        self.last_step = StepOutput(
            detached, sum(self.count_tokens(latents) for latents, _ in clips.groups), shapes,
            1.0 if self.clip_mean is None else len(batch),
        )  # fmt: skip
        total = reduce(operator.add, (loss.total for loss in losses.values()))
        return total if self.clip_mean is None else self.clip_mean.summed(total, len(batch))

    def on_after_backward(self) -> None:
        if self.clip_mean is not None:
            trainer = self.trainer
            self.clip_mean.weigh(self.parameters(), trainer.accumulate_grad_batches, trainer.world_size, self.device)

    @property
    def networks(self) -> dict[str, nn.Module]:
        """What the recipe works with, by name."""
        return {NET: self.net, **{name: part.module for name, part in self.parts.items()}}

    @property
    def trained_by(self) -> dict[str, list[str]]:
        """Which parts each optimizer trains, by their names."""
        own = {name: part.optimizer for name, part in self.parts.items()}
        owners = {NET: NET, "text": NET, **own}
        names = {name: [part for part, owner in owners.items() if owner == name] for name in self.optimizers_by_name}
        return {name: [part for part in parts if getattr(self, part) is not None] for name, parts in names.items()}

    def parameters_of(self, optimizer: str) -> list[nn.Parameter]:
        """All parameters of the parts that an optimizer trains, each once, in the order of the parts."""
        return list(self._model_of(optimizer).parameters())

    def _model_of(self, optimizer: str) -> nn.ModuleDict:
        return nn.ModuleDict({name: getattr(self, name) for name in self.trained_by[optimizer]})

    def _check_reached(self, losses: Mapping[str, Loss]) -> None:
        """Raises ValueError where DDP would wait for the gradients of an optimizer that has no loss in this step."""
        missing = [name for name in self.optimizers_by_name if name not in losses]
        strategy = self.trainer.strategy if self._trainer is not None else None
        if missing and isinstance(strategy, parallel.DDP) and not strategy.finds_unused:
            raise ValueError(
                f"this recipe leaves out the optimizer of {missing[0]} at step {self.global_step + 1}:"
                " trainer.strategy.find_unused_parameters=true static_graph=false lets it"
            )

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """Pixels (B, 3, num_frames, height, width) to latents (B, C, F, H, W)."""
        return self.codec.encode(pixels)

    @torch.no_grad()
    def encode_given(self, pixels: Tensor) -> Tensor:
        """The same of given frames, without anything drawn, as the sampler encodes them."""
        before = self.codec.training
        try:
            return self.codec.eval().encode(pixels)
        finally:
            self.codec.train(before)

    @torch.no_grad()
    def latents(self, pixels: Tensor, kept: Mapping[str, Tensor]) -> Tensor:
        """Latents of clips of one shape, (B, C, F, H, W): of their pixels, or of what a latent cache has kept."""
        return self.codec.latents_of(kept[CLIP].to(torch.float32)) if kept else self.encode(pixels)

    def footage(self, pixels: Tensor, kept: Mapping[str, Tensor], x0: Tensor) -> Footage:
        """Training clips for networks that are shown given frames beside them. x0: their latents."""
        compression = self.codec.compression
        if not kept:
            return Footage(pixels, self.encode_given, compression)
        named = {frames_of(name): each.to(x0.dtype) for name, each in kept.items()}
        of_given = {at: latents for at, latents in named.items() if at is not None}
        num_frames = compression.pixel_shape(*x0.shape[2:])[0]
        return KeptFootage(pixels, self.encode_given, compression, num_frames, of_given)

    def count_tokens(self, latents: Tensor) -> int:
        """Tokens that the network sees in a batch of latents."""
        return latents.shape[0] * self.net.num_tokens(*latents.shape[2:])

    def validation_step(  # type: ignore[override]
        self, batch: Batch, batch_idx: int, noise_shares: Sequence[float] = (), rows: int = 1
    ) -> list[Validated]:
        """Loss and errors of each clip (`validated.py`), of a network that denoises."""
        net, objective = cast(Backbone, self.net), cast(Objective, self.objective)
        conds = [cond_of_batch(self.signals, batch.one(i)) for i in range(len(batch))]
        x0 = [one for group in groups(batch) for one in self.latents(*group).split(1)]
        alone = [group for i in range(len(batch)) for group in groups(batch.one(i))]
        footage = [self.footage(*group, one) for group, one in zip(alone, x0, strict=True)]
        return validated(net, objective, x0, conds, batch.ids, noise_shares, rows, footage)

    # -- set-up

    def configure_model(self) -> None:
        strategy = self.trainer.strategy
        copies = {name: self.parts[name].module for name in self.recipe.copies}
        alike = [self.net, *copies.values()]
        if self.compile_mode is not None:
            for net in alike:
                blocks.compile_blocks(net, self.compile_mode)
        else:
            for net in alike:
                accelerate(net)
        if isinstance(strategy, parallel.FSDP2):
            # A frozen text encoder or codec stays whole: ranks may ask it unequally often.
            sharded = [part for name, part in self.named_children() if name in self.trained or name in copies]
            strategy.shard(sharded)

    def configure_optimizers(self) -> Any:
        made = {name: build(self._model_of(name)) for name, build in self.optimizers_by_name.items()}
        optimizer = made[NET] if len(made) == 1 else joined(made)
        scheduler = LambdaLR(optimizer, lambda step: self.lr_factor(step))
        # Those of the config. Loading a checkpoint overwrites them with its own; `on_train_start` puts them back.
        self._settings = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def lr_factor(self, step: int) -> float:
        """The factor on the peak rate of update number `step` (0, 1, ...)."""
        return self.lr_schedule(step, self.max_steps) if self.held_lr_factor is None else self.held_lr_factor

    def on_train_start(self) -> None:
        """Takes rates and other settings of the optimizer from the config, where a checkpoint has brought its own; only
        the moments are the checkpoint's. The two differ where settings were changed on purpose (`resume_changes`)."""
        scheduler = self.trainer.lr_scheduler_configs[0].scheduler
        assert isinstance(scheduler, LambdaLR)
        scheduler.base_lrs = [settings["initial_lr"] for settings in self._settings]
        factor = self.lr_factor(scheduler.last_epoch)
        for group, settings in zip(scheduler.optimizer.param_groups, self._settings, strict=True):
            group.update(settings)
            group["lr"] = settings["initial_lr"] * factor
        scheduler._last_lr = [group["lr"] for group in scheduler.optimizer.param_groups]

    def adapt(self, lora: Callable[[nn.Module], None]) -> None:
        """Adds adapters to the network and freezes all other weights of network and text encoder. The frozen ones are
        saved once for the run, not in each checkpoint. ValueError for a recipe with copies of the network."""
        if self.recipe.copies:
            beside = ", ".join(self.recipe.copies)
            raise ValueError(f"lora adapts one network, and this recipe has {beside} beside it; lora=none")
        lora(self.net)
        if self.text is not None:
            self.text.requires_grad_(False)
        self.frozen = {key for key, p in self.named_parameters() if self.is_trained(key) and not p.requires_grad}

    @torch.no_grad()
    def fill_copies(self, loaded: Collection[str]) -> None:
        """Copies the present weights of the network into the recipe's copies of it, but for those named in `loaded`,
        which have weights of their own already."""
        for name in self.recipe.copies:
            if name not in loaded:
                self.parts[name].module.load_state_dict(self.net.state_dict())

    def train(self, mode: bool = True) -> Self:
        """As in torch, but frozen networks of the recipe stay in evaluation mode."""
        super().train(mode)
        for part in self.parts.values():
            if part.optimizer is None:
                part.module.eval()
        return self

    def _freeze(self, names: Collection[str]) -> None:
        self.frozen |= {key for key in self.state_dict() if key.split(".")[0] in names}

    # -- checkpoints: raw weights of what is trained, and the config

    @property
    def strict_loading(self) -> bool:
        return False  # frozen parts are not in the file; `on_load_checkpoint` is strict about everything else

    @strict_loading.setter
    def strict_loading(self, value: bool) -> None:
        raise AttributeError("strict_loading is fixed: on_load_checkpoint checks the keys")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        entries.CONFIG.put(checkpoint, self.config)
        if self.classes is not None:
            entries.CLASSES.put(checkpoint, self.classes)
        if self.data_cards:
            entries.DATA_CARDS.put(checkpoint, self.data_cards)
        entries.LR_FACTOR.put(checkpoint, self.lr_factor(entries.STEP.of(checkpoint)))
        if self.frozen:
            entries.FROZEN.put(checkpoint, self.frozen_mark)
        weights = entries.WEIGHTS.of(checkpoint)
        entries.WEIGHTS.put(checkpoint, {key: weights[key] for key in weights if self.is_saved(key)})

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.trained_before(entries.DATA_CARDS.of(checkpoint))
        before = entries.CLASSES.of(checkpoint) if entries.CLASSES.is_in(checkpoint) else self.classes
        if before != self.classes:
            raise ValueError(
                f"this run's classes were {brief(before or [])}, and are now {brief(self.classes or [])}: numbers"
                " would mean something else; restore the data, or start a run under another name"
            )
        if not entries.WEIGHTS.is_in(checkpoint):
            return  # FSDP2 has loaded the weights before this hook, strictly by shape
        here = {key for key in self.state_dict() if self.is_saved(key)}
        saved = entries.WEIGHTS.of(checkpoint).keys() - self.frozen  # older files hold what is frozen, too
        differing = sorted(here ^ saved)
        if differing:
            where = "the checkpoint" if differing[0] in here else "this network"
            raise ValueError(f"{len(differing)} weights do not match: {differing[0]} is not in {where}")

    def trained_before(self, data_cards: Sequence[str]) -> None:
        """Notes the cards of data that the weights were trained on before."""
        self.data_cards = [*(each for each in data_cards if each not in self.data_cards), *self.data_cards]

    def is_trained(self, key: str) -> bool:
        """Whether a key of the state dict belongs to a part that is trained, if only by its adapters."""
        return key.split(".")[0] in self.trained

    def is_saved(self, key: str) -> bool:
        """Whether checkpoints hold a key of the state dict."""
        return self.is_trained(key) and key not in self.frozen

    def is_averaged(self, key: str) -> bool:
        """Whether the averages hold a parameter of that name, if it is trained."""
        name = key.split(".")[0]
        return name not in self.parts or self.parts[name].averaged


def groups(batch: Batch) -> list[tuple[Tensor, Mapping[str, Tensor]]]:
    """Pixels of each group of clips of one shape, and what a latent cache has kept of them."""
    kept: Sequence[Mapping[str, Tensor]] = batch.encoded or [{} for _ in batch.groups]
    return list(zip(batch.groups, kept, strict=True))
