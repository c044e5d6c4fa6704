"""The clip that is to be made: its size in pixels and in latents, and how known pixels become given latents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from dit.sampling.given import Given


class Compression(Protocol):
    """Which pixels the latents of a codec stand for: `dit.codec.compression`, as far as the sampler asks it."""

    @property
    def stride(self) -> tuple[int, int, int]:
        """(f, h, w), pixels per latent."""
        ...

    def latent_of(self, frame: int) -> int:
        """Number of the latent frame that stands for a pixel frame."""
        ...


@dataclass(frozen=True)
class Canvas:
    """The clip to be made.

    Attributes:
        num_frames, height, width: of its pixels. fps: frames a second.
        latent_shape: (F, H, W) of its latents.
        compression: which pixels its latents stand for.
        encode: pixels (B, 3, num_frames, height, width) -> latents (B, C, F, H, W).
        check_frames: raises ValueError with the nearest legal values for a frame count that the codec cannot take.
        first: pictures that the samples begin with, where some are given: as in `Plan`.
    """

    num_frames: int
    height: int
    width: int
    fps: float
    latent_shape: tuple[int, int, int]
    compression: Compression
    encode: Callable[[Tensor], Tensor]
    check_frames: Callable[[int], object]
    first: Sequence[Tensor] | None = None

    def given_frames(self, pixels: Tensor, at: Sequence[int]) -> Given:
        """Known pixel frames (B, 3, len(at), H, W), which stand at frames `at` of the clip, as given latent frames.

        A latent frame is given when any of its pixel frames is known; known ones are held over the rest of it. The
        unknown stretches between are filled with the nearest known frame, which a codec that looks further than one
        latent frame may see.
        """
        latent_of = self.compression.latent_of
        known = {latent_of(frame) for frame in at}
        filled = []
        for frame in range(self.num_frames):
            mates = [k for k, other in enumerate(at) if latent_of(other) == latent_of(frame)] or range(len(at))
            filled.append(min(mates, key=lambda k: abs(at[k] - frame)))
        latents = self.encode(pixels[:, :, filled])
        mask = torch.tensor([latent in known for latent in range(self.latent_shape[0])], device=latents.device)
        return Given(latents, mask.expand(len(latents), -1))
