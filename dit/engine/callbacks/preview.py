"""Samples while training runs: the averaged weights through the same pipeline as `sample.py`."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch
from lightning import Trainer

from dit.engine import parallel, ranks, rng
from dit.engine.callbacks.after_step import Ask, EndsRun, Failed, Stopped, Task
from dit.engine.ema import EMA
from dit.engine.module import VideoDiffusion
from dit.engine.pictures import Pictures
from dit.engine.writers import Writers
from dit.media.samples import file_name
from dit.media.video import viewing_scale, write_video
from dit.sampling.pipeline import Pipeline
from dit.sampling.request import Request
from dit.sampling.tasks import Task as SampledTask

log = logging.getLogger(__name__)
FOLDER = "samples"


class Preview(Task):
    """Writes `samples/step-00000200/*.mp4` and hands the files to the writers.

    Prompts are shared out over the ranks. Each rank denoises equally many, the last ones again where they do not
    divide: the ranks of a sharded network (FSDP2) exchange weights in every forward pass, and an idle one would keep
    the others waiting.

    A failure is a warning: training needs no previews. Not where it happens inside a sharded network, whose other ranks
    wait for this one and cannot be told: it ends the run (`EndsRun`), behind a checkpoint.

    Args:
        ema: lends the averaged weights.
        writers: take the videos; open on rank 0 only.
        pipeline: over the modules that are being trained.
        pictures: what the samples of the prompts begin with, where the network is always given it; None: nothing.
        every: optimizer steps between previews; None makes none.
        prompts: what is sampled each time; None in a config is filled in with captions before (`run.callbacks`).
        seed: of the first prompt's noise; the next ones take the following seeds.
    """

    name = "preview"

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
        self.ema = ema
        self.writers = writers
        self.pipeline = pipeline
        self.pictures = pictures
        self.every = every
        self.prompts = prompts
        self.seed = seed
        self._in_network = False  # whether ranks of a sharded network wait for this one in a forward pass

    @torch.no_grad()
    def check(self) -> None:
        """Tries all that training does not change: the shape, the noise levels, and the prompts in the text encoder.

        Raises:
            ValueError: what would keep every preview of this run from being made.
        """
        pipeline = self.pipeline
        try:
            wanted = [Request(prompt, "", self.seed) for prompt in self.prompts]
            canvas = pipeline.check(wanted)
            pipeline.condition(wanted, canvas if self.pictures is None else self.pictures.on(canvas))
        except ValueError as error:
            raise ValueError(f"no preview could be made: {error} (preview=none trains without)") from None

    def may_end_run(self, trainer: Trainer) -> bool:
        return isinstance(trainer.strategy, parallel.FSDP2) and trainer.world_size > 1

    def run(self, trainer: Trainer, module: VideoDiffusion, step: int, ask: Ask) -> bool:
        """Samples this rank's prompts, writes them, and logs everyone's on rank 0."""
        folder = Path(trainer.default_root_dir) / FOLDER / f"step-{step:08d}"
        wrong: str | None = None
        self._in_network = False
        try:
            if trainer.is_global_zero:  # before the first `ask`, so before any rank writes
                for unfinished in folder.glob(".*.part"):
                    unfinished.unlink(missing_ok=True)  # of a run that was killed while it wrote
            self._sample(trainer, module, step, folder, ask)
            ask()
        except Stopped:
            raise
        except Failed:
            pass  # on another rank
        except Exception as error:
            wrong = f"{type(error).__name__}: {error}".strip().splitlines()[0]
            if self._in_network and self.may_end_run(trainer):
                raise EndsRun(
                    f"the preview of step {step} failed in the network on rank {trainer.global_rank} ({wrong}). There"
                    " the ranks of a sharded network (trainer=fsdp2) wait for one another, so the run ends. The step is"
                    " saved: the same command goes on without this preview; preview=none makes no further ones"
                ) from error
            with suppress(Failed):
                ask(failed=True)
        said = [each for each in ranks.gather_objects(wrong) if each is not None]
        if said:
            log.warning("no preview at step %d (%s); training goes on", step, said[0])
            return True
        for index, prompt in enumerate(self.prompts):
            self.writers.video(step, f"samples/{index}", folder / self._name(index), prompt)
        return True

    def _sample(self, trainer: Trainer, module: VideoDiffusion, step: int, folder: Path, ask: Ask) -> None:
        mine = share(len(self.prompts), trainer.global_rank, trainer.world_size)
        with rng.untouched(), self.ema.swapped(module) as which:
            job = self.pipeline.prepare([Request(self.prompts[i], "", self.seed + i) for i in mine], self._task(mine))
            ask()

            def progress(done: int, total: int) -> None:
                self._in_network = done < total
                ask()

            self._in_network = True
            made = list(self.pipeline.make(job, range(len(job.batches)), progress))
        everything = torch.cat([samples.pixels for samples in made])
        for index, pixels in zip(dict.fromkeys(mine), everything, strict=False):
            about = {"prompt": self.prompts[index], "seed": self.seed + index, "step": step, "weights": which}
            metadata = {key: str(value) for key, value in about.items()}
            scale = viewing_scale(*pixels.shape[-2:])
            write_video(folder / self._name(index), pixels, self.pipeline.shape.fps, metadata, scale)

    def _task(self, which: Sequence[int]) -> SampledTask | None:
        """What the samples of these prompts are given."""
        return None if self.pictures is None else self.pictures.task(which)

    def _name(self, index: int) -> str:
        return f"{file_name(self.prompts[index], self.seed + index)}.mp4"


def share(count: int, rank: int, world_size: int) -> list[int]:
    """Which of `count` prompts a rank samples: all over all ranks, equally many on each (the last ones twice)."""
    each = math.ceil(count / world_size)
    return [min(rank + world_size * i, count - 1) for i in range(each)]
