"""One batch of samples while it is made: network, solver, guidance and given frames together, step by step."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from dit.diffusion.denoiser import Denoiser
from dit.diffusion.experts import ByLevel
from dit.diffusion.given import HELD, Held, Showing, nothing, with_given
from dit.diffusion.path import Path
from dit.diffusion.prediction import Prediction
from dit.sampling.canvas import Canvas
from dit.sampling.given import Given, hold
from dit.sampling.job import Round, draw
from dit.sampling.keyframes import Scene, coordinates, waiting
from dit.sampling.plan import Plan
from dit.sampling.rollout import roll_out
from dit.sampling.runtime import dtype_of, evaluating, own_precision
from dit.sampling.settings import Settings
from dit.sampling.solvers import State

DECODED_AT_ONCE = 2**20  # pixels of all frames of small samples, as `codec.batch=auto`; larger ones come one at a time


@dataclass(frozen=True)
class Intermediate:
    """A batch of samples after one solver step.

    Attributes:
        clip: which of the clips that are chained, from 0.
        levels: noise level after the step, float64 0-dim, or (F,) where each frame has its own.
    """

    clip: int
    levels: Tensor
    _state: State = field(repr=False)
    _held: Given | None = field(repr=False)
    _decode: Callable[[Tensor], Tensor] = field(repr=False)
    _cut: tuple[int, int] = (0, 0)  # latent frames and frames of pixels that are left out in front

    @property
    def latents(self) -> Tensor:
        """(B, C, F, H, W) on the network's device: its estimate of the clean clip, from the start of the step; the clip
        itself in frames whose level is 0 now."""
        return self._whole[:, :, self._cut[0] :]

    @property
    def _whole(self) -> Tensor:
        done = (self.levels == 0).to(self._state.x.device)
        done = done if done.ndim == 0 else done[:, None, None]
        latents = torch.where(done, self._state.x, self._state.estimate.x0)
        return latents if self._held is None else self._held.put_back(latents)

    def pixels(self) -> Tensor:
        """The same decoded: (B, 3, num_frames, height, width) float32 in [-1, 1], on the CPU. Decodes at each call."""
        return self._decode(self._whole)[:, :, self._cut[1] :]


@dataclass(frozen=True)
class Maker:
    """What makes samples: the modules of a pipeline on their device, and its settings."""

    net: nn.Module
    codec: nn.Module
    path: Path
    prediction: Prediction
    settings: Settings
    device: torch.device
    given: Showing = HELD

    def steps(self, now: Round) -> Generator[Intermediate, None, tuple[Tensor, Tensor]]:
        """Yields after each solver step; returns (pixels, latents) of the batch, on the CPU."""
        if isinstance(self.net, ByLevel):
            self.net.one_at_a_time = self.settings.offload_experts
        clips = iter(enumerate(now.job.levels))
        pixels, latents = yield from roll_out(
            lambda given: self._denoise(now, given, *next(clips)), self.decode, now.job.canvas, now.plan
        )
        frames, of_pixels = self._cut(now.job.canvas)
        return pixels[:, :, of_pixels:], latents[:, :, frames:]

    def _cut(self, canvas: Canvas) -> tuple[int, int]:
        """How many latent frames, and frames of pixels, are left out in front of what is made."""
        return self.given.cut, self.given.cut * canvas.compression.stride[0]

    def _denoise(
        self, now: Round, given: Given | None, clip: int, levels: Tensor
    ) -> Generator[Intermediate, None, Tensor]:
        """Returns the latents (B, C, F, H, W) of one clip."""
        canvas, keyframes = now.job.canvas, now.plan.keyframes if clip == 0 else ()
        dtype = dtype_of(self.net)

        def fresh(frames: int = canvas.latent_shape[0]) -> Tensor:
            codec: Any = self.codec
            return draw(now.generators, (codec.channels, frames, *canvas.latent_shape[1:])).to(self.device, dtype)

        noise = fresh()  # drawn in any case, so that noise that was passed changes none that comes later
        if now.noise is not None and clip == 0:
            noise = now.noise.to(noise).expand_as(noise)
        given = None if given is None else given.rows(slice(0, len(noise)), noise)
        held = given if self.given.in_place else None
        scene = Scene.of(held, now.plan.weak if clip == 0 else None, keyframes, noise)
        noise = torch.cat([*(fresh(each.latents.shape[2]) for each in keyframes), noise], 2)
        seen = scene.given if scene.front else given
        shown = nothing(noise) if seen is None else self.given.seen(seen.shown(len(noise)))
        cond, uncond = (with_given(each, self.net, shown) for each in now.conds[clip])
        if keyframes:
            places = {"coordinates": coordinates(keyframes, canvas).expand(len(noise), -1, -1).to(self.device)}
            cond, uncond = cond | places, uncond | places
        levels = waiting(levels, scene.begin)
        denoise = hold(
            self.settings.guidance(Denoiser(self.net, self.path, self.prediction), cond, uncond),
            scene.given,
            noise,
            self.path,
            self.settings.context_level,
            scene.begin if bool(scene.waits.any()) else None,
            self.given if isinstance(self.given, Held) else HELD,
            self.prediction,
            lambda: fresh(noise.shape[2]),
        )
        x = self._first(now.plan, given, levels, scene, noise)
        reuse = self._text_reuse()
        with now.timer:
            solver = self.settings.solver.planned(now.job.num_steps)
            states = solver(denoise, x, levels, self.path, lambda: fresh(noise.shape[2]))
            rows = iter(levels[1:])
            while (state := self._step(states, reuse)) is not None:
                x = state.x
                now.timer.step()
                row, state = scene.of_clip(next(rows), state)
                yield Intermediate(clip, row, state, held, self.decode, (0, 0) if clip else self._cut(canvas))
        x = x[:, :, scene.front :] * self.settings.schedule.end_scale(self.path, levels[-1].max().item())
        return x if held is None else held.put_back(x)

    def _first(self, plan: Plan, given: Given | None, levels: Tensor, scene: Scene, noise: Tensor) -> Tensor:
        """Where sampling starts: noise, a noisy video, or noise with something of the frames that are known."""
        if plan.start is not None:
            first = levels[0] if levels.ndim == 1 else levels[:1]
            return self.path.mix(plan.start.to(noise), noise, first.to(noise))
        x = self.settings.schedule.start_std(self.path, levels[0].max().item()) * noise
        if given is not None and (share := self.given.in_start):
            x = (1 - share) * x + share * given.latents[:, :, :1]
        return scene.start(noise, x)

    def _step(self, states: Iterator[State], reuse: AbstractContextManager[None]) -> State | None:
        """The state after the next step, None after the last. Precision and reuse end with the step: between two steps
        others may use the network."""
        precision = self.settings.precision or own_precision(self.net)
        with torch.autocast(self.device.type, precision, enabled=precision is not None), reuse:
            return next(states, None)

    def _text_reuse(self) -> AbstractContextManager[None]:
        """One for a clip. It may be entered again and again."""
        if self.settings.reuse_text and hasattr(self.net, "text_reuse"):
            net: Any = self.net
            return net.text_reuse()
        return nullcontext()

    def decode(self, latents: Tensor) -> Tensor:
        """Pixels on the CPU, of a few samples at a time."""
        codec: Any = self.codec
        at_once = max(1, DECODED_AT_ONCE // max(1, math.prod(codec.compression.pixel_shape(*latents.shape[2:]))))
        with evaluating(codec), torch.no_grad():
            clips = [codec.decode(some.to(self.device)).float().clamp(-1, 1).cpu() for some in latents.split(at_once)]
        return torch.cat(clips)
