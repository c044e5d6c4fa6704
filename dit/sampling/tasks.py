"""What a sampler can be asked for: each task turns images and videos into what is known before sampling.

`task(canvas) -> Plan`. Sources are file paths, read at the canvas's size and frame rate; Pillow images, or lists or
uint8 arrays of them (`read.in_memory`); or pixels in [-1, 1] that fit the canvas: one image `(3, H, W)` or video
`(3, F, H, W)` for all samples, or one for each with a batch axis in front. `fit` says how an image of another shape
comes into the canvas.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from dit.config.limits import Count, Share
from dit.sampling.fit import Cut, Fit
from dit.sampling.given import Given
from dit.sampling.read import Source, first_frames, in_memory, last_frames, mask_in_memory, read_image, read_mask


@dataclass(frozen=True)
class Plan:
    """What a task asks of the sampler.

    Attributes:
        given: what is known of the (first) clip.
        start: latents (B or 1, C, F, H, W) to start from, noised to `strength`; None starts from pure noise.
        strength: noise level at which sampling starts, in (0, 1].
        chunks: clips that are chained, each beginning with the last `num_context` frames of the one before.
        num_context: pixel frames that chained clips share.
    """

    given: Given | None = None
    start: Tensor | None = None
    strength: float = 1.0
    chunks: int = 1
    num_context: int = 0

    @property
    def uses_given(self) -> bool:
        """Whether the network is shown given frames, in the first clip or in those that are chained to it."""
        return self.given is not None or self.chunks > 1

    def shared(self, canvas: Canvas) -> int:
        """Latent frames that chained clips share."""
        return canvas.latent_of_frame()[self.num_context - 1] + 1 if self.num_context else 0

    def known(self, canvas: Canvas) -> list[Tensor]:
        """Which latent frames are given in all samples, bool (F,) on the CPU, in each of the chained clips."""
        frames = torch.arange(canvas.latent_shape[0])
        first = frames < 0 if self.given is None else self.given.frames.all(0).cpu()
        return [first] + [frames < self.shared(canvas)] * (self.chunks - 1)

    def check(self, batch: int) -> None:
        """ValueError unless what is known is for `batch` samples or the same for all, and leaves something to make."""
        if self.given is not None and bool(self.given.places.all()):
            frames = self.given.latents.shape[2]
            raise ValueError(
                f"this task gives all {frames} latent frames and leaves nothing to make; use more num_frames"
            )
        for latents in (self.given.latents if self.given else None, self.start):
            if latents is not None and len(latents) not in (1, batch):
                raise ValueError(
                    f"the task gives frames for {len(latents)} samples, but {batch} are made; give 1 or {batch}"
                )

    def rows(self, rows: slice) -> Plan:
        """The part of the plan that is about the samples `rows`."""
        given = self.given and self.given.rows(rows, self.given.latents)
        start = self.start[rows] if self.start is not None and len(self.start) > 1 else self.start
        return replace(self, given=given, start=start)


@dataclass(frozen=True)
class Canvas:
    """The clip to be made.

    Attributes:
        num_frames, height, width: of its pixels. fps: frames a second.
        latent_shape: (F, H, W) of its latents.
        stride: (f, h, w) of the codec.
        encode: pixels (B, 3, num_frames, height, width) -> latents (B, C, F, H, W).
        check_frames: raises ValueError with the nearest legal values for a frame count that the codec cannot take.
    """

    num_frames: int
    height: int
    width: int
    fps: float
    latent_shape: tuple[int, int, int]
    stride: tuple[int, int, int]
    encode: Callable[[Tensor], Tensor]
    check_frames: Callable[[int], object]

    def latent_of_frame(self) -> list[int]:
        """The latent frame of each pixel frame; a codec that codes the first frame alone has a short first group."""
        stride = self.stride[0]
        lacking = self.latent_shape[0] * stride - self.num_frames
        return [(frame + lacking) // stride for frame in range(self.num_frames)]

    def given_frames(self, pixels: Tensor, at: Sequence[int]) -> Given:
        """Known pixel frames (B, 3, len(at), H, W), which stand at frames `at` of the clip, as given latent frames.

        A latent frame is given when any of its pixel frames is known; known ones are held over the rest of it. The
        unknown stretches between are filled with the nearest known frame, which a codec that looks further than one
        latent frame may see.
        """
        group = self.latent_of_frame()
        known = {group[frame] for frame in at}
        filled = []
        for frame in range(self.num_frames):
            mates = [k for k, other in enumerate(at) if group[other] == group[frame]] or range(len(at))
            filled.append(min(mates, key=lambda k: abs(at[k] - frame)))
        latents = self.encode(pixels[:, :, filled])
        mask = torch.tensor([latent in known for latent in range(self.latent_shape[0])], device=latents.device)
        return Given(latents, mask.expand(len(latents), -1))


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
        return Plan(canvas.given_frames(_image(self.image, "image", canvas, self.fit), [0]))


@dataclass(frozen=True)
class FirstLast:
    """The first and the last frame are given.

    Args:
        image: the first frame.
        last_image: the last frame.
    """

    image: Source
    last_image: Source
    fit: Fit = Cut()

    def __call__(self, canvas: Canvas) -> Plan:
        _needs_frames(canvas, 2)
        ends = [_image(getattr(self, name), name, canvas, self.fit) for name in ("image", "last_image")]
        return Plan(canvas.given_frames(_join(ends), [0, canvas.num_frames - 1]))


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
        num_context: how many of its last frames are given.
        times: how many clips are chained, each going on from the last `num_context` frames of the one before.
    """

    video: Source
    num_context: Count
    times: Count
    fit: Fit = Cut()

    def __call__(self, canvas: Canvas) -> Plan:
        _check_chain(canvas, self.num_context, self.times)
        context = _last_frames(self.video, self.num_context, canvas, self.fit)
        given = canvas.given_frames(context, range(self.num_context))
        return Plan(given, chunks=self.times, num_context=self.num_context)


@dataclass(frozen=True)
class LongTextToVideo:
    """A clip longer than the network makes at once: nothing is given, and clips are chained as in `Extend`.

    Args:
        num_context: how many last frames of a clip are given to the next one.
        times: how many clips are chained.
    """

    num_context: Count
    times: Count

    def __call__(self, canvas: Canvas) -> Plan:
        _check_chain(canvas, self.num_context, self.times)
        return Plan(chunks=self.times, num_context=self.num_context)


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
        return Plan(canvas.given_frames(_first_frames(self.video, len(at), canvas, self.fit, every), at))


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
        pixels = _first_frames(self.video, canvas.num_frames, canvas, self.fit)
        return Plan(start=canvas.encode(pixels), strength=self.strength)


@dataclass(frozen=True)
class Inpaint:
    """The places of a video that a mask covers are made anew.

    Args:
        video: what to change.
        mask: an image, white where the video is remade, or bool pixels (H, W); a latent is given when all of its pixels
            are black.
    """

    video: Source
    mask: Source
    fit: Fit = Cut()

    def __call__(self, canvas: Canvas) -> Plan:
        latents = canvas.encode(_first_frames(self.video, canvas.num_frames, canvas, self.fit))
        mask = _present(self.mask, "mask", "mask.png")
        mask = mask_in_memory(mask, canvas.height, canvas.width, self.fit)
        unknown = mask if isinstance(mask, Tensor) else read_mask(mask, canvas.height, canvas.width, self.fit)
        if unknown.dtype != torch.bool or unknown.shape != (canvas.height, canvas.width):
            raise ValueError(
                f"mask is {unknown.dtype} {tuple(unknown.shape)}, not bool {(canvas.height, canvas.width)}"
            )
        window = canvas.stride[1:]
        covered = torch.nn.functional.max_pool2d(unknown[None].float(), window, window) > 0  # (1, H, W)
        given = ~covered[None, :, None].expand(len(latents), 1, *canvas.latent_shape)
        return Plan(Given(latents, given.to(latents.device)))


def _present(source: Source, name: str, example: str) -> Any:
    if source is None:
        raise ValueError(f"this task needs {name}=FILE; for example {name}={example}")
    return source


def _image(source: Source, name: str, canvas: Canvas, fit: Fit) -> Tensor:
    """One frame, (B, 3, 1, H, W)."""
    there = in_memory(_present(source, name, "frame.png"), name, False, canvas.height, canvas.width, fit)
    pixels = there if isinstance(there, Tensor) else read_image(there, canvas.height, canvas.width, fit)
    return _fitting(pixels.unsqueeze(-3), name, 1, canvas)


def _first_frames(source: Source, count: int, canvas: Canvas, fit: Fit, every: int = 1) -> Tensor:
    """`count` frames (B, 3, count, H, W) from the start of a video, `every` frames of the canvas apart."""
    there = in_memory(_present(source, "video", "clip.mp4"), "video", True, canvas.height, canvas.width, fit)
    if isinstance(there, Tensor):
        return _fitting(there[..., ::every, :, :][..., :count, :, :], "video", count, canvas)
    return first_frames(there, count, canvas.height, canvas.width, canvas.fps / every, fit)[None]


def _last_frames(source: Source, count: int, canvas: Canvas, fit: Fit) -> Tensor:
    """`count` frames (B, 3, count, H, W) from the end of a video."""
    there = in_memory(_present(source, "video", "clip.mp4"), "video", True, canvas.height, canvas.width, fit)
    if isinstance(there, Tensor):
        return _fitting(there[..., -count:, :, :], "video", count, canvas)
    return last_frames(there, count, canvas.height, canvas.width, canvas.fps, fit)[None]


def _fitting(pixels: Tensor, name: str, count: int, canvas: Canvas) -> Tensor:
    """Pixels with a batch axis; ValueError unless they fit the canvas."""
    pixels = pixels if pixels.ndim == 5 else pixels[None]
    wanted = (3, count, canvas.height, canvas.width)
    if pixels.ndim != 5 or pixels.shape[1:] != wanted:
        raise ValueError(f"{name} has {tuple(pixels.shape[1:])} (channels, frames, height, width); {wanted} are needed")
    return pixels


def _join(parts: Sequence[Tensor]) -> Tensor:
    """Clips behind one another; one of batch 1 serves all samples of the others."""
    batch = max(len(part) for part in parts)
    return torch.cat([part.expand(batch, *part.shape[1:]) for part in parts], 2)


def _needs_frames(canvas: Canvas, least: int) -> None:
    if canvas.num_frames < least:
        raise ValueError(f"num_frames={canvas.num_frames} is too few for this task; at least {least}")


def _check_chain(canvas: Canvas, num_context: int, times: int) -> None:
    if times < 1:
        raise ValueError(f"times={times} must be at least 1")
    if not 1 <= num_context < canvas.num_frames:
        nearest = min(max(num_context, 1), canvas.num_frames - 1)
        raise ValueError(
            f"num_context={num_context} must be at least 1 and below num_frames={canvas.num_frames}; nearest: {nearest}"
        )
    try:
        canvas.check_frames(num_context)
    except ValueError as error:
        raise ValueError(str(error).replace("num_frames", "num_context")) from None
