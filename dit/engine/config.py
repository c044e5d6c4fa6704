"""What `configs/train.yaml` holds: every key of the top level and what it may be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypedDict

from lightning import Callback, LightningDataModule
from torch import nn
from torch.optim import Optimizer

from dit.adapters import LoRA
from dit.codec.base import Codec
from dit.codec.vae.network import Autoencoder
from dit.config.limits import Count, Seed, Share
from dit.diffusion.conditioning import Conditioning
from dit.diffusion.given import Showing
from dit.diffusion.levels import Levels
from dit.diffusion.loss import Objective
from dit.diffusion.path import Path
from dit.diffusion.prediction import Prediction
from dit.diffusion.space import Space
from dit.diffusion.weighting import Weighting
from dit.engine.callbacks.after_step import Task
from dit.engine.callbacks.checkpoint import Checkpoints
from dit.engine.ema import EMA
from dit.engine.lr_schedule import LRSchedule
from dit.engine.training import Training
from dit.engine.writers import Writer
from dit.net.backbone import Backbone
from dit.recipes.alignment import Alignment
from dit.recipes.base import Recipe
from dit.sampling.guidance import Guidance
from dit.sampling.schedule import Schedule
from dit.sampling.solvers import Solver
from dit.signals.base import Around, Signal
from dit.text.base import TextEncoder


class Sampling(TypedDict):
    """What previews use, and sample.py unless told otherwise."""

    schedule: Schedule
    solver: Solver
    guidance: Guidance
    num_steps: Count


class Config(TypedDict):
    """The whole config, as plain containers: a type stands for the node that builds one."""

    net: Backbone | Autoencoder
    codec: Codec
    text: TextEncoder | None
    text_cache: str | None
    signals: dict[str, Callable[[Around], Signal] | None] | None
    data: LightningDataModule
    objective: Objective | None
    path: Path | None
    prediction: Prediction | None
    levels: Levels | None
    weighting: Weighting | None
    conditioning: Conditioning | None
    given: Showing | None
    space: Space | None
    recipe: Callable[[Objective | None], Recipe]
    alignment: Callable[[int], Alignment] | None
    lora: LoRA | None
    optim: Callable[[nn.Module], Optimizer]
    lr_schedule: LRSchedule
    ema: EMA
    trainer: Training
    callbacks: dict[str, Callable[..., Callback | Task] | Callback | Checkpoints | None]
    logger: dict[str, Writer]
    preview: Callable[..., Task] | None
    schedule: Schedule | None
    solver: Solver | None
    guidance: Guidance | None
    name: str
    seed: Seed
    caption_dropout: Share
    init_from: str | None
    init_weights: str
    init_strict: bool
    init_expert: Literal["high", "low"] | None
    lora_from: str | None
    resume_from: int | str | None
    resume_changes: list[str]
    resume_lr: Literal["keep", "schedule"] | None
    show: bool
    sampling: Sampling | None
