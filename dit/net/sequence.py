"""How text tokens join the sequence: in what order, and at what noise level."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Protocol

import torch
from torch import Tensor


class JointSequence(ABC):
    """The joint sequence of video and text tokens. Without a text stream (None, 0 tokens) it is the video, uncopied."""

    def join(self, video: Tensor, text: Tensor | None) -> Tensor:
        """(B, N, ...) and (B, L, ...) -> (B, N + L, ...)."""
        return video if text is None else self._join(video, text)

    def split(self, tokens: Tensor, num_text: int) -> tuple[Tensor, Tensor | None]:
        """(B, N + L, ...) with L = num_text -> (B, N, ...) and (B, L, ...)."""
        return self._split(tokens, num_text) if num_text else (tokens, None)

    @abstractmethod
    def _join(self, video: Tensor, text: Tensor) -> Tensor: ...

    @abstractmethod
    def _split(self, tokens: Tensor, num_text: int) -> tuple[Tensor, Tensor]: ...


class TextFirst(JointSequence):
    """Text in front of the video (CogVideoX)."""

    def _join(self, video: Tensor, text: Tensor) -> Tensor:
        return torch.cat([text, video], dim=1)

    def _split(self, tokens: Tensor, num_text: int) -> tuple[Tensor, Tensor]:
        # split, not two slices: its backward is one cat, that of a slice fills the whole with zeros.
        text, video = tokens.split([num_text, tokens.shape[1] - num_text], dim=1)
        return video, text


class VideoFirst(JointSequence):
    """Text behind the video (HunyuanVideo, Mochi)."""

    def _join(self, video: Tensor, text: Tensor) -> Tensor:
        return torch.cat([video, text], dim=1)

    def _split(self, tokens: Tensor, num_text: int) -> tuple[Tensor, Tensor]:
        video, text = tokens.split([tokens.shape[1] - num_text, num_text], dim=1)
        return video, text


class TextLevel(Protocol):
    """Which noise level the text tokens of a joint sequence take, when each frame has one of its own."""

    def __call__(self, level: Tensor) -> Tensor:
        """Level vectors of the frames (B, F, D) -> (B, 1, D)."""
        ...


class MeanOfFrames:
    """The mean over the frames: text belongs to all of them."""

    def __call__(self, level: Tensor) -> Tensor:
        return level.mean(dim=1, keepdim=True)


class LastFrame:
    """The last frame's, which no image is given for (HunyuanVideo's image-to-video)."""

    def __call__(self, level: Tensor) -> Tensor:
        return level[:, -1:]


@dataclass(frozen=True, eq=False)
class TextTokens:
    """Text as the network reads it; B is K where clips are packed.

    stream: (B, L, any), tokens that pass through the blocks with the video. cross: (B, L, cross_width), tokens that
    cross-attention reads. mask: (B, L) bool, which of them are real (None: all). image: (B, M, any), tokens of an image
    that cross-attention reads beside. vector: (B, level_width), added to the level vectors.
    """

    stream: Tensor | None = None
    cross: Tensor | None = None
    mask: Tensor | None = None
    image: Tensor | None = None
    vector: Tensor | None = None


def side_by_side(clips: Sequence[TextTokens]) -> TextTokens:
    """Texts of one clip each, with equal numbers of tokens, as one of K rows."""
    parts = {each.name: [getattr(clip, each.name) for clip in clips] for each in fields(TextTokens)}
    return TextTokens(**{name: None if own[0] is None else torch.cat(own) for name, own in parts.items()})
