"""What samples of held-out prompts show, read from their pixels every so many steps."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, cast

import torch
from lightning import Trainer
from torch import Tensor

from dit.diffusion.loss import Objective
from dit.engine.callbacks.metrics import Metrics
from dit.engine.callbacks.sampled import Sampled
from dit.engine.ema import EMA
from dit.engine.module import VideoDiffusion
from dit.engine.pictures import always_given
from dit.sampling.pipeline import Pipeline
from dit.sampling.request import Request

if TYPE_CHECKING:
    from dit.evaluation.suites.heldout import HeldoutPrompts

log = logging.getLogger(__name__)
GROUP = "world"


class WorldMeasures(Sampled):
    """Logs `world/<measure>`: what `scripts/evaluate.py` measures with suite=world (of rich worlds with suite=objects),
    of fewer samples, with the averaged weights and the sampler of `sampling`. Prompts and seeds are the same each time.

    Where the run's clips have no known truth, or prompts alone cannot be sampled, it says so once and is off: no run
    needs it.

    Args:
        ema, pipeline: as in `Sampled`.
        metrics: takes the measures.
        module: that is trained.
        data: whose clips the run is trained and validated on (`data.module.VideoData`).
        every: optimizer steps between two measurements; None for none.
        num_clips: samples each time, of as many prompts.
        seed: of the first sample's noise; the next ones take the following seeds.
    """

    name = "world"
    what = "world measures"
    off = "callbacks.world.every=null"

    def __init__(
        self,
        ema: EMA,
        metrics: Metrics,
        pipeline: Pipeline,
        module: VideoDiffusion,
        data: Any,
        *,
        every: int | None,
        num_clips: int,
        seed: int,
    ) -> None:
        if every is not None and every < 1:
            raise ValueError(f"callbacks.world.every={every} must be at least 1 step, or null for no world measures")
        if num_clips < 1:
            raise ValueError(f"callbacks.world.num_clips={num_clips} must be at least 1; {self.off} makes none")
        if seed < 0:
            raise ValueError(f"callbacks.world.seed={seed} must be at least 0")
        super().__init__(ema, pipeline, every=every)
        self.metrics = metrics
        self.module = module
        self.data = data
        self.num_clips = num_clips
        self.seed = seed
        self.heldout: HeldoutPrompts | None = None

    def check(self) -> None:
        """Tries all that training does not change. What would keep every measurement of this run from being made is a
        line, and there are none."""
        if self.every is None:
            return
        try:
            self.heldout = self._tried()
        except ValueError as error:
            log.warning("world measures are off: %s (%s says nothing)", error, self.off)
            self.every = None

    @torch.no_grad()
    def _tried(self) -> HeldoutPrompts:
        from dit.evaluation.suites.heldout import prompts_of_clips  # half a second, which other runs do not need

        heldout = prompts_of_clips(self.data.train, self.data.val, self.num_clips, self.seed)
        world, shape = self.data.val, self.pipeline.shape
        shown = (world.num_frames, world.height, world.width)
        if shown != (shape.num_frames, shape.height, shape.width):
            raise ValueError(
                f"samples have {shape.num_frames} frames of {shape.height}x{shape.width}, and the world of validation"
                f" shows {shown[0]} of {shown[1]}x{shown[2]}"
            )
        if always_given(cast(Objective, self.module.objective).conditioning)[0]:
            raise ValueError("every training clip is given its first frame, and prompts alone are none of these tasks")
        # Training has memory for as many.
        self.pipeline = self.pipeline.changed(batch_size=self.data.rows(self.data.shapes_of(self.data.val)[0]))
        self.pipeline.condition(heldout.requests, self.pipeline.check(heldout.requests))
        return heldout

    @property
    def requests(self) -> list[Request]:
        return [] if self.heldout is None else self.heldout.requests

    def look(self, trainer: Trainer, step: int, index: int, pixels: Tensor, weights: str) -> Any:
        """The verdict on a sample."""
        assert self.heldout is not None
        return self.heldout.judge(index, pixels.float().cpu())

    def finish(self, trainer: Trainer, step: int, found: list[Any]) -> bool:
        assert self.heldout is not None
        values = self.heldout.report(found).metrics()
        right = sum(each.all for each in found)
        log.info("step %d: %d of %d samples show all that their prompt says", step, right, len(found))
        self.metrics.write(step, {f"{GROUP}/{name}": value for name, value in values.items()})
        self.metrics.flush()  # the checkpoint of this step is saved already
        return not self.metrics.writers.unwritten()
