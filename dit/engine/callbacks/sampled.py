"""Tasks that sample while training runs: the averaged weights through the same pipeline as `sample.py`."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import torch
from lightning import Trainer
from torch import Tensor

from dit.engine import parallel, ranks, rng
from dit.engine.callbacks.after_step import Ask, EndsRun, Failed, Stopped, Task
from dit.engine.ema import EMA
from dit.engine.module import VideoDiffusion
from dit.sampling.pipeline import Pipeline
from dit.sampling.request import Request
from dit.sampling.tasks import Task as SampledTask

log = logging.getLogger(__name__)


class Sampled(Task):
    """Samples some prompts and looks at each sample (`look`); what is found of all comes to the first rank (`finish`).

    Prompts are shared out over the ranks. Each rank denoises equally many, the last ones again where they do not
    divide: the ranks of a sharded network (FSDP2) exchange weights in every forward pass, and an idle one would keep
    the others waiting.

    A failure is a warning: training needs no samples. Not where it happens inside a sharded network, whose other ranks
    wait for this one and cannot be told: it ends the run (`EndsRun`), behind a checkpoint.

    Attributes:
        what: is made, in messages.
        off: the override that makes none.

    Args:
        ema: lends the averaged weights.
        pipeline: over the modules that are being trained.
        every: optimizer steps between two times; None makes none.
    """

    what: str
    off: str

    def __init__(self, ema: EMA, pipeline: Pipeline, *, every: int | None) -> None:
        self.ema = ema
        self.pipeline = pipeline
        self.every = every
        self._in_network = False  # whether ranks of a sharded network wait for this one in a forward pass

    @property
    def requests(self) -> list[Request]:
        """What is sampled each time; none where nothing is to be done."""
        raise NotImplementedError

    def given(self, which: Sequence[int]) -> SampledTask | None:
        """What the samples of these requests are given; None: nothing."""
        return None

    def begin(self, trainer: Trainer, step: int) -> None:
        """Called on the first rank before any sample is made."""

    def look(self, trainer: Trainer, step: int, index: int, pixels: Tensor, weights: str) -> Any:
        """What is found of sample `index`, (3, F, H, W) in [-1, 1] on any device; it can be pickled."""
        raise NotImplementedError

    def finish(self, trainer: Trainer, step: int, found: list[Any]) -> bool:
        """Takes what was found of all samples, on every rank. Returns what `run` returns."""
        raise NotImplementedError

    def may_end_run(self, trainer: Trainer) -> bool:
        return isinstance(trainer.strategy, parallel.FSDP2) and trainer.world_size > 1

    def run(self, trainer: Trainer, module: VideoDiffusion, step: int, ask: Ask) -> bool:
        if not self.requests:
            return True
        wrong: str | None = None
        mine: dict[int, Any] = {}
        self._in_network = False
        try:
            if trainer.is_global_zero:  # before the first `ask`, so before any rank looks at a sample
                self.begin(trainer, step)
            mine = self._sample(trainer, module, step, ask)
            ask()
        except Stopped:
            raise
        except Failed:
            pass  # on another rank
        except Exception as error:
            wrong = f"{type(error).__name__}: {error}".strip().splitlines()[0]
            if self._in_network and self.may_end_run(trainer):
                raise EndsRun(
                    f"the {self.what} of step {step} failed in the network on rank {trainer.global_rank} ({wrong})."
                    " There the ranks of a sharded network (trainer=fsdp2) wait for one another, so the run ends. The"
                    " step is saved: the same command goes on behind this failure;"
                    f" {self.off} makes no further {self.what}"
                ) from error
            with suppress(Failed):
                ask(failed=True)
        told = ranks.gather_objects((wrong, mine))
        said = [each for each, _ in told if each is not None]
        if said:
            log.warning("no %s at step %d (%s); training goes on", self.what, step, said[0])
            return True
        found = {index: each for _, theirs in told for index, each in theirs.items()}
        return self.finish(trainer, step, [found[index] for index in range(len(self.requests))])

    def _sample(self, trainer: Trainer, module: VideoDiffusion, step: int, ask: Ask) -> dict[int, Any]:
        """What is found of this rank's samples, by their numbers."""
        requests = self.requests
        mine = share(len(requests), trainer.global_rank, trainer.world_size)
        with rng.untouched(), self.ema.swapped(module) as weights:
            job = self.pipeline.prepare([requests[index] for index in mine], self.given(mine))
            ask()

            def progress(done: int, total: int) -> None:
                self._in_network = done < total
                ask()

            self._in_network = True
            made = list(self.pipeline.make(job, range(len(job.batches)), progress))
        found: dict[int, Any] = {}
        with rng.untouched():
            for index, pixels in zip(mine, torch.cat([samples.pixels for samples in made]), strict=True):
                ask()
                if index not in found:
                    found[index] = self.look(trainer, step, index, pixels, weights)
        return found


def share(count: int, rank: int, world_size: int) -> list[int]:
    """Which of `count` prompts a rank samples: all over all ranks, equally many on each (the last ones twice)."""
    each = math.ceil(count / world_size)
    return [min(rank + world_size * i, count - 1) for i in range(each)]
