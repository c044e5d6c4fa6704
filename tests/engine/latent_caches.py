"""Runs on latent caches, and how they are compared with runs on clips."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hydra
from omegaconf import OmegaConf

from dit.interop.presets import CONFIGS
from scripts import cache_latents
from tests.engine import small

SMALL = (
    "experiment=real_clips", "net.depth=1", "net.width=24", "net.heads=2", "net.patch=[1,1,1]", "text.width=16",
    "net.text_width=16", "text.depth=0", "text.ngrams=[]", "data.num_frames=5", "data.height=8", "data.width=8",
    "data/shapes=one", "data.epoch_clips=null", "data.fps=5", "data.batch_size=2", "data.num_workers=0",
    "data.max_bad_share=0.5", "data.labels=folder",
    "net/label=classes", "net.vectors.label.num_classes=2", "caption_dropout=0.4", "preview=none",
    "trainer.max_steps=4", "trainer.accelerator=cpu", "lr_schedule=constant", "callbacks.validation.every=2",
    "callbacks.checkpoints.every=2", "callbacks.metrics.every=1", "callbacks.progress.seconds=1000",
)  # fmt: skip
LATENTS = ("net.in_channels=4", "net.out_channels=4")
T5 = ("text=t5", "text.parts.tokens.length=24", "net/text=cross", "net/pooled=none", "~text.width", "~text.depth")


def config(*overrides: str) -> dict[str, Any]:
    """As the command line has it; `~key` takes away one of the overrides before it."""
    without = [each[1:] for each in overrides if each.startswith("~")]
    kept = [each for each in (*SMALL, *overrides) if each.split("=")[0].lstrip("~") not in without]
    if "text=t5" in kept:
        kept.remove("text.ngrams=[]")
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        plain: Any = OmegaConf.to_container(hydra.compose("train", kept), resolve=True)
    return plain


def make(out: str, wanted: dict[str, Any], **changes: Any) -> Path:
    cache_latents.make(cache_latents.Asked(out=out, **changes), wanted)
    return Path(out)


def told(parts: Path, name: str) -> tuple[str, ...]:
    """Overrides for a codec, and a text encoder."""
    if name == "wan, drawn, with t5":
        return (*LATENTS, *T5, "codec=pretrained", f"codec.folder={parts / 'vae'}", "codec.batch=1",
                "codec.posterior=sample", f"text.folder={parts}")  # fmt: skip
    if name == "ours, drawn":
        return ("net.in_channels=3", "net.out_channels=3", "codec=vae", f"codec.ckpt={parts / 'ours'}", "codec.batch=1",
                "codec.posterior=sample")  # fmt: skip
    return ("codec.scale=2",)


def different(before: str, after: str) -> list[str]:
    """Where two runs differ: weights, averages, moments, random states, place in the data, and metrics."""
    first, second = small.load(Path("runs") / before), small.load(Path("runs") / after)
    found = [where for key in small.EXACT for where in small.same(first[key], second[key], key)]
    return found + small.same(small.table(Path("runs") / before), small.table(Path("runs") / after), "metrics")
