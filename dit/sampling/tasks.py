"""What a sampler can be asked for: each task turns images and videos into what is known before sampling.

`task(canvas) -> Plan`. A source is one of
- a file path, read at the canvas's size and frame rate;
- Pillow images, or lists or uint8 arrays of them (`read.in_memory`);
- pixels in [-1, 1] that fit the canvas: one image `(3, H, W)` or video `(3, F, H, W)` for all samples, or one for each
  with a batch axis in front.
`fit` says how an image of another shape comes into the canvas.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import torch

from dit.config.limits import Count, Share
from dit.sampling import sources
from dit.sampling.canvas import Canvas
from dit.sampling.conditions import Known, by_times
from dit.sampling.fit import Cut, Fit
from dit.sampling.given import Given
from dit.sampling.plan import Plan
from dit.sampling.read import Source

SHARED = 4  # frames of one clip that the next one is given, where nothing is said and the codec takes so many


class Task(Protocol):
    def __call__(self, canvas: Canvas) -> Plan: ...


@dataclass(frozen=True)
class TextToVideo:
    """Nothing is given."""

    def __call__(self, canvas: Canvas) -> Plan:
        return Plan()


@dataclass(frozen=True)
class ImageToVideo:
    """The first frame is given.

    Args:
        image: the first frame.
    """

    image: Source
    fit: Fit = Cut()

    def __call__(self, canvas: Canvas) -> Plan:
        given = canvas.given_frames(sources.image(self.image, "image", canvas, self.fit), [0])
        return Plan(given, first=sources.pictures(self.image))


@dataclass(frozen=True)
class FirstLast:
    """The first and the last frame are given. Of networks that encode each of them alone and are told the time of each
    token, the last one stands in front of the clip (`conditions.py`).

    Args:
        image: the first frame.
        last_image: the last frame.
    """

    image: Source
    last_image: Source
    fit: Fit = Cut()

    def __call__(self, canvas: Canvas) -> Plan:
        _needs_frames(canvas, 2)
        at = {"image": 0, "last_image": canvas.num_frames - 1}
        ends = [sources.image(getattr(self, name), name, canvas, self.fit) for name in at]
        if canvas.sees_times and canvas.given.unknown == "left_out":
            known = [Known(name, end, frame, 1.0) for (name, frame), end in zip(at.items(), ends, strict=True)]
            plan = by_times(known, canvas)
        else:
            plan = Plan(canvas.given_frames(sources.joined(ends), list(at.values())))
        return replace(plan, first=sources.pictures(self.image), last=sources.pictures(self.last_image))


@dataclass(frozen=True)
class Loop:
    """The clip ends as it begins, so that it can be played round.

    Args:
        image: the first and last frame.
    """

    image: Source
    fit: Fit = Cut()

    def __call__(self, canvas: Canvas) -> Plan:
        return FirstLast(self.image, self.image, self.fit)(canvas)


@dataclass(frozen=True)
class Extend:
    """The last frames of a video are given and it goes on from there; the sample begins with them.

    Args:
        video: what to extend.
        num_context: how many of its last frames are given; None: the first number from 4 on that the codec takes.
        times: how many clips are chained, each going on from the last `num_context` frames of the one before.
        carry_latents: whether a clip hands on latent frames as they are, and all are decoded as one (SkyReels-V2).
            Otherwise its frames are decoded and encoded anew, as the first ones of a clip.
    """

    video: Source
    num_context: Count | None
    times: Count
    fit: Fit = Cut()
    carry_latents: bool = False

    def __call__(self, canvas: Canvas) -> Plan:
        shared = _checked_chain(canvas, self.num_context, self.times, self.carry_latents)
        context = sources.last_frames(self.video, shared, canvas, self.fit)
        return Plan(
            canvas.given_frames(context, range(shared)), chunks=self.times, num_context=shared,
            carries_latents=self.carry_latents, first=sources.pictures(context[:, :, 0]),
        )  # fmt: skip


@dataclass(frozen=True)
class LongTextToVideo:
    """A clip longer than the network makes at once: nothing is given, and clips are chained as in `Extend`.

    Args:
        num_context: how many last frames of a clip are given to the next one; None: as in `Extend`.
        times: how many clips are chained.
        carry_latents: as in `Extend`.
    """

    num_context: Count | None
    times: Count
    carry_latents: bool = False

    def __call__(self, canvas: Canvas) -> Plan:
        shared = _checked_chain(canvas, self.num_context, self.times, self.carry_latents)
        return Plan(chunks=self.times, num_context=shared, carries_latents=self.carry_latents)


@dataclass(frozen=True)
class Interpolate:
    """Every k-th frame is given and the frames between are made.

    Args:
        video: where the given frames come from, each at its own time of the clip.
        every: k; None gives the first and the last frame only.
    """

    video: Source
    every: Count | None
    fit: Fit = Cut()

    def __call__(self, canvas: Canvas) -> Plan:
        _needs_frames(canvas, 2)
        every = canvas.num_frames - 1 if self.every is None else self.every
        if self.every is not None and not 2 <= every < canvas.num_frames:
            raise ValueError(f"every={every} leaves nothing to interpolate; use 2 to {canvas.num_frames - 1}")
        at = range(0, canvas.num_frames, every)
        frames = sources.first_frames(self.video, len(at), canvas, self.fit, every)
        return Plan(canvas.given_frames(frames, at), first=sources.pictures(frames[:, :, 0]))


@dataclass(frozen=True)
class VideoToVideo:
    """Sampling starts from a partly noised video (SDEdit, Meng et al. 2022, arXiv 2108.01073).

    Args:
        video: what to start from.
        strength: noise level at the start, in (0, 1]: 1 keeps nothing of the video.
    """

    video: Source
    strength: Share
    fit: Fit = Cut()

    def __call__(self, canvas: Canvas) -> Plan:
        if not 0 < self.strength <= 1:
            raise ValueError(
                f"strength={self.strength} is outside (0, 1]; nearest: {1.0 if self.strength > 1 else 0.1}"
            )
        pixels = sources.first_frames(self.video, canvas.num_frames, canvas, self.fit)
        return Plan(start=canvas.encode(pixels), strength=self.strength)


@dataclass(frozen=True)
class Inpaint:
    """The part of a video that a mask covers is made anew.

    Args:
        video: what to change.
        mask: an image, white where the video is remade, or bool pixels (H, W); a latent is given when all of its pixels
            are black.
    """

    video: Source
    mask: Source
    fit: Fit = Cut()

    def __call__(self, canvas: Canvas) -> Plan:
        if not canvas.given.in_place:
            raise ValueError(
                "this model is shown given frames as a whole, beside the clip: task=inpaint needs one in whose clips"
                " they stand (given=held)"
            )
        latents = canvas.encode(sources.first_frames(self.video, canvas.num_frames, canvas, self.fit))
        unknown = sources.mask(self.mask, canvas, self.fit)
        window = canvas.compression.stride[1:]
        covered = torch.nn.functional.max_pool2d(unknown[None].float(), window, window) > 0  # (1, H, W)
        given = ~covered[None, :, None].expand(len(latents), 1, *canvas.latent_shape)
        return Plan(Given(latents, given.to(latents.device)))


def _needs_frames(canvas: Canvas, least: int) -> None:
    if canvas.num_frames < least:
        raise ValueError(f"num_frames={canvas.num_frames} is too few for this task; at least {least}")


def _checked_chain(canvas: Canvas, num_context: int | None, times: int, carry_latents: bool) -> int:
    """How many frames chained clips share. Raises ValueError for a chain that cannot be."""
    if carry_latents and not canvas.given.in_place:
        raise ValueError(
            "carry_latents=true hands on latents that stand in the next clip, and this model is shown frames beside it:"
            " carry_latents=false"
        )
    if times < 1:
        raise ValueError(f"times={times} must be at least 1")
    if num_context is None:
        least = min(SHARED, canvas.num_frames - 1)
        near = (*range(least, canvas.num_frames), *range(least - 1, 0, -1))
        num_context = next((count for count in near if canvas.takes(count)), 1)
    if not 1 <= num_context < canvas.num_frames:
        nearest = min(max(num_context, 1), canvas.num_frames - 1)
        raise ValueError(
            f"num_context={num_context} must be at least 1 and below num_frames={canvas.num_frames}; nearest: {nearest}"
        )
    try:
        canvas.check_frames(num_context)
    except ValueError as error:
        raise ValueError(str(error).replace("num_frames", "num_context")) from None
    return num_context
