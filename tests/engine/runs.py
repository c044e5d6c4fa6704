"""Run directories for tests: configs as the command line composes them, and checkpoints that nobody has trained."""

from __future__ import annotations

import copy
import functools
from pathlib import Path
from typing import Any

import hydra
import torch
from omegaconf import OmegaConf

from dit.engine import resume, rundir
from dit.engine.callbacks import checkpoint

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def config(*overrides: str) -> dict[str, Any]:
    return composed("name=mine", "net=demo", "data=demo", *overrides)


def composed(*overrides: str) -> dict[str, Any]:
    """What the command line makes of overrides; the caller's own to change."""
    return copy.deepcopy(_composed(overrides))


@functools.cache
def _composed(overrides: tuple[str, ...]) -> Any:
    """Hydra takes a third of a second, and tests ask for the same again and again."""
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return OmegaConf.to_container(hydra.compose("train", list(overrides)), resolve=True)


# A causal autoencoder beside a discriminator, which begins in the second step.
AUTOENCODER = (
    "experiment=vae_world", "name=vae", "net.widths=[8,8]", "net.latent_channels=2", "data.num_frames=3", "data.fps=3",
    "data.height=16", "data.width=16", "data.batch_size=2", "data.val.num_clips=3", "data.val_batch_size=2",
    "callbacks.validation.every=2", "callbacks.validation.sheet_clips=2", "callbacks.checkpoints.every=2",
    "callbacks.metrics.every=1", "lr_schedule=constant", "trainer.accelerator=cpu",
    "recipe/perceptual=laplacian", "recipe/adversary=patch", "recipe.adversary.first_step=1",
    "recipe.adversary.discriminator.widths=[4,4]",
)  # fmt: skip


def autoencoder(*overrides: str) -> dict[str, Any]:
    """A short run of an autoencoder."""
    return composed(*AUTOENCODER, *overrides)


# A few steps without noise of their own (with `small.fixed_noise`), so that they are the same on any number of ranks. A
# large eps keeps AdamW from making much of what rounding leaves of a gradient.
STEADY = (
    "net.depth=1", "net.width=32", "net.heads=2", "net.text_width=16", "text.width=16", "text.depth=1", "text.heads=2",
    "data.batch_size=4", "data.train.num_clips=7", "data.val.num_clips=2", "logger=none", "preview=none",
    "trainer.max_steps=6", "callbacks.checkpoints.every=3", "callbacks.checkpoints.keep=null",
    "callbacks.validation.every=null", "callbacks.metrics.every=1", "caption_dropout=0", "levels.std=1e-6",
    "lr_schedule=constant", "lr_schedule.warmup_steps=1", "optim.lr=0.05", "optim.eps=0.01",
)  # fmt: skip


class AnyClips:
    """Data that goes on with whatever it is given."""

    accepts_other_clips = False

    def check(self, state_dict: dict[str, Any]) -> None:
        pass


def found(run: Path, config: dict[str, Any], ranks: int = 1, data: Any = None) -> resume.Start:
    schedule = hydra.utils.instantiate(config["lr_schedule"])
    return resume.find_start(run, config, ranks, schedule, data or AnyClips())


def leave_checkpoint(run: Path, config: dict[str, Any], step: int = 60, **content: Any) -> Path:
    """A run of `config` whose last checkpoint is of `step`; returns the numbered file."""
    (run / "checkpoints").mkdir(parents=True, exist_ok=True)
    rundir.write_config(run, config)
    file = run / f"checkpoints/step-{step:08d}.ckpt"
    torch.save({"global_step": step, "config": config, "rng": [0], **content}, file)
    checkpoint.point(run / "checkpoints/last.ckpt", file)
    return file


def changed(base: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    """`base` with one dotted key set to another value."""
    result = copy.deepcopy(base)
    *parents, last = key.split(".")
    node = result
    for parent in parents:
        node = node[parent]
    assert last in node
    node[last] = value
    return result
