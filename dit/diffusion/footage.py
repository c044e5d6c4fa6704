"""Clips of which single frames are known, as a codec encodes them: in training and for the sampler's tasks alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad


class Compression(Protocol):
    """Which pixels the latents of a codec stand for: `dit.codec.compression`, as far as it is asked here."""

    @property
    def stride(self) -> tuple[int, int, int]:
        """(f, h, w), pixels per latent."""
        ...

    @property
    def lead(self) -> int:
        """Copies of the first latent frame in front of it."""
        ...

    def first_frames(self, latents: Tensor) -> Tensor:
        """Numbers of the pixel frames with which latent frames begin."""
        ...

    def latent_of(self, frame: int) -> int:
        """Number of the latent frame that stands for a pixel frame."""
        ...


def folded(known: Tensor, compression: Compression) -> Tensor:
    """Which pixel frames are known, bool (B, num_frames), as `Shown.known`, (B, s, F, 1, 1). The first frame stands for
    all of the first latent frame where a codec codes it alone. Of copies of that one (`lead`) the first is known alone,
    as CogVideoX 1.5 has it."""
    num_frames, s = known.shape[1], compression.stride[0]
    frames = compression.latent_of(num_frames - 1) + 1
    place = (torch.arange(frames * s, device=known.device) - (frames * s - num_frames)).clamp(min=0)
    made = known[:, place].unflatten(1, (frames, s)).transpose(1, 2)[..., None, None]
    if compression.lead:
        made[:, :, 1 : 1 + compression.lead] = False
    return made


Unknown = Literal["nearest", "left_out", "grey"]


def encode_known(
    encode: Callable[[Tensor], Tensor],
    compression: Compression,
    pixels: Tensor,
    at: Sequence[int],
    num_frames: int,
    unknown: Unknown,
) -> Tensor:
    """Latents (B, C, F, H, W) of clips of which single frames are known.

    Args:
        encode: pixels (B, 3, frames, height, width) -> latents.
        pixels: of the known frames, (B, 3, len(at), height, width); at least one, but for `grey`.
        at: their numbers in the clip, which has `num_frames`.
        unknown: what stands in the other frames: the `nearest` known frame, held over the rest of its latent frame
            before all; `grey`; or nothing (`left_out`): the known ones are a clip of their own, and latents behind it
            are 0.

    Raises ValueError where frames are left out behind which others are known, or a codec takes no so short clip.
    """
    if unknown == "left_out":
        if list(at) != list(range(len(at))):
            raise ValueError(
                f"frames {', '.join(map(str, at))} of {num_frames} are given, and this model encodes given frames"
                " alone: they must be the first ones of the clip"
            )
        latents = encode(pixels)
        return pad(latents, (0, 0, 0, 0, 0, compression.latent_of(num_frames - 1) + 1 - latents.shape[2]))
    if unknown == "grey":
        clip = pixels.new_zeros(*pixels.shape[:2], num_frames, *pixels.shape[3:])
        clip[:, :, list(at)] = pixels
        return encode(clip)
    latent_of = compression.latent_of
    filled = []
    for frame in range(num_frames):
        mates = [k for k, other in enumerate(at) if latent_of(other) == latent_of(frame)] or range(len(at))
        filled.append(min(mates, key=lambda k: abs(at[k] - frame)))
    return encode(pixels[:, :, filled])


@dataclass(frozen=True)
class Footage:
    """Training clips as pixels, and the codec that makes latents of them.

    pixels: (B, 3, num_frames, height, width). encode: pixels -> latents, without gradients, the same at every call.
    compression: of the codec.
    """

    pixels: Tensor
    encode: Callable[[Tensor], Tensor]
    compression: Compression

    @property
    def num_frames(self) -> int:
        """Of each clip."""
        return self.pixels.shape[2]

    def latents(self, known: Tensor, unknown: Unknown, like: Tensor) -> Tensor:
        """What `encode_known` makes of the frames `known`, bool (B, num_frames) on the CPU; 0 where none is, but for
        `grey`. like: the clips' own latents."""
        made = torch.zeros_like(like)
        for at, rows in patterns(known).items():
            if at or unknown == "grey":
                made[rows] = self._encoded(rows, at, unknown).to(made.dtype)
        return made

    def _encoded(self, rows: list[int], at: tuple[int, ...], unknown: Unknown) -> Tensor:
        """Latents of some clips of which the frames `at` are known."""
        pixels = self.pixels[rows][:, :, list(at)]
        return encode_known(self.encode, self.compression, pixels, at, self.num_frames, unknown)


CLIP, GIVEN = "clip", "given"  # names in a latent cache: of the clip, and of latents of given frames


def name_of(at: Sequence[int]) -> str:
    """How a latent cache calls latents of clips of which the frames `at` are known: `given:0,80`."""
    return f"{GIVEN}:{','.join(map(str, at))}"


def frames_of(name: str) -> tuple[int, ...] | None:
    """`name_of` undone; None for the name of anything else."""
    kind, _, numbers = name.partition(":")
    return tuple(map(int, numbers.split(","))) if kind == GIVEN else None


def patterns(known: Tensor) -> dict[tuple[int, ...], list[int]]:
    """Numbers of known frames -> the clips of which these are known, of bool (B, num_frames) on the CPU."""
    found: dict[tuple[int, ...], list[int]] = {}
    for row, each in enumerate(known.tolist()):
        found.setdefault(tuple(frame for frame, is_known in enumerate(each) if is_known), []).append(row)
    return found


@dataclass(frozen=True)
class KeptFootage(Footage):
    """Training clips out of a latent cache, where latents of given frames were made beforehand.

    pixels: the frames that are kept, of which only the height and width count here. length: frames of each clip.
    kept: numbers of known frames -> latents (B, C, F, H, W).
    """

    length: int
    kept: Mapping[tuple[int, ...], Tensor]

    @property
    def num_frames(self) -> int:
        return self.length

    def _encoded(self, rows: list[int], at: tuple[int, ...], unknown: Unknown) -> Tensor:
        if at in self.kept:
            return self.kept[at][rows]
        if at:
            raise ValueError(
                f"frames {', '.join(map(str, at))} of a clip are given beside it, and the latent cache keeps others:"
                " make it again with this conditioning, or train without (data.cache=null)"
            )
        return super()._encoded(rows, at, unknown)  # grey alone
