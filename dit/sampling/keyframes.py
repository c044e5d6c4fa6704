"""Frames that are known at any time of a clip, as firmly as is asked: LTX-Video's conditions (arXiv 2501.00103).

A frame of strength 1 is given (`given.py`). A weaker one begins as a mixture with noise, at level `1 - strength`, stays
so until sampling has come down to that level, and is made like all others from there on. Meanwhile the network is told
that it is no noisier.

Frames that are known at another time than the first need not take the place of frames of the clip: networks that are
told the time and place of each token (`cond["coordinates"]`) see them in front of the clip, and they are left out of
the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dit.diffusion.prediction import Estimate
from dit.sampling.canvas import Canvas
from dit.sampling.given import Given
from dit.sampling.solvers import State

SLACK = 1e-6  # of levels, which are numbers of float32


@dataclass(frozen=True)
class Weak:
    """Frames of the clip that are known, but not firmly.

    Attributes:
        latents: clean (B, C, F, H, W), B = 1 for the same ones in every sample; read where strength is above 0.
        strength: (F,), below 1; 0 where nothing is known.
    """

    latents: Tensor
    strength: Tensor


@dataclass(frozen=True)
class Keyframe:
    """Latent frames in front of the clip.

    Attributes:
        latents: clean (B, C, n, H, W), B = 1 for the same ones in every sample.
        frame: the pixel frame of the clip with which they begin.
        strength: in (0, 1].
    """

    latents: Tensor
    frame: int
    strength: float


@dataclass(frozen=True)
class Scene:
    """A clip with its keyframes in front, as the sampler works on it: n + F latent frames.

    Attributes:
        front: n.
        given: what is known firmly, of all n + F.
        clean: latents (B, C, n + F, H, W) of what is known at all; None: nothing but what is given.
        begin: (n + F,), the level at which each frame begins: 1, below it where it is weakly known, and 0 where it is
            given.
    """

    front: int
    given: Given | None
    clean: Tensor | None
    begin: Tensor

    @classmethod
    def of(cls, given: Given | None, weak: Weak | None, keyframes: Sequence[Keyframe], like: Tensor) -> Scene:
        """like: the clip's noise (B, C, F, H, W)."""
        batch, _, frames, *grid = like.shape
        held = torch.zeros(batch, 1, frames, *grid, dtype=torch.bool, device=like.device)
        clean, begin = torch.zeros_like(like), torch.ones(frames, dtype=torch.float64)
        if weak is not None:
            clean, begin = weak.latents.to(like).expand_as(like), 1 - weak.strength.double()
        if given is not None:
            held = given.mask.expand_as(held)
            clean = torch.where(held, given.latents, clean)
            begin = torch.where(given.frames.all(0).cpu(), 0.0, begin)
        for each in reversed(keyframes):
            known, firm = each.latents.to(like).expand(batch, -1, -1, -1, -1), each.strength == 1
            clean = torch.cat([known, clean], 2)
            held = torch.cat([held.new_full((batch, 1, known.shape[2], *grid), firm), held], 2)
            begin = torch.cat([begin.new_full((known.shape[2],), 1 - each.strength), begin])
        front = clean.shape[2] - frames
        whole = Given(clean, held) if given is not None or bool(held.any()) else None
        return cls(front, whole, clean if weak is not None or keyframes else None, begin)

    @property
    def waits(self) -> Tensor:
        """bool (n + F,): which frames begin below level 1 and are made all the same."""
        return (self.begin > 0) & (self.begin < 1)

    def start(self, noise: Tensor, x: Tensor) -> Tensor:
        """The first x of all frames, of the first x without weakly known ones."""
        if self.clean is None or not bool(self.waits.any()):
            return x
        level = self.begin.to(x)[:, None, None]
        return torch.where(self.waits.to(x.device)[:, None, None], level * noise + (1 - level) * self.clean, x)

    def of_clip(self, levels: Tensor, state: State) -> tuple[Tensor, State]:
        """A row of levels and a state without the keyframes."""
        if not self.front:
            return levels, state
        x, estimate = state
        kept = Estimate(*(part[:, :, self.front :] for part in estimate))
        return levels[self.front :] if levels.ndim else levels, State(x[:, :, self.front :], kept)


def waiting(levels: Tensor, begin: Tensor) -> Tensor:
    """Levels of the steps (S + 1,) -> (S + 1, n + F), by which weakly known frames stand still until they are reached:
    at the first level of the steps that is not above the one at which they begin (`Scene.begin`).

    levels: with weakly known frames, one for all others.
    """
    waits = (begin > 0) & (begin < 1)
    if not bool(waits.any()):
        return levels
    first = [float(levels[levels <= level + SLACK].max()) for level in begin[waits].tolist()]
    most = torch.ones_like(begin)
    most[waits] = most.new_tensor(first)
    return torch.minimum(levels[:, None], most)


def coordinates(keyframes: Sequence[Keyframe], canvas: Canvas) -> Tensor:
    """Seconds, rows and columns of pixels of each latent, (1, 3, N) float64: of the keyframes, then of the clip."""
    frames, height, width = canvas.latent_shape
    times = [canvas.compression.first_frames(torch.arange(each.latents.shape[2])) + each.frame for each in keyframes]
    times.append(canvas.compression.first_frames(torch.arange(frames)))
    _, down, across = canvas.compression.stride
    seconds, rows, columns = torch.cat(times).double() / canvas.fps, torch.arange(height), torch.arange(width)
    axes = seconds, down * rows.double(), across * columns.double()
    return torch.stack(torch.meshgrid(*axes, indexing="ij")).flatten(1)[None]
