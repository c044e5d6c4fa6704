"""Images and videos that are known anywhere in a clip, each as firmly as it says: the task `conditions`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypedDict

import torch
from torch import Tensor

from dit.config.limits import Natural, Share
from dit.sampling import sources
from dit.sampling.canvas import Canvas
from dit.sampling.fit import Cut, Fit
from dit.sampling.given import Given
from dit.sampling.keyframes import Keyframe, Weak
from dit.sampling.plan import Plan
from dit.sampling.read import Source

APART = 2  # latent frames of a video that LTX-Video sees in front of the clip; the others stand in it


class Condition(TypedDict, total=False):
    """What is known of a clip from one frame on.

    image, video: one of both. frame: where it begins, 0 if not said. strength: in (0, 1], how firmly it is known; 1 if
    not said: it is given.
    """

    image: Source
    video: Source
    frame: Natural
    strength: Share


@dataclass(frozen=True)
class Conditions:
    """Images and videos are known anywhere in the clip, each as firmly as it says (LTX-Video 0.9.5 and later).

    Networks that are told the time of each token see those that begin later than the clip in front of it; of a video
    the first `APART` latent frames. For others all stand in the clip, and are given.

    Args:
        conditions: one or more. Of a video as many frames are taken as there are, and as the clip and the codec take.
    """

    conditions: Sequence[Condition]
    fit: Fit = Cut()

    def __call__(self, canvas: Canvas) -> Plan:
        if not self.conditions:
            raise ValueError("this task needs conditions=[{image: FILE, frame: 0}, ...]: one at least")
        known = [Known.of(each, f"conditions.{i}", canvas, self.fit) for i, each in enumerate(self.conditions)]
        first = next((each.pixels[:, :, 0] for each in known if each.frame == 0), None)
        pictures = None if first is None else sources.pictures(first)
        if canvas.sees_times:
            return replace(by_times(known, canvas), first=pictures)
        if weak := next((each for each in known if each.strength < 1), None):
            raise ValueError(
                f"{weak.key}.strength={weak.strength}: this network is not told the time of each token, and takes"
                " frames as given or not at all; use strength=1"
            )
        at = {each.frame + i: each.pixels[:, :, i : i + 1] for each in known for i in range(each.pixels.shape[2])}
        frames = sorted(at)
        return Plan(canvas.given_frames(sources.joined([at[frame] for frame in frames]), frames), first=pictures)


class Known(NamedTuple):
    """What is known of a clip from a frame on: pixels (B, 3, frames, H, W). key: of the command line, for messages."""

    key: str
    pixels: Tensor
    frame: int
    strength: float

    @classmethod
    def of(cls, said: Condition, key: str, canvas: Canvas, fit: Fit) -> Known:
        image, video = said.get("image"), said.get("video")
        frame, strength = said.get("frame", 0), said.get("strength", 1.0)
        if (image is None) == (video is None):
            both = "neither image nor video" if image is None else "image and video"
            raise ValueError(f"{key} has {both}; give one of both, for example {key}.image=frame.png")
        if not 0 <= frame < canvas.num_frames:
            raise ValueError(f"{key}.frame={frame} is not in the clip; it has the frames 0 to {canvas.num_frames - 1}")
        if not 0 < strength <= 1:
            raise ValueError(f"{key}.strength={strength} is outside (0, 1]; leave out what is not known at all")
        if video is None:
            return cls(key, sources.image(image, f"{key}.image", canvas, fit), frame, float(strength))
        pixels = sources.up_to_frames(video, canvas.num_frames - frame, canvas, fit)
        count = pixels.shape[2]
        while count > 1 and not canvas.takes(count):
            count -= 1
        return cls(key, pixels[:, :, :count], frame, float(strength))


def by_times(known: Sequence[Known], canvas: Canvas) -> Plan:
    """What LTX-Video is shown: the beginning of the clip in its place, later frames in front of it."""
    placed: list[tuple[slice, Tensor, float]] = []
    keyframes = []
    for each in known:
        latents, first = canvas.encode(each.pixels), 0
        if each.frame > 0:
            keyframes.append(Keyframe(latents[:, :, :APART], each.frame, each.strength))
            latents, first = latents[:, :, APART:], each.frame // canvas.compression.stride[0] + APART
        if latents.shape[2]:
            placed.append((slice(first, first + latents.shape[2]), latents, each.strength))
    if not placed:
        return Plan(keyframes=keyframes)
    batch, latents = max(len(latents) for _, latents, _ in placed), placed[0][1]
    whole = latents.new_zeros(batch, latents.shape[1], *canvas.latent_shape)
    strength = torch.zeros(whole.shape[2], dtype=torch.float64)
    for there, latents, firmness in placed:
        whole[:, :, there], strength[there] = latents, firmness
    firm = strength == 1
    given = Given(whole, firm.to(whole.device).expand(batch, -1)) if bool(firm.any()) else None
    weak = Weak(whole, torch.where(firm, 0, strength))
    return Plan(given, weak=weak if bool((weak.strength > 0).any()) else None, keyframes=keyframes)
