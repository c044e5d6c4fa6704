"""The clip that is to be made: its size in pixels and in latents, and how known pixels become given latents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dit.sampling.given import Given


@dataclass(frozen=True)
class Canvas:
    """The clip to be made.

    Attributes:
        num_frames, height, width: of its pixels. fps: frames a second.
        latent_shape: (F, H, W) of its latents.
        stride: (f, h, w) of the codec.
        encode: pixels (B, 3, num_frames, height, width) -> latents (B, C, F, H, W).
        check_frames: raises ValueError with the nearest legal values for a frame count that the codec cannot take.
        first: pictures that the samples begin with, where some are given: as in `Plan`.
    """

    num_frames: int
    height: int
    width: int
    fps: float
    latent_shape: tuple[int, int, int]
    stride: tuple[int, int, int]
    encode: Callable[[Tensor], Tensor]
    check_frames: Callable[[int], object]
    first: Sequence[Tensor] | None = None

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
