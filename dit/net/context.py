"""What all blocks of one forward pass share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import groupby, repeat
from typing import Protocol

import torch
from torch import Tensor, nn

from dit.net.coordinates import Coordinates
from dit.net.kernels.masks import ByCoordinates, KeyPadding, Mask, Packed
from dit.net.position.rotary import Rotation
from dit.net.sequence import JointSequence, TextLevel, TextTokens, one_of_frames


@dataclass(eq=False)
class Levels:
    """Level vectors, or what a modulation made of them, and which one each token takes.

    vectors: (B, G, any), or (K, G, any) of packed clips. run_of_token: (N,) int64, counted over all clips; None: the
    sequence is G equal runs, one after another. frames: of tokens, of each of several packed clips; None: there is one.
    packed: whether there are several. Compiled blocks ask this, not `frames`: that would be a graph for each set of
    clips.
    """

    vectors: Tensor
    run_of_token: Tensor | None
    frames: tuple[int, ...] | None
    packed: bool

    def of(self, head: nn.Module) -> tuple[Tensor, ...]:
        """What a modulation's head makes of the vectors, (B, G, width) for G equal runs or (B, N, width) each."""
        made = head(self.vectors)
        if self.packed:
            made = tuple(vector.flatten(0, 1).unsqueeze(0) for vector in made)
        if self.run_of_token is None:
            return made
        return tuple(vector.index_select(1, self.run_of_token) for vector in made)

    def one(self, choose: TextLevel) -> Levels:
        """All tokens of a clip take the same vector, which is chosen among those of its frames."""
        run = None
        if self.frames is not None and self.run_of_token is not None:
            run = self.run_of_token // self.vectors.shape[1]  # the clip
        return replace(self, vectors=one_of_frames(self.vectors, choose, self.frames), run_of_token=run)


class MoreKeys(Protocol):
    """Keys and values that self-attention reads beside the sequence's own: of other ranks, or of frames before.

    coordinates: of all video keys, in the order in which they come back.
    """

    coordinates: Coordinates

    def __call__(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Keys, rotated, and values of the sequence's own video tokens (B, N, heads, head_dim) -> all of them."""
        ...


@dataclass(eq=False)  # not frozen, as `Coordinates`
class Context:
    """What all blocks of one forward pass share. A runner may give blocks another one (`reading`).

    coordinates: of the video tokens.
    levels, video_levels, text_levels: for the modulation heads of the joint sequence and of either stream.
    rotation, video_rotation: of the joint sequence, and of the video tokens alone.
    offset: (1, N, width), positions that every block adds to its video tokens (None: there are none).
    text: as it was read; of packed clips in one row.
    cross_mask, image_mask: which of `text.cross` and `text.image` the video tokens may read (None: all).
    sequence, num_text: the order of the joint sequence and its text tokens (0: there is no text stream).
    joint_mask: the padding of the joint sequence of one clip, for attention among all its tokens (None: there is none).
    more_keys: what self-attention reads beside the sequence's own tokens (None: nothing).
    """

    coordinates: Coordinates
    levels: Levels
    video_levels: Levels
    text_levels: Levels
    rotation: Rotation | None
    video_rotation: Rotation | None
    offset: Tensor | None
    text: TextTokens
    cross_mask: Mask | None
    image_mask: Mask | None
    sequence: JointSequence
    num_text: int
    joint_mask: Mask | None
    more_keys: MoreKeys | None = None
    masks: dict[str, Mask | None] = field(default_factory=dict)  # of layouts, made when first asked for
    grids: list[Context] = field(default_factory=list)  # of packed clips, made when first asked for

    @property
    def device(self) -> torch.device:
        return self.levels.vectors.device

    def reading(self, more_keys: MoreKeys) -> Context:
        """The same with more keys for self-attention."""
        return replace(self, more_keys=more_keys, masks={})

    def placed(self, video: Tensor) -> Tensor:
        """video (B, N, width) -> the same with the positions that go into every block."""
        return video if self.offset is None else video + self.offset

    def by_grid(self) -> tuple[list[int], list[Context]]:
        """Packed whole clips as batches, those of one grid that stand side by side: how many, and what a layout asks of
        such a batch. Made once."""
        alike = [(grid, len(list(clips))) for grid, clips in groupby(self.coordinates.grids)]
        counts = [count for _, count in alike]
        if not self.grids:
            num_clips = self.coordinates.num_clips
            num_text, all_text = self.num_text // num_clips, self.text.mask
            masks = repeat(None) if all_text is None else all_text.view(num_clips, -1).split(counts)  # (n, L) each
            for (grid, _), mask in zip(alike, masks, strict=False):
                clip, text = Coordinates.of_clip(grid), replace(self.text, mask=mask)
                padding = joint_mask(clip, self.sequence, num_text, mask)
                own = replace(
                    self, coordinates=clip, text=text, joint_mask=padding, num_text=num_text, masks={}, grids=[]
                )
                self.grids.append(own)
        return counts, self.grids


def make_context(
    coordinates: Coordinates,
    modulation: Callable[[Tensor], Tensor],
    vectors: Tensor,
    rotation: Rotation | None,
    offset: Tensor | None,
    text: TextTokens,
    sequence: JointSequence,
    text_level: TextLevel,
) -> Context:
    """The context of one forward pass. vectors: of the levels, (B or K, G, level_width), G = 1 or frames of tokens.

    Text tokens of a joint sequence are not rotated. With a level for each frame they take the one of `text_level`.
    """
    packed, frames, device = coordinates.num_clips > 1, coordinates.frames, vectors.device
    cross_mask = read_mask(coordinates, text.cross, text.mask)
    image_mask = read_mask(coordinates, text.image, None)
    text = flat(text) if packed else text
    num_text = 0 if text.stream is None else text.stream.shape[1]
    runs, others = vectors.shape[1], 0
    gathered = coordinates.table is not None and (packed or runs > 1)
    run = coordinates.run_of_token(runs, device) if gathered else None
    video_rotation, joint_run = rotation, run
    if num_text:
        if runs > 1:
            vectors, others = torch.cat([one_of_frames(vectors, text_level, frames), vectors], dim=1), 1
        if runs > 1 or packed:
            video = coordinates.run_of_token(runs, device, others)
            clip = clip_of_text(coordinates.num_clips, num_text, device)
            joint_run = sequence.join(video[None], (clip * (others + runs))[None])[0]
        if rotation is not None:
            ones = rotation.cos.new_ones(rotation.cos.shape[0], num_text, *rotation.cos.shape[2:])
            cos, sin = sequence.join(rotation.cos, ones), sequence.join(rotation.sin, torch.zeros_like(ones))
            rotation = Rotation(cos, sin, rotation.pairing)
    made = modulation(vectors)
    return Context(
        coordinates=coordinates,
        levels=Levels(made, joint_run, frames, packed),
        video_levels=Levels(made[:, others:], run, frames, packed),
        text_levels=Levels(made[:, :1], None, frames, packed),
        rotation=rotation,
        video_rotation=video_rotation,
        offset=offset,
        text=text,
        cross_mask=cross_mask,
        image_mask=image_mask,
        sequence=sequence,
        num_text=num_text,
        joint_mask=None if packed else joint_mask(coordinates, sequence, num_text, text.mask),
    )


def real_tokens(video: Coordinates, sequence: JointSequence, num_text: int, mask: Tensor | None) -> Tensor | None:
    """(B, N + L) bool: which tokens of a joint sequence are no padding (None: all), for the mask of its text (B, L)."""
    if mask is None or not num_text:
        return None
    return sequence.join(mask.new_ones(len(mask), video.num_tokens), mask)


def joint_mask(video: Coordinates, sequence: JointSequence, num_text: int, mask: Tensor | None) -> Mask | None:
    """For attention among all tokens of one clip, or of each of several whole ones. Arguments as in `real_tokens`."""
    real = real_tokens(video, sequence, num_text, mask)
    if video.num_clips == 1:
        return None if real is None else KeyPadding(real, never_empty=True)
    assert video.lengths is not None  # they are whole
    text = (num_text // video.num_clips,) * video.num_clips
    parts = (video.lengths, text) if num_text else (video.lengths,)
    parts = parts[::-1] if sequence.text_first else parts
    return Packed(parts, parts, real, never_empty=True)


def flat(text: TextTokens) -> TextTokens:
    """Text of K packed clips as one row, in the clips' order: (K, L, ...) -> (1, K * L, ...)."""
    parts = {name: getattr(text, name) for name in ("stream", "cross", "mask", "image")}
    return replace(text, **{name: None if x is None else x.flatten(0, 1)[None] for name, x in parts.items()})


def clip_of_text(num_clips: int, num_text: int, device: torch.device) -> Tensor:
    """(num_text,) int64: the clip of each text token."""
    return torch.arange(num_clips, device=device).repeat_interleave(num_text // num_clips)


def read_mask(coordinates: Coordinates, tokens: Tensor | None, real: Tensor | None) -> Mask | None:
    """What the video tokens may read of tokens (B or K, L, any). real: (B or K, L) bool, which are no padding."""
    if tokens is None:
        return None
    if coordinates.num_clips == 1:
        return None if real is None else KeyPadding(real)
    clips, length = tokens.shape[:2]
    real = None if real is None else real.flatten()[None]
    if coordinates.lengths is not None:
        return Packed.of(coordinates.lengths, (length,) * clips, real)
    query, key = coordinates.rows(tokens.device)[:, 0], clip_of_text(clips, clips * length, tokens.device)
    return ByCoordinates.of_clips(query, key, real)
