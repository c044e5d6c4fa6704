"""Which pixels the latents of a codec stand for. The rule of frames is known here and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

AXES = ("num_frames", "height", "width")


@dataclass(frozen=True)
class Compression:
    """How latents lie over pixels: a latent stands for `stride` pixels along (f, h, w).

    causal: the first frame is coded alone, so a clip has f k + 1 frames, the first latent frame stands for one of them
    and every other one for f. Otherwise a clip has f k frames and all latent frames are alike.
    group: latent frames, beside such a first one, come in groups of so many.
    lead: latent frames in front of all others, copies of the first one, which stand for no pixels: they fill up the
    frames of a network that takes several as one token (CogVideoX 1.5). Its first pixel frame is in the first of them.

    It is a plain value, which parts that know no codec are handed (positions in seconds, tasks of the sampler).
    """

    stride: tuple[int, int, int]
    causal: bool
    group: int = 1
    lead: int = 0

    @property
    def lacking(self) -> int:
        """Frames that the first latent frame has less than the others."""
        return self.stride[0] - 1 if self.causal else 0

    def latent_shape(self, num_frames: int, height: int, width: int, codec: str = "this codec") -> tuple[int, int, int]:
        """(F, H, W) of a clip's latents; ValueError with the nearest legal values for a clip that cannot be taken.

        codec: its name, for the message.
        """
        offsets, steps = (int(self.causal), 0, 0), (self.group * self.stride[0], *self.stride[1:])
        for name, size, stride, offset in zip(AXES, (num_frames, height, width), steps, offsets, strict=True):
            if size < 1 or (size - offset) % stride:
                rule = f"{stride}k+1" if offset else f"{stride}k"
                below = (size - offset) // stride * stride + offset
                legal = [n for n in (below, below + stride) if n >= 1] or [offset or stride]
                raise ValueError(f"{name}={size} is not {rule} for {codec}; nearest: {', '.join(map(str, legal))}")
        frames, rows, columns = self.stride
        return (num_frames + self.lacking) // frames + self.lead, height // rows, width // columns

    def pixel_shape(self, frames: int, height: int, width: int) -> tuple[int, int, int]:
        """(num_frames, height, width) of the clip whose latents are (frames, height, width): `latent_shape` undone."""
        return self.first_frame(frames), height * self.stride[1], width * self.stride[2]

    def first_frame(self, latent: int) -> int:
        """Number of the pixel frame with which a latent frame begins."""
        return max(0, (latent - self.lead) * self.stride[0] - self.lacking)

    def first_frames(self, latents: Tensor) -> Tensor:
        """The same of a tensor of numbers, of its dtype and shape."""
        return ((latents - self.lead) * self.stride[0] - self.lacking).clamp(min=0)

    def frames_of(self, latent: int) -> range:
        """Numbers of the pixel frames that a latent frame stands for; none where it is in the lead."""
        return range(self.first_frame(latent), self.first_frame(latent + 1))

    def latent_of(self, frame: int) -> int:
        """Number of the latent frame that stands for a pixel frame; of the first one, the first that shows it."""
        return (frame + self.lacking) // self.stride[0] + self.lead if frame else 0


PIXELS = Compression((1, 1, 1), causal=False)  # latents are pixels
