"""What a task asks of the sampler: what is known of each clip, where sampling starts, how many clips are chained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dit.sampling.canvas import Canvas
from dit.sampling.given import Given, rows_of
from dit.sampling.keyframes import Keyframe, Weak


@dataclass(frozen=True)
class Plan:
    """What a task asks of the sampler.

    Attributes:
        given: what is known of the (first) clip.
        start: latents (B or 1, C, F, H, W) to start from, noised to `strength`; None starts from pure noise.
        strength: noise level at which sampling starts, in (0, 1].
        chunks: clips that are chained, each beginning with the last `num_context` frames of the one before.
        num_context: pixel frames that chained clips share.
        carries_latents: whether their latent frames go over to the next clip as they are; otherwise the pixels are
            encoded anew.
        first, last: pictures that the samples begin and end with, uint8 (3, h, w), one for all or one for each: as they
            were given, before they were fitted into the clip.
        weak, keyframes: frames of the (first) clip that are known otherwise than `given` ones (`keyframes.py`).
    """

    given: Given | None = None
    start: Tensor | None = None
    strength: float = 1.0
    chunks: int = 1
    num_context: int = 0
    carries_latents: bool = False
    first: Sequence[Tensor] | None = None
    last: Sequence[Tensor] | None = None
    weak: Weak | None = None
    keyframes: Sequence[Keyframe] = ()

    @property
    def begins_with_given(self) -> bool:
        """Whether the network is shown given frames in the first clip."""
        given = self.given is not None and bool(self.given.mask.any())
        return given or self.weak is not None or bool(self.keyframes)

    @property
    def uses_given(self) -> bool:
        """Whether the network is shown given frames, in the first clip or in those that are chained to it."""
        return self.begins_with_given or self.chunks > 1

    def shared(self, canvas: Canvas) -> int:
        """Latent frames that chained clips share."""
        return canvas.compression.latent_of(self.num_context - 1) + 1 if self.num_context else 0

    def begins(self, canvas: Canvas) -> range:
        """With which frame of the whole each of the chained clips begins."""
        step = max(1, canvas.num_frames - self.num_context)
        return range(0, self.chunks * step, step)

    def known(self, canvas: Canvas) -> list[Tensor]:
        """Which latent frames stand in all samples from the start, bool (F,) on the CPU, in each of the chained clips:
        those that are given, unless the network is only shown them beside."""
        frames = torch.arange(canvas.latent_shape[0])
        if not canvas.given.in_place:
            return [frames < 0] * self.chunks
        first = frames < 0 if self.given is None else self.given.frames.all(0).cpu()
        return [first] + [frames < self.shared(canvas)] * (self.chunks - 1)

    def check(self, batch: int) -> None:
        """ValueError unless what is known is for `batch` samples or the same for all, and leaves something to make."""
        if self.given is not None and bool(self.given.mask.all()):
            frames = self.given.latents.shape[2]
            raise ValueError(
                f"this task gives all {frames} latent frames and leaves nothing to make; use more num_frames"
            )
        known = [each.latents for each in (self.given, self.weak, *self.keyframes) if each is not None]
        for latents in (*known, self.start):
            if latents is not None and len(latents) not in (1, batch):
                raise ValueError(
                    f"the task gives frames for {len(latents)} samples, but {batch} are made; give 1 or {batch}"
                )

    def check_levels(self, levels: Tensor) -> None:
        """ValueError for steps (S + 1, F) in which each frame has a level of its own, where one for all is needed."""
        if levels.ndim > 1 and (self.weak is not None or self.keyframes):
            raise ValueError(
                "this schedule gives each frame a noise level of its own, and conditions that are weak, or later than"
                " the first frame, need one for all: sample with another schedule"
            )

    def rows(self, rows: slice) -> Plan:
        """The part of the plan that is about the samples `rows`."""
        given = self.given and self.given.rows(rows, self.given.latents)
        start = self.start[rows] if self.start is not None and len(self.start) > 1 else self.start
        weak = self.weak and replace(self.weak, latents=rows_of(self.weak.latents, rows))
        keyframes = [replace(each, latents=rows_of(each.latents, rows)) for each in self.keyframes]
        return replace(self, given=given, start=start, weak=weak, keyframes=keyframes)
