"""Validation of an autoencoder every so many steps: how well the averaged weights give the validation clips back."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from torch import Tensor
from torch.nn.functional import pad

from dit.engine import rng
from dit.engine.callbacks.after_step import Ask, Task
from dit.engine.callbacks.by_shape import ByShape, with_shapes
from dit.engine.callbacks.metrics import Metrics
from dit.engine.callbacks.preview import FOLDER
from dit.engine.ema import EMA
from dit.engine.module import VideoDiffusion
from dit.media.sheet import contact_sheet
from dit.media.video import viewing_scale
from dit.recipes.autoencoding import divergence

PEAK = 2.0  # of pixels in [-1, 1]
FRAMES, GAP = 8, 2  # of a clip on the sheet, and white rows between the two
LEAST = 1e-10  # mean squared error below which a clip counts as given back exactly


class Reconstruction(Task):
    """Logs `val/psnr` (dB, the mean over the clips), `val/psnr_frame_*`, `val/l1` and `val/kl` of clips whose latents
    are the means that the encoder gives, and writes `samples/step-00000200/reconstructions.png`: each clip above what
    is made of it.

    Args:
        ema: lends the averaged weights.
        metrics: takes the results.
        every: optimizer steps between validations; None for none.
        sheet_clips: on the sheet, the first ones of the first rank; 0 for no sheet.
    """

    name = "validation"

    def __init__(self, ema: EMA, metrics: Metrics, *, every: int | None, sheet_clips: int) -> None:
        if every is not None and every < 1:
            raise ValueError(f"callbacks.validation.every={every} must be at least 1 step, or null for none")
        if sheet_clips < 0:
            raise ValueError(f"callbacks.validation.sheet_clips={sheet_clips} must be at least 0")
        self.ema, self.metrics = ema, metrics
        self.every, self.sheet_clips = every, sheet_clips

    def run(self, trainer: Trainer, module: VideoDiffusion, step: int, ask: Ask) -> bool:
        file = Path(trainer.default_root_dir) / FOLDER / f"step-{step:08d}" / "reconstructions.png"
        self.metrics.write(step, self.measure(trainer, module, step, file, ask))
        self.metrics.flush()
        return not self.metrics.writers.unwritten()

    @torch.no_grad()
    def measure(self, trainer: Trainer, module: VideoDiffusion, step: int, sheet: Path, ask: Ask) -> dict[str, float]:
        """One pass over the validation clips; the same numbers on every rank. Asks before each batch."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        loader = data.val_dataloader()
        shapes = [] if data.val is None else data.shapes_of(data.val)
        frames = max((shape.num_frames for shape in shapes), default=1)
        sums = ByShape(shapes)
        shown: list[tuple[str, Tensor, float]] = []
        was_training = module.training
        module.eval()
        try:
            with (
                rng.untouched(), self.ema.swapped(module) as weights, trainer.precision_plugin.val_step_context(),
                closing(batch for batch in loader) as batches,
            ):  # fmt: skip
                for batch in batches:
                    ask()
                    batch = trainer.strategy.batch_to_device(batch)
                    (pixels,) = batch.groups
                    coded = module.net(pixels)
                    made = coded.pixels.float().clamp(-1, 1)
                    of_clips, of_frames = psnr(made, pixels, (1, 2, 3, 4)), psnr(made, pixels, (1, 3, 4))
                    l1 = (made - pixels).abs().mean(dim=(1, 2, 3, 4))
                    kl = divergence(coded.mean, coded.log_variance)
                    by_frame = torch.stack([torch.ones_like(of_frames), of_frames], dim=1)
                    by_frame = pad(by_frame, (0, frames - of_frames.shape[1])).flatten(1)  # how many, and their sums
                    of_each = torch.stack([torch.ones_like(l1), of_clips, l1, kl], dim=1)
                    sums.add(batch, torch.cat([of_each, by_frame], dim=1).double().unbind(0))
                    for at in range(min(len(batch), self.sheet_clips - len(shown))):
                        between = made.new_ones(*made.shape[1:3], GAP, made.shape[4])
                        both = torch.cat([pixels[at], between, made[at]], dim=2)  # one above the other
                        if shown and both.shape != shown[0][1].shape:
                            break  # the sheet has clips of one shape
                        shown.append((batch.values["caption"][at], both.cpu(), float(of_clips[at])))
            ask(may_stop=False)
        finally:
            module.train(was_training)
        totals = sums.over_ranks()
        if not totals:
            return {}
        if trainer.is_global_zero and shown:
            _draw(sheet, shown, {"step": str(step), "weights": weights})
        whole = _named(torch.stack([*totals.values()]).sum(0), frames)
        named = {shape: _named(total, frames) for shape, total in totals.items() if total[0] > 0}
        return with_shapes(whole, {shape: {"val/psnr": of["val/psnr"]} for shape, of in named.items()})


def _named(total: Tensor, frames: int) -> dict[str, float]:
    """Means by name, of the sums over all clips: how many, psnr, l1, kl, and by frame how many and their psnr."""
    count, of_clips, l1, kl = total[:4].tolist()
    there, of_frames = total[4:].view(2, frames)
    by_frame = {f"val/psnr_frame_{at:02d}": float(of_frames[at] / there[at]) for at in range(frames) if there[at] > 0}
    return {"val/psnr": of_clips / count, "val/l1": l1 / count, "val/kl": kl / count, **by_frame}


def psnr(made: Tensor, clips: Tensor, over: tuple[int, ...]) -> Tensor:
    """Peak signal-to-noise ratio in dB of clips (B, 3, F, height, width) in [-1, 1], of the squared error's mean over
    some of the dimensions. A clip that is given back exactly has 106 dB."""
    error = (made - clips).square().mean(dim=over)
    return 10 * torch.log10(PEAK**2 / error.clamp(min=LEAST))


def _draw(file: Path, shown: list[tuple[str, Tensor, float]], facts: dict[str, str]) -> None:
    captions = [f"{caption}: {value:.1f} dB" for caption, _, value in shown]
    clips = [clip for _, clip, _ in shown]
    scale = viewing_scale(clips[0].shape[2] // 2, clips[0].shape[3])
    title = "Clips, and below each what the autoencoder makes of it"
    contact_sheet(file, clips, captions, 2, FRAMES, scale, facts, title)
