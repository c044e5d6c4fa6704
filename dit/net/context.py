"""What travels through the blocks beside the tokens, and how text tokens join the sequence."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from dit.net.embed import Grid
from dit.net.kernels.masks import KeyPadding
from dit.net.position.rotary import Rotation


class Sequence(ABC):
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


class TextFirst(Sequence):
    """Text in front of the video (CogVideoX)."""

    def _join(self, video: Tensor, text: Tensor) -> Tensor:
        return torch.cat([text, video], dim=1)

    def _split(self, tokens: Tensor, num_text: int) -> tuple[Tensor, Tensor]:
        # split, not two slices: its backward is one cat, that of a slice fills the whole with zeros.
        text, video = tokens.split([num_text, tokens.shape[1] - num_text], dim=1)
        return video, text


class VideoFirst(Sequence):
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
    """Text as the network reads it.

    stream: (B, L, any), tokens that pass through the blocks with the video; context: (B, L, context_width), tokens that
    cross-attention reads; keep: (B, L) bool, which of them are real (None: all); image: (B, M, any), tokens of an image
    that cross-attention reads beside; vector: (B, level_width), added to the level vectors.
    """

    stream: Tensor | None = None
    context: Tensor | None = None
    keep: Tensor | None = None
    image: Tensor | None = None
    vector: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Context:
    """What all blocks of one forward pass share.

    grid: tokens along (f, h, w).
    modulation: (B, G, any), what the blocks' modulation heads read.
    run_of_token: (N + L,) int64, which of the G vectors a token takes; None: the sequence is G equal runs.
    rotation: of the joint sequence. video_rotation: of the video tokens alone.
    offset: (1, N, width), positions that every block adds to its video tokens (None: there are none).
    text, text_mask: (B, L, context_width) for cross-attention, and its padding.
    image: (B, M, any), tokens of an image for cross-attention.
    sequence, num_text: the order of the joint sequence and its text tokens (0: there is no text stream).
    text_keep: (B, L) bool, the real tokens of the text (None: all).
    mask: the padding of the joint sequence, for attention among all its tokens.
    """

    grid: Grid
    modulation: Tensor
    run_of_token: Tensor | None
    rotation: Rotation | None
    offset: Tensor | None
    text: Tensor | None
    text_mask: KeyPadding | None
    image: Tensor | None
    sequence: Sequence
    num_text: int
    text_keep: Tensor | None
    mask: KeyPadding | None
    video_rotation: Rotation | None = None

    @property
    def video_modulation(self) -> Tensor:
        """(B, 1 or frames of tokens, any), of the video tokens alone: equal runs, one after another."""
        return self.modulation if self.run_of_token is None else self.modulation[:, 1:]

    @property
    def text_modulation(self) -> Tensor:
        """(B, 1, any), of the text tokens of the joint sequence."""
        return self.modulation[:, :1]

    def placed(self, video: Tensor) -> Tensor:
        """video (B, N, width) -> the same with the positions that go into every block."""
        return video if self.offset is None else video + self.offset

    def vectors(self, head: nn.Module) -> tuple[Tensor, ...]:
        """The modulation vectors of a block, each (B, G, width), or (B, N + L, width) where runs are not equal."""
        vectors = head(self.modulation)
        if self.run_of_token is None:
            return vectors
        return tuple(vector.index_select(1, self.run_of_token) for vector in vectors)


def make_context(
    grid: Grid,
    modulation: Callable[[Tensor], Tensor],
    level: Tensor,
    rotation: Rotation | None,
    offset: Tensor | None,
    text: TextTokens,
    sequence: Sequence,
    text_level: TextLevel,
) -> Context:
    """The context of one forward pass. level: (B, G, level_width), G = 1 or frames of tokens.

    Text tokens of a joint sequence are not turned. With a level for each frame they take what `text_level` says.
    """
    num_text = 0 if text.stream is None else text.stream.shape[1]
    padding = None if text.keep is None else KeyPadding(text.keep)
    joint, run_of_token, video_rotation = None, None, rotation
    if num_text:
        tokens_per_frame = grid[1] * grid[2]
        if level.shape[1] > 1:
            frames = torch.arange(1, grid[0] + 1, device=level.device).repeat_interleave(tokens_per_frame)
            run_of_token = sequence.join(frames[None], frames.new_zeros(1, num_text))[0]
            level = torch.cat([text_level(level), level], dim=1)
        if rotation is not None:
            still = rotation.cos.new_ones(rotation.cos.shape[0], num_text, *rotation.cos.shape[2:])
            cos, sin = sequence.join(rotation.cos, still), sequence.join(rotation.sin, torch.zeros_like(still))
            rotation = Rotation(cos, sin, rotation.pairing)
        if text.keep is not None:
            video = text.keep.new_ones(text.keep.shape[0], grid[0] * tokens_per_frame)
            joint = KeyPadding(sequence.join(video, text.keep), never_empty=True)
    return Context(
        grid=grid,
        modulation=modulation(level),
        run_of_token=run_of_token,
        rotation=rotation,
        offset=offset,
        text=text.context,
        text_mask=padding if text.context is not None else None,
        image=text.image,
        sequence=sequence,
        num_text=num_text,
        text_keep=text.keep,
        mask=joint,
        video_rotation=video_rotation,
    )
