"""How text tokens join the sequence: in what order, and at what noise level."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from dit.net.coordinates import Coordinates


class JointSequence:
    """The joint sequence of video and text tokens. Without a text stream (None, 0 tokens) it is the video, uncopied."""

    text_first: bool

    def join(self, video: Tensor, text: Tensor | None) -> Tensor:
        """(B, N, ...) and (B, L, ...) -> (B, N + L, ...)."""
        if text is None:
            return video
        return torch.cat([text, video] if self.text_first else [video, text], dim=1)

    def split(self, tokens: Tensor, num_text: int) -> tuple[Tensor, Tensor | None]:
        """(B, N + L, ...) with L = num_text -> (B, N, ...) and (B, L, ...)."""
        if not num_text:
            return tokens, None
        # split, not two slices: its backward is one cat, that of a slice fills the whole with zeros.
        if self.text_first:
            text, video = tokens.split([num_text, tokens.shape[1] - num_text], dim=1)
        else:
            video, text = tokens.split([tokens.shape[1] - num_text, num_text], dim=1)
        return video, text


class TextFirst(JointSequence):
    """Text in front of the video (CogVideoX)."""

    text_first = True


class VideoFirst(JointSequence):
    """Text behind the video (HunyuanVideo, Mochi)."""

    text_first = False


class TextLevel(Protocol):
    """Which noise level the text tokens of a joint sequence take, when each frame has one of its own."""

    def __call__(self, vectors: Tensor) -> Tensor:
        """Level vectors of the frames (B, F, D) -> (B, 1, D)."""
        ...


class MeanOfFrames:
    """The mean over the frames: text belongs to all of them."""

    def __call__(self, vectors: Tensor) -> Tensor:
        return vectors.mean(dim=1, keepdim=True)


class LastFrame:
    """The last frame's, which no image is given for (HunyuanVideo's image-to-video)."""

    def __call__(self, vectors: Tensor) -> Tensor:
        return vectors[:, -1:]


def one_of_frames(vectors: Tensor, choose: TextLevel, frames: tuple[int, ...] | None) -> Tensor:
    """Vectors of frames of tokens (B or K, G, D) -> (B or K, 1, D), each chosen among those of a clip's own frames.

    frames: of each of K packed clips; None: there is one clip.
    """
    if frames is None or vectors.shape[1] == 1:
        return choose(vectors)
    return torch.cat([choose(own[None, :count]) for own, count in zip(vectors, frames, strict=True)])


@dataclass(frozen=True, eq=False)
class NoiseLevels:
    """The noise levels of latent frames, for what embeds them.

    t: (B, 1), one for all frames, or (B, F); of K packed clips (K, ...), F of the longest. patch: latent frames that a
    token spans. coordinates: of the tokens. Raises ValueError for levels of other frames.
    """

    t: Tensor
    patch: int
    coordinates: Coordinates

    def __post_init__(self) -> None:
        if self.t.dim() != 2 or self.t.shape[1] not in (1, self.latent_frames):
            wanted = f"(batch, 1) or (batch, {self.latent_frames} latent frames)"
            raise ValueError(f"t has shape {tuple(self.t.shape)}; it must be {wanted}")

    @property
    def latent_frames(self) -> int:
        """Of the longest clip."""
        return self.patch * max(grid[0] for grid in self.coordinates.grids)

    def of_tokens(self, vectors: Tensor) -> Tensor:
        """Vectors of latent frames (B, 1 or F, D) -> of frames of tokens (B, 1 or F / patch, D), the means."""
        if vectors.shape[1] not in (1, self.latent_frames):
            raise ValueError(
                f"level vectors are of {vectors.shape[1]} frames; they must be of 1 or of {self.latent_frames}"
            )
        return vectors if vectors.shape[1] == 1 else vectors.unflatten(1, (-1, self.patch)).mean(dim=2)


@dataclass(frozen=True, eq=False)
class TextTokens:
    """Text as the network reads it; B is K where clips are packed.

    stream: (B, L, any), tokens that pass through the blocks with the video. cross: (B, L, cross_width), tokens that
    cross-attention reads. mask: (B, L) bool, which of them are real (None: all). image: (B, M, any), tokens of an image
    that cross-attention reads beside. vector: (B, level_width), added to the level vectors. kept: keys and values that
    each cross-attention has made of this text (None: they are made anew in each pass).
    """

    stream: Tensor | None = None
    cross: Tensor | None = None
    mask: Tensor | None = None
    image: Tensor | None = None
    vector: Tensor | None = None
    kept: dict[nn.Module, tuple[Tensor, ...]] | None = None
