"""Given latents: what is known stays as it is while the rest is sampled around it.

One mask covers image-to-video (first frame), first-and-last, interpolation, extension (a prefix) and inpainting (parts
of frames). Solvers know nothing of it: all their evaluations go through `hold`, and `Given.put_back` ends the sampling.
Models that are only shown given frames, beside the clip (`dit.diffusion.given.Beside`), need neither.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dit.diffusion.given import HELD, Held, Shown, as_if_at
from dit.diffusion.path import Path
from dit.diffusion.prediction import Estimate, Prediction
from dit.sampling.guidance import DenoiseFrames
from dit.sampling.solvers import Denoise, Noise, moved


@dataclass(frozen=True)
class Given:
    """Clean latents and which of them are known.

    Attributes:
        latents: (B, C, F, H, W), B = 1 for the same ones in every sample; unknown entries are not read, unless `whole`.
        mask: bool (B, 1, F, H, W), True where known; whole frames may be passed as (B, F).
        frames_of: bool (B, s, F, 1, 1), which of the s pixel frames that a latent frame stands for are known; None: all
            of those of a known one.
        whole: whether the network is shown latents of unknown frames, too.
    """

    latents: Tensor
    mask: Tensor
    frames_of: Tensor | None = None
    whole: bool = False

    def __post_init__(self) -> None:
        batch, _, *grid = self.latents.shape
        frames, full = (batch, grid[0]), (batch, 1, *grid)
        if self.mask.dtype != torch.bool or self.mask.shape not in (frames, full):
            raise ValueError(
                f"given mask is {self.mask.dtype} {tuple(self.mask.shape)}; latents {tuple(self.latents.shape)}"
                f" take bool {frames} or {full}"
            )
        if self.mask.ndim == 2:
            object.__setattr__(self, "mask", self.mask[:, None, :, None, None].expand(full))

    @property
    def frames(self) -> Tensor:
        """bool (B, F): True where a whole frame is known."""
        return self.mask.flatten(3).all(-1)[:, 0]

    def rows(self, rows: slice, like: Tensor) -> Given:
        """The samples `rows` on the device and in the dtype of `like`; what is the same for all stands for each."""
        latents, mask = (rows_of(part, rows) for part in (self.latents, self.mask))
        frames_of = None if self.frames_of is None else rows_of(self.frames_of, rows).to(like.device)
        return Given(latents.to(like), mask.to(like.device), frames_of, self.whole)

    def shown(self, batch: int) -> Shown:
        """What the network is shown of it, for `batch` samples."""
        known = self.mask if self.frames_of is None else self.frames_of
        return Shown(self.latents.expand(batch, *self.latents.shape[1:]), known, self.whole)

    def put_back(self, x: Tensor) -> Tensor:
        """x with the known latents in it, bit for bit."""
        return torch.where(self.mask, self.latents, x)


def hold(
    denoise: DenoiseFrames,
    given: Given | None,
    noise: Tensor,
    path: Path,
    context_level: float = 0.0,
    begin: Tensor | None = None,
    how: Held = HELD,
    prediction: Prediction | None = None,
    draw: Noise | None = None,
) -> Denoise:
    """`denoise(x, t)` for a solver, t one 0-dim level or (1, F), from one that takes a level for each frame.

    - Frames that are known as a whole enter clean at level 0, so the network gets t (B, F).
    - Of a frame that is known in part, the known part enters at the frame's level, noised with `noise`, the sample's
      own (B, C, F, H, W).
    - Where no whole frame is known, a 0-dim t becomes (B, 1).
    The estimate of what is known is the truth, so the solver stays finite there and on its path.

    Args:
        context_level: the level at which known frames enter while the sample is noisier than that; a little noise keeps
            long roll-outs from drifting. What comes out is clean all the same.
        begin: (F,), on the CPU, the level at which each frame begins (`keyframes.Scene`): the network is told that a
            frame is at the highest level of all, but no higher than that.
        how: known frames are shown, where not as said above. prediction: how the network is fed, for frames whose level
            it is not told. draw: fresh unit noise, where known frames get some at each step.
    """
    level_of = (lambda level: level) if begin is None else _no_higher_than(begin, noise)
    if given is None:
        return lambda x, t: denoise(x, level_of(_on(x, t)).expand(len(x), t.shape[1] if t.ndim else 1))
    mask, frames, latents = given.mask, given.frames, given.latents
    any_frame = bool(frames.any())
    context = _not_below(context_level, latents.dtype)

    def solve(x: Tensor, t: Tensor) -> Estimate:
        level = _on(x, t)
        anew = draw if how.afresh and (context_level > 0 or how.ratio > 0) else None
        drawn = noise if anew is None else anew()
        # (B, F): known frames at their own level, the others at the solver's
        levels = torch.where(frames, level.clamp(max=context), level_of(level)).expand(len(x), -1)
        known = torch.where(path.expand(levels) > 0, path.mix(latents, drawn, levels), latents)
        if draw is not None and (added := how.on_given(draw, level.amax())) is not None:
            known = known + added
        shown = levels.clamp(min=level.clamp(max=how.clean_level)) if how.clean_level else levels
        if how.ratio and prediction is not None:
            shown = level.expand(len(x), -1) if level.ndim else level.expand(len(x), 1)
            ratio = torch.full_like(level, how.ratio)
            known = (latents + how.ratio * drawn) * as_if_at(path, prediction, path.expand(level), path.expand(ratio))
        x = torch.where(mask, known, x)
        estimate = denoise(x, shown if any_frame or t.ndim else shown[:, :1])
        level = path.expand(level)
        truth = Estimate(latents, noise, path.alpha_dot(level) * latents + path.sigma_dot(level) * noise)
        return Estimate(*(torch.where(mask, true, own) for true, own in zip(truth, estimate, strict=True)))

    return solve


def _no_higher_than(begin: Tensor, x: Tensor) -> Callable[[Tensor], Tensor]:
    """Levels of the solver (1, F) -> what the network is told of frames that begin at levels `begin` (F,)."""
    most = moved(begin.to(x.dtype), x)
    return lambda level: torch.minimum(level.amax(), most)[None]


def _not_below(level: float, dtype: torch.dtype) -> float:
    """The nearest level that x's dtype holds: a network that counts in whole timesteps is told that of 0.02, and not
    the one before."""
    near = torch.tensor(level, dtype=dtype)
    return near.item() if near.item() >= level else torch.nextafter(near, near.new_tensor(1.0)).item()


def _on(x: Tensor, t: Tensor) -> Tensor:
    """The solver's levels, from the CPU, on the device and in the dtype of x, without waiting for all that the device
    still has to do: one is filled in."""
    if t.device.type != "cpu":
        return t.to(x)
    return moved(t.to(x.dtype), x) if t.ndim else x.new_full((), t.item())


def rows_of(tensor: Tensor, rows: slice) -> Tensor:
    return tensor[rows] if len(tensor) > 1 else tensor
