"""Validation every so many steps, with the averaged weights, all clips shared out over the ranks.

It is one of `AfterStep`'s tasks rather than Lightning's loop: it comes behind the checkpoint of its step and can be
stopped between two batches, the weights are swapped in try/finally, and training's random numbers stay untouched.
"""

from __future__ import annotations

from contextlib import closing, nullcontext
from typing import Any

import torch
from lightning import Trainer
from torch import Tensor
from torch.nn.functional import pad

from dit.diffusion.errors import QUANTITIES, shares
from dit.diffusion.loss import loss_by_level
from dit.engine import parallel, rng
from dit.engine.callbacks.after_step import Ask, Task
from dit.engine.callbacks.by_shape import ByShape, with_shapes
from dit.engine.callbacks.metrics import Metrics
from dit.engine.ema import EMA
from dit.engine.module import VideoDiffusion
from dit.engine.validated import Validated


class Validation(Task):
    """Logs two kinds of numbers, each also by noise level (`_level_*`) and by latent frame (`_frame_*`), and by shape
    (`_shape_*`) where clips have several.

    `val/loss` is the run's own objective, in its own weighting, levels and space: it ranks the steps of one run.
    `val/x0_error`, `val/eps_error` and `val/velocity_error` are the same question to every run on the same clips and
    latents, so they rank runs too (`dit/diffusion/errors.py`).

    `val/x0_error_level_*_frame_*` is the joint table (each also by shape where clips have several). It goes to
    details.csv, not into columns. The other two follow from it: at a share s of noise the error of eps is
    ((1 - s) / s)^2 times that of x0, that of the velocity 1 / s^2 times.

    The same of the raw weights is called `val_raw/...`: its means are columns, all else goes to details.csv.

    Args:
        ema: lends the averaged weights.
        metrics: takes the results.
        every: optimizer steps between validations; None for none.
        level_buckets: equal intervals of the noise level that are told apart in the loss.
        error_levels: noise levels at which errors are taken, evenly spread; 0 for none. A validation costs
            1 + `error_levels` forward passes over the clips.
        raw: whether the raw weights are measured too, which takes as long again.
    """

    name = "validation"

    def __init__(
        self, ema: EMA, metrics: Metrics, *, every: int | None, level_buckets: int, error_levels: int, raw: bool
    ) -> None:
        if every is not None and every < 1:
            raise ValueError(f"callbacks.validation.every={every} must be at least 1 step, or null for no validation")
        self.ema = ema
        self.metrics = metrics
        self.every = every
        if level_buckets < 1:
            raise ValueError(f"callbacks.validation.level_buckets={level_buckets} must be at least 1 interval")
        if error_levels < 0:
            raise ValueError(
                f"callbacks.validation.error_levels={error_levels} must be at least 0, which takes no errors"
            )
        self.level_buckets = level_buckets
        self.noise_shares = shares(error_levels)
        self.raw = raw

    def run(self, trainer: Trainer, module: VideoDiffusion, step: int, ask: Ask) -> bool:
        columns, details = self.measure(trainer, module, ask)
        if self.raw:
            means, more = self.measure(trainer, module, ask, raw=True)
            columns |= {name: value for name, value in means.items() if name in self._means("val_raw")}
            details |= {name: value for name, value in {**means, **more}.items() if name not in columns}
        self.metrics.write(step, columns)
        self.metrics.details(step, details)
        self.metrics.flush()  # the checkpoint of this step is saved already
        return not self.metrics.writers.unwritten()

    @torch.no_grad()
    def measure(
        self, trainer: Trainer, module: VideoDiffusion, ask: Ask, raw: bool = False
    ) -> tuple[dict[str, float], dict[str, float]]:
        """One pass over the validation clips: columns, and the joint table by level and frame (`val_raw/...` of the
        raw weights). The same numbers on every rank. Asks before each batch."""
        # Training has memory for as many. Shards: all ranks call the network equally often, so one clip a time.
        sharded = isinstance(trainer.strategy, parallel.FSDP2)
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        loader = data.val_dataloader()
        shapes = [] if data.val is None else data.shapes_of(data.val)
        frames = max((module.codec.latent_shape(*shape)[0] for shape in shapes), default=1)
        sums = ByShape(shapes)
        was_training = module.training
        module.eval()
        try:
            with (
                rng.untouched(), nullcontext() if raw else self.ema.swapped(module),
                trainer.precision_plugin.val_step_context(), closing(batch for batch in loader) as batches,
            ):  # fmt: skip
                for index, batch in enumerate(batches):
                    ask()
                    batch = trainer.strategy.batch_to_device(batch)
                    rows = 1 if sharded else data.rows(batch.shapes[0])
                    clips = module.validation_step(batch, index, self.noise_shares, rows)
                    sums.add(batch, [self._sums(clip, frames) for clip in clips])
            ask(may_stop=False)  # whether all have their sums; they are added up now, and no work is left to be cut off
        finally:
            module.train(was_training)
        totals = sums.over_ranks()
        if not totals:
            return {}, {}
        group = "val_raw" if raw else "val"
        whole, joint = self._named(group, torch.stack([*totals.values()]).sum(0), frames)
        named = {shape: self._named(group, total, frames) for shape, total in totals.items() if total[0] > 0}
        means = self._means(group)
        columns = {shape: {name: of[name] for name in means if name in of} for shape, (of, _) in named.items()}
        return with_shapes(whole, columns), with_shapes(joint, {shape: of for shape, (_, of) in named.items()})

    @staticmethod
    def _means(group: str) -> tuple[str, ...]:
        """The numbers that are taken over all levels and frames."""
        return (f"{group}/loss", *(f"{group}/{name}_error" for name in QUANTITIES))

    def _sums(self, clip: Validated, frames: int) -> Tensor:
        """Float64 sums over one clip, flat, in the order in which `_named` takes them apart. Of a clip with fewer than
        `frames` latent frames, as an image among videos, the others are 0."""
        out, by_level = clip.loss, loss_by_level(clip.loss, self.level_buckets)
        there, errors = torch.ones_like(out.per_frame), [] if clip.errors is None else [clip.errors]
        of_frames = (there.sum(0), (~out.given).sum(0), out.per_frame.sum(0), *errors)
        parts = (
            torch.tensor([len(out.per_sample)], device=out.loss.device), out.per_sample.sum()[None],
            by_level.frames, by_level.total, *(pad(each, (0, frames - each.shape[-1])) for each in of_frames),
        )  # fmt: skip
        return torch.cat([part.double().flatten() for part in parts])

    def _named(self, group: str, total: Tensor, frames: int) -> tuple[dict[str, float], dict[str, float]]:
        """Means, means by level and means by frame; and the error of x0 by level and frame together."""
        (clips, losses), rest = total[:2].tolist(), total[2:]
        buckets, levels = self.level_buckets, len(self.noise_shares)
        counts, sums, there, frame_counts, frame_sums, wrong = rest.split(
            [buckets, buckets, frames, frames, frames, len(QUANTITIES) * levels * frames]
        )
        named, joint = {f"{group}/loss": losses / clips}, {}
        for i, (count, loss) in enumerate(zip(counts.tolist(), sums.tolist(), strict=True)):
            if count:
                named[f"{group}/loss_level_{i / buckets:.2f}_{(i + 1) / buckets:.2f}"] = loss / count
        for f, (count, loss) in enumerate(zip(frame_counts.tolist(), frame_sums.tolist(), strict=True)):
            if count:
                named[f"{group}/loss_frame_{f:02d}"] = loss / count
        if levels:
            seen = there > 0  # where there are images alone, the first frame
            errors = wrong.view(len(QUANTITIES), levels, frames)[..., seen] / there[seen]
            for name, error in zip(QUANTITIES, errors, strict=True):
                named |= self._named_errors(f"{group}/{name}_error", error)
            joint = {
                f"{group}/{QUANTITIES[0]}_error_level_{share:.4g}_frame_{frame:02d}": each
                for share, of_level in zip(self.noise_shares, errors[0].tolist(), strict=True)
                for frame, each in enumerate(of_level)
            }
        return named, joint

    def _named_errors(self, name: str, error: Tensor) -> dict[str, float]:
        """The mean over levels and frames (L, F), then by level, then by frame."""
        by_level, by_frame = error.mean(1).tolist(), error.mean(0).tolist()
        return {
            name: float(error.mean()),
            **{f"{name}_level_{share:.4g}": each for share, each in zip(self.noise_shares, by_level, strict=True)},
            **{f"{name}_frame_{frame:02d}": each for frame, each in enumerate(by_frame)},
        }
