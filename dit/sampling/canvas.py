"""The clip that is to be made: its size in pixels and in latents, and how known pixels become given latents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dit.diffusion.footage import Compression, encode_known, folded
from dit.diffusion.given import HELD, Showing
from dit.sampling.given import Given


@dataclass(frozen=True)
class Canvas:
    """The clip to be made.

    Attributes:
        num_frames, height, width: of its pixels. fps: frames a second.
        latent_shape: (F, H, W) of its latents.
        compression: which pixels its latents stand for.
        encode: pixels (B, 3, num_frames, height, width) -> latents (B, C, F, H, W).
        check_frames: raises ValueError with the nearest legal values for a frame count that the codec cannot take.
        given: how the network is shown given frames.
        sees_times: whether it is told the time and place of each token, so that frames may stand in front of the clip.
        first, last: pictures that the samples begin and end with, where some are given: as in `Plan`.
        begin: with which frame of the whole it begins, where clips are chained.
        whole: frames of that; None: not known yet.
    """

    num_frames: int
    height: int
    width: int
    fps: float
    latent_shape: tuple[int, int, int]
    compression: Compression
    encode: Callable[[Tensor], Tensor]
    check_frames: Callable[[int], object]
    given: Showing = HELD
    sees_times: bool = False
    first: Sequence[Tensor] | None = None
    last: Sequence[Tensor] | None = None
    begin: int = 0
    whole: int | None = None

    def takes(self, num_frames: int) -> bool:
        """Whether the codec takes so many frames."""
        try:
            self.check_frames(num_frames)
        except ValueError:
            return False
        return True

    def given_frames(self, pixels: Tensor, at: Sequence[int]) -> Given:
        """Known pixel frames (B, 3, len(at), H, W), which stand at frames `at` of the clip, as given latent frames.

        A latent frame is given when any of its pixel frames is known. What stands in the unknown ones while they are
        encoded, which a codec that looks further than one latent frame may see, is the model's own
        (`Showing.unknown`).
        """
        unknown = self.given.unknown
        latents = encode_known(self.encode, self.compression, pixels, at, self.num_frames, unknown)
        known = torch.tensor([[frame in at for frame in range(self.num_frames)]], device=latents.device)
        frames_of = folded(known, self.compression).expand(len(latents), -1, -1, -1, -1)
        mask = frames_of.any(1)[:, :, 0, 0]
        return Given(latents, mask, None if self.given.in_place else frames_of, unknown == "grey")

    def nothing_given(self) -> Given | None:
        """What the network is shown where no frame is given."""
        if self.given.unknown != "grey":
            return None
        return self.given_frames(torch.zeros(1, 3, 0, self.height, self.width), [])
