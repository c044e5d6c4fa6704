"""Averages of the weights, kept beside the model: a callback of our own.

Lightning's `EMAWeightAveraging` keeps the average as the checkpoint's weights, in the model's dtype (bfloat16 weights
stand still at decay 0.9999), over frozen parts too, without shards, and an exception in validation leaves it in there.
This one keeps fp32 averages of the trainable parameters of what the recipe averages, any number of profiles at once,
each rank its own shard.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn

from dit.checkpoint import entries, files
from dit.checkpoint.averages import SNAPSHOTS
from dit.engine import finite, shards
from dit.engine.callbacks.checkpoint import write_whole
from dit.engine.callbacks.place import Place
from dit.engine.module import VideoDiffusion
from dit.engine.profiles import PowerProfile, Profile


class EMA(Callback):
    """Tracks every profile after each optimizer step and lends one to validation and previews.

    Args:
        profiles: name -> profile. Checkpoints hold the averages under these names.
        use: the profile that validation and previews see.
        snapshot_every: steps between snapshots of the power profiles in `<run>/ema/`, from which other widths can be
            rebuilt afterwards (`weights=ema@0.07`, `dit/checkpoint/averages.py`); None keeps none.
    """

    place = Place.UPDATE

    def __init__(self, profiles: dict[str, Profile], use: str, snapshot_every: int | None) -> None:
        if use not in profiles:
            raise ValueError(f"ema.use={use} is not one of ema.profiles: {', '.join(profiles)}")
        if snapshot_every is not None and (not isinstance(snapshot_every, int) or snapshot_every < 1):
            raise ValueError(
                f"ema.snapshot_every={snapshot_every} must be a whole number of steps, at least 1, or null for none"
            )
        self.profiles = profiles
        self.use = use
        self.snapshot_every = snapshot_every
        self.updates = 0
        self.averages: dict[str, dict[str, Tensor]] = {}  # this rank's shards
        self._loaded: dict[str, dict[str, Tensor]] = {}  # whole tensors, until the model is on its devices
        self._lent: dict[str, Tensor] | None = None  # raw weights while an average is in the model

    # -- keeping the averages

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        weights = trainable(pl_module)
        for name in self.profiles:
            if name in self._loaded:
                loaded = self._loaded[name]
                self.averages[name] = {key: shards.part_of(loaded[key], p) for key, p in weights.items()}
            else:
                self.averages[name] = {key: shards.local(p).float().clone() for key, p in weights.items()}
        self._loaded = {}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step > self.updates:  # not after each micro-batch of an accumulated step
            self.update(pl_module)
            if self.snapshot_every and self.updates % self.snapshot_every == 0:
                self._save_snapshot(trainer, pl_module)

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Takes the weights as they stand into every average."""
        self.updates += 1
        weights = [shards.local(p).float() for p in trainable(module).values()]
        for name, profile in self.profiles.items():
            averages = list(self.averages[name].values())
            torch._foreach_lerp_(averages, weights, 1 - profile.decay(self.updates))

    # -- lending one to the model

    @contextmanager
    def swapped(self, module: nn.Module) -> Iterator[str]:
        """Inside the block the model has averaged weights, afterwards its raw ones again, also after an exception.

        Yields which weights they are: `ema:<profile>`, or `raw` before the first update.
        """
        if self.updates == 0 or not self.averages:
            yield "raw"
            return
        self._lend(module)
        try:
            yield f"ema:{self.use}"
        finally:
            self._take_back(module)

    @torch.no_grad()
    def _lend(self, module: nn.Module) -> None:
        if self._lent is not None:
            raise RuntimeError("the averaged weights are in the model already")
        weights = trainable(module)
        self._lent = {key: shards.local(p).clone() for key, p in weights.items()}
        for key, parameter in weights.items():
            shards.local(parameter).copy_(self.averages[self.use][key])

    @torch.no_grad()
    def _take_back(self, module: nn.Module) -> None:
        assert self._lent is not None
        for key, parameter in trainable(module).items():
            shards.local(parameter).copy_(self._lent[key])
        self._lent = None

    # -- files

    def whole(self, module: nn.Module) -> dict[str, dict[str, Tensor]]:
        """Every profile's average as full fp32 tensors on the CPU. All ranks must call it."""
        weights = trainable(module)
        return {
            name: {key: shards.whole(average[key], p) for key, p in weights.items()}
            for name, average in self.averages.items()
        }

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if self._lent is not None:
            raise RuntimeError("a checkpoint must not be saved while the averaged weights are in the model")
        averages = (average for profile in self.averages.values() for average in profile.values())
        finite.check({"the averaged weights": averages}, self.updates, pl_module.device)
        entries.AVERAGES.put(checkpoint, self.whole(pl_module))

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._loaded = entries.AVERAGES.of(checkpoint)

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.updates = state_dict["updates"]

    def _save_snapshot(self, trainer: Trainer, module: nn.Module) -> None:
        whole = self.whole(module)
        if not trainer.is_global_zero:
            return
        folder = Path(trainer.default_root_dir) / SNAPSHOTS
        for name, profile in self.profiles.items():
            if isinstance(profile, PowerProfile):
                saved = {"step": self.updates, "sigma_rel": profile.sigma_rel, "weights": whole[name]}
                write_whole(saved, folder / f"{files.STEP}{self.updates:08d}-{name}.ckpt")


def trainable(module: nn.Module) -> dict[str, nn.Parameter]:
    """Trainable parameters that are averaged, under their canonical names; shards where the module is sharded."""
    shards.reshard(module)
    averages = module.is_averaged if isinstance(module, VideoDiffusion) else lambda name: True
    return {name: each for name, each in module.named_parameters() if each.requires_grad and averages(name)}
