"""Samples while training runs, to be looked at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from lightning import Trainer
from torch import Tensor

from dit.engine.callbacks.sampled import Sampled
from dit.engine.ema import EMA
from dit.engine.pictures import Pictures
from dit.engine.writers import Writers
from dit.media.samples import file_name
from dit.media.video import viewing_scale, write_video
from dit.sampling.pipeline import Pipeline
from dit.sampling.request import Request
from dit.sampling.tasks import Task as SampledTask

FOLDER = "samples"


class Preview(Sampled):
    """Writes `samples/step-00000200/*.mp4` and hands the files to the writers.

    Args:
        ema, pipeline: as in `Sampled`.
        writers: take the videos; open on rank 0 only.
        pictures: what the samples of the prompts begin with, where the network is always given it; None: nothing.
        every: optimizer steps between previews; None makes none.
        prompts: what is sampled each time; None in a config is filled in with captions before (`run.callbacks`).
        seed: of the first prompt's noise; the next ones take the following seeds.
    """

    name = "preview"
    what = "preview"
    off = "preview=none"

    def __init__(
        self,
        ema: EMA,
        writers: Writers,
        pipeline: Pipeline,
        pictures: Pictures | None,
        *,
        every: int | None,
        prompts: list[str] | None,
        seed: int,
    ) -> None:
        if every is not None and every < 1:
            raise ValueError(f"preview.every={every} must be at least 1 step, or null for no previews")
        if not prompts:
            raise ValueError("preview.prompts is empty; give at least one, or preview=none")
        super().__init__(ema, pipeline, every=every)
        self.writers = writers
        self.pictures = pictures
        self.prompts = prompts
        self.seed = seed

    @torch.no_grad()
    def check(self) -> None:
        """Tries all that training does not change: the shape, the noise levels, and the prompts in the text encoder.

        Raises:
            ValueError: what would keep every preview of this run from being made.
        """
        pipeline = self.pipeline
        try:
            canvas = pipeline.check(self.requests)
            pipeline.condition(self.requests, canvas if self.pictures is None else self.pictures.on(canvas))
        except ValueError as error:
            raise ValueError(f"no preview could be made: {error} (preview=none trains without)") from None

    @property
    def requests(self) -> list[Request]:
        return [Request(prompt, "", self.seed + index) for index, prompt in enumerate(self.prompts)]

    def given(self, which: Sequence[int]) -> SampledTask | None:
        return None if self.pictures is None else self.pictures.task(which)

    def begin(self, trainer: Trainer, step: int) -> None:
        for unfinished in self._folder(trainer, step).glob(".*.part"):
            unfinished.unlink(missing_ok=True)  # of a run that was killed while it wrote

    def look(self, trainer: Trainer, step: int, index: int, pixels: Tensor, weights: str) -> None:
        """Writes a sample."""
        about = {"prompt": self.prompts[index], "seed": self.seed + index, "step": step, "weights": weights}
        metadata = {key: str(value) for key, value in about.items()}
        file, scale = self._file(trainer, step, index), viewing_scale(*pixels.shape[-2:])
        write_video(file, pixels, self.pipeline.shape.fps, metadata, scale)

    def finish(self, trainer: Trainer, step: int, found: list[None]) -> bool:
        for index, prompt in enumerate(self.prompts):
            self.writers.video(step, f"samples/{index}", self._file(trainer, step, index), prompt)
        return True

    def _file(self, trainer: Trainer, step: int, index: int) -> Path:
        return self._folder(trainer, step) / f"{file_name(self.prompts[index], self.seed + index)}.mp4"

    def _folder(self, trainer: Trainer, step: int) -> Path:
        return Path(trainer.default_root_dir) / FOLDER / f"step-{step:08d}"
