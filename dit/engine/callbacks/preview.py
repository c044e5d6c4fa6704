"""Samples while training runs: the averaged weights through the same pipeline as `sample.py`."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer

from dit.engine import rng
from dit.engine.ema import EMA
from dit.engine.writers import Writers
from dit.media.samples import file_name
from dit.media.video import viewing_scale, write_video
from dit.sampling.pipeline import Pipeline

log = logging.getLogger(__name__)


class Preview(Callback):
    """Writes `samples/step-00000200/*.mp4` and hands the files to the writers.

    Prompts are dealt out over the ranks. Each rank denoises equally many, the last ones again where they do not divide:
    a sharded network talks to the other ranks in every forward pass, and an idle rank would keep them waiting.

    Args:
        ema: lends the averaged weights.
        writers: take the videos; open on rank 0 only.
        pipeline: over the modules that are being trained.
        every: optimizer steps between previews.
        prompts: what is sampled each time.
        seed: of the first prompt's noise; the next ones take the following seeds.
    """

    def __init__(
        self, ema: EMA, writers: Writers, pipeline: Pipeline, *, every: int, prompts: list[str], seed: int
    ) -> None:
        if every < 1:
            raise ValueError(f"preview.every={every} must be at least 1 step; preview=none makes no previews")
        if not prompts:
            raise ValueError("preview.prompts is empty; give at least one, or preview=none")
        self.ema = ema
        self.writers = writers
        self.pipeline = pipeline
        self.every = every
        self.prompts = prompts
        self.seed = seed
        self._last_step = -1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._last_step = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if step != self._last_step and (step % self.every == 0 or step == trainer.max_steps):
            self.run(trainer, pl_module, step)
        self._last_step = step

    def run(self, trainer: Trainer, module: LightningModule, step: int) -> None:
        """Samples this rank's prompts, writes them, and logs everyone's on rank 0."""
        mine = share(len(self.prompts), trainer.global_rank, trainer.world_size)
        with rng.untouched(), self.ema.swapped(module) as which:
            prompts, seeds = [self.prompts[i] for i in mine], [self.seed + i for i in mine]
            samples = self.pipeline(prompts, seeds)
        folder = Path(trainer.default_root_dir) / "samples" / f"step-{step:08d}"
        for index, pixels in zip(dict.fromkeys(mine), samples.pixels, strict=False):
            about = {"prompt": self.prompts[index], "seed": self.seed + index, "step": step, "weights": which}
            self._write(folder / self._name(index), pixels, about)
        trainer.strategy.barrier("previews")
        for index, prompt in enumerate(self.prompts):
            self.writers.video(step, f"samples/{index}", folder / self._name(index), prompt)

    def _name(self, index: int) -> str:
        return f"{file_name(self.prompts[index], self.seed + index)}.mp4"

    def _write(self, file: Path, pixels: Any, about: dict[str, Any]) -> None:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            metadata = {key: str(value) for key, value in about.items()}
            write_video(file, pixels, self.pipeline.fps, metadata, viewing_scale(*pixels.shape[-2:]))
        except (OSError, ValueError) as error:  # a full disk, or samples of a network that has diverged
            log.warning("no preview %s: %s", file, error)


def share(count: int, rank: int, world_size: int) -> list[int]:
    """Which of `count` prompts a rank samples: all over all ranks, equally many on each (the last ones twice)."""
    each = math.ceil(count / world_size)
    return [min(rank + world_size * i, count - 1) for i in range(each)]
