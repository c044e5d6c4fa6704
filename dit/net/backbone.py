"""The one backbone: a video diffusion transformer made of parts. Every published one is a config of it."""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from math import prod
from typing import Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from dit.config.limits import Count, Natural
from dit.config.pattern import spelled
from dit.net.attention import Parts
from dit.net.blocks import Block
from dit.net.context import make_context
from dit.net.coordinates import Coordinates
from dit.net.embed import ClassEmbedding, LevelVector
from dit.net.init import MuP
from dit.net.kernels.base import Kernel
from dit.net.layout import Layout
from dit.net.modulation import Modulation
from dit.net.patches import Grid, nearest, patchify, token_grid, unpatchify
from dit.net.position.base import Compression, Position
from dit.net.reads import Reads, required, union
from dit.net.runner import Runner, skipping
from dit.net.sequence import NoiseLevels, TextTokens
from dit.net.text import Text
from dit.net.text_reuse import TextReuse

# cond["padding"] (B, 1, F, H, W) is 1 where a picture is only there to fill the grid; absent, that is nowhere.
PADDING = "padding"


class Backbone(nn.Module):
    """net(x, t, cond) -> out: x and out (B, channels, F, H, W), t (B, 1) or (B, F), cond as in docs/architecture.md.

    Sizes
      in_channels, out_channels: of x and of the output.
      concat_channels: key of cond -> its channels, which are put behind those of x before patchifying ({given: 1});
        null leaves them out.
      width, depth, heads: of the blocks. patch: latents of a token along (f, h, w).
      level_width: of the level vectors, by most models the width.
      pattern: one letter a block, which names an entry of `templates`; a number behind it says how often. The whole is
        repeated to `depth`: `F` is all alike, `ST` alternates, `D20P40` is 20 times D, then 40 times P.
      templates: letter -> constructor of a block, called with (parts, occurrence).
      text_width: of cond["text"]; only a network with text reads it.
    Parts: constructors that the backbone calls with the arguments in parentheses
      embed (features, width): of the patches. position (width, head_dim). modulation (width, level_width). norm (dim).
      attention (parts, layout). qk_norm (heads, head_dim). mlp (width). text (text_width, width). level (level_width):
      embeds the noise level. final (width, features, modulation). vectors: key of cond -> constructor (level_width) of
      what embeds it (labels, pooled text, fps), null for none; these embeddings are added to that of the noise level.
    Objects
      init(net): sets the weights. kernel: computes attention. checkpointing: runs the blocks and decides which
      activations are kept (`dit/net/runner.py`); it becomes the attribute `runner`. family: the class of diffusers to
      which this network can be exported (`dit/interop`), or null; it changes nothing that is computed.

    Noise levels: with t (B, 1) all tokens of a sample have the same modulation. With t (B, F) each token takes the
    level of its frame; a token that spans several latent frames takes the mean of their level embeddings.

    Raises ValueError for sizes that do not fit one another, naming the nearest ones that do.
    """

    def __init__(
        self,
        in_channels: Count,
        out_channels: Count,
        concat_channels: dict[str, Count | None],
        width: Count,
        level_width: Count,
        depth: Count,
        heads: Count,
        patch: tuple[Count, Count, Count],
        pattern: str,
        templates: dict[str, Callable[[Parts, int], Block]],
        text_width: Natural,
        embed: Callable[[int, int], nn.Module],
        position: Callable[[int, int], Position],
        modulation: Callable[[int, int], Modulation],
        norm: Callable[[int], nn.Module],
        attention: Callable[[Parts, Layout], nn.Module],
        qk_norm: Callable[[int, int], nn.Module],
        mlp: Callable[[int], nn.Module],
        text: Callable[[int, int], Text],
        vectors: dict[str, Callable[[int], nn.Module] | None],
        level: Callable[[int], nn.Module],
        final: Callable[[int, int, Modulation], nn.Module],
        init: Callable[[nn.Module], None],
        kernel: Kernel,
        checkpointing: Runner,
        family: str | None = None,
    ) -> None:
        given = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        super().__init__()
        if width % heads:
            raise ValueError(f"width={width} is not a multiple of heads={heads}; nearest: {nearest(width, heads)}")
        self.in_channels, self.out_channels = in_channels, out_channels
        self.concat_channels = {name: channels for name, channels in concat_channels.items() if channels is not None}
        self.width, self.depth, self.heads = width, depth, heads
        self.patch: Grid = (patch[0], patch[1], patch[2])
        self.init, self.runner, self.family = init, checkpointing, family
        volume = patch[0] * patch[1] * patch[2]

        self.embed = embed((in_channels + sum(self.concat_channels.values())) * volume, width)
        self.position = position(width, width // heads)
        self.level = level(level_width)
        self.vectors = nn.ModuleDict({key: part(level_width) for key, part in vectors.items() if part is not None})
        self.text = text(text_width, width)
        if self.text.vector_width not in (None, level_width):
            raise ValueError(f"level_width={level_width} must be {width}, the width of this text's vector")
        self.modulation = modulation(width, level_width)
        parts = Parts(
            width=width,
            heads=heads,
            norm=norm,
            mlp=mlp,
            attention=attention,
            qk_norm=qk_norm,
            cross_attention=self.text.cross_attention,
            cross_width=self.text.cross_width,
            stream_width=self.text.stream_width,
            modulation=self.modulation,
            kernel=kernel,
        )
        self.blocks = nn.ModuleList()
        occurrences: Counter[str] = Counter()
        for letter in spelled(pattern, depth, templates):
            self.blocks.append(templates[letter](parts, occurrences[letter]))
            occurrences[letter] += 1
        self.final = final(width, out_channels * volume, self.modulation)
        if isinstance(init, MuP):

            def make(width: int, heads: int, level_width: int) -> Backbone:
                sizes = {"width": width, "heads": heads, "level_width": level_width}
                return Backbone(**{**given, **sizes, "init": lambda net: None})

            init.compare(self, width, heads, level_width, make)
        self.init_weights()

    def on_latents(self, compression: Compression) -> Self:
        """Says which pixels the latents stand for, to the parts that may need it: positions in seconds, and vectors of
        what is told of each frame of pixels."""
        self.position.on_latents(compression, self.patch)
        for part in self.vectors.values():
            if isinstance(part, LevelVector):
                part.on_latents(compression)
        return self

    def init_weights(self) -> None:
        """Sets all weights anew; needed once more after building on the meta device and `to_empty`."""
        self.init(self)

    @property
    def num_classes(self) -> int | None:
        """Classes that cond["label"] names, itself the number of "no class"; None: this network reads no labels."""
        return cast(ClassEmbedding, self.vectors["label"]).num_classes if "label" in self.vectors else None

    @property
    def reads(self) -> Reads:
        """The keys of `cond` that parts of this network read."""
        channels = Reads(tuple(name for name in self.concat_channels if name != PADDING), (PADDING,))
        own = channels if PADDING in self.concat_channels else Reads(channels.required)
        return union([self.text, self.position, self.modulation], Reads(tuple(self.vectors)), own)

    def skipping(self, blocks: Collection[int]) -> AbstractContextManager[None]:
        """Within: the network is without these blocks, counted from 0."""
        return skipping(self, blocks)

    def text_reuse(self) -> TextReuse:
        """Within it: what depends on the text alone is made once, for a sampler that keeps its text."""
        return TextReuse(self)

    def num_tokens(self, frames: int, height: int, width: int) -> int:
        """Video tokens of latents (frames, height, width). Raises ValueError when the patch does not divide them."""
        f, h, w = token_grid(self.patch, frames, height, width)
        return f * h * w

    def forward(
        self, x: Tensor, t: Tensor, cond: Mapping[str, Tensor], coordinates: Coordinates | None = None
    ) -> Tensor:
        """x (B, in_channels, F, H, W), t (B, 1) or (B, F), cond -> (B, out_channels, F, H, W).

        coordinates: of the tokens, where they are not those of a whole clip from frame 0 on. x may then be tokens of
        any sequence, (B, N, C f h w) as `patches` cuts them, and the output is (B, N, f h w out), for `unpatchify`. A
        sequence of K packed clips is one row, and t and cond have K.
        """
        is_video = x.dim() == 5
        if is_video:
            coordinates = coordinates or Coordinates.of_clip(token_grid(self.patch, *x.shape[2:]))
            x = self.patches(x, cond)  # (B, N, C f h w)
        coordinates = fitting(coordinates, x, t)
        levels = NoiseLevels(t, self.patch[0], coordinates)
        text = self.read_text(cond, levels)  # (B, L, D): what passes through the blocks, and what they read
        vectors = self.level_vectors(levels, cond, text.vector)  # (B, G, D), G = 1 or frames of tokens
        rotation = self.position.rotation(coordinates, x, cond)  # cos, sin (1 or B, N, 1 or heads, D / heads)
        offset = self.position.offset(coordinates, x)  # (1, N, D) or None
        modulation = partial(self.modulation, cond=cond)
        context = make_context(
            coordinates, modulation, vectors, rotation, offset, text, self.text.sequence, self.text.level
        )

        x = self.position.add(self.embed(x), coordinates)  # (B, N, D)
        x, _ = self.runner(dict(enumerate(self.blocks)), (x, context.text.stream), context)  # (B, N, D), (B, L, D)
        x = self.final(x, replace(context.video_levels, vectors=vectors))  # (B, N, f h w out)
        return unpatchify(x, self.patch, coordinates.grids[0]) if is_video else x  # (B, out, F, H, W)

    def of_groups(
        self,
        xs: Sequence[Tensor],
        ts: Sequence[Tensor],
        cond: Mapping[str, Tensor],
        channels: Sequence[Mapping[str, Tensor]],
    ) -> list[Tensor]:
        """Clips of several shapes as one sequence (NaViT, arXiv 2307.06304): the outputs are those of each clip alone.

        xs, ts: of each group of n clips of one shape, (n, in_channels, F, H, W) and (n, 1) or (n, F). cond: a row for
        each clip, group by group. channels: of each group, what `concat_channels` names, (n, any, F, H, W).
        Returns (n, out_channels, F, H, W) of each group.
        """
        if len(xs) == 1:
            return [self(xs[0], ts[0], {**cond, **channels[0]})]
        grids = [token_grid(self.patch, *x.shape[2:]) for x in xs]
        counts = [len(x) * prod(grid) for x, grid in zip(xs, grids, strict=True)]
        tokens = [self.patches(x, own).flatten(0, 1) for x, own in zip(xs, channels, strict=True)]  # (n N, C f h w)
        where = Coordinates.packed([grid for x, grid in zip(xs, grids, strict=True) for _ in x], xs[0].device)
        levels = stacked_levels(ts, [x.shape[2] for x in xs])
        out = self(torch.cat(tokens)[None], levels, cond, where)  # (1, all N, f h w out)
        parts = zip(xs, grids, out[0].split(counts), strict=True)
        return [unpatchify(part.unflatten(0, (len(x), -1)), self.patch, grid) for x, grid, part in parts]

    def patches(self, x: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """x (B, in_channels, F, H, W), with the channels that cond brings -> tokens (B, N, C f h w), frame by frame."""
        return patchify(self.with_channels(x, cond), self.patch)

    def read_text(self, cond: Mapping[str, Tensor], levels: NoiseLevels) -> TextTokens:
        """The text as the blocks read it. `text_reuse` replaces this method while a sampler keeps its text."""
        return self.text(cond, levels)

    def level_vectors(self, levels: NoiseLevels, cond: Mapping[str, Tensor], vector: Tensor | None) -> Tensor:
        """Noise levels (B, 1) or (B, F) -> (B, 1 or F / f, level_width). `vector` (B, level_width) and `vectors` are
        added; one of them may have a value for each frame where the noise levels have not."""
        vectors = self.level(levels.t)  # (B, 1 or F, D)
        for key, embed in self.vectors.items():
            value = required(cond, key, f"; net/{key}=none is without it")
            vectors = vectors + cast(LevelVector, embed).at(value, levels.t)
        vectors = levels.of_tokens(vectors)
        return vectors if vector is None else vectors + vector.unsqueeze(1)

    def with_channels(self, x: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """x (B, C, F, H, W) with the channels of `concat_channels` behind its own."""
        if x.shape[1] != self.in_channels:
            raise ValueError(f"x has {x.shape[1]} channels; this network has in_channels={self.in_channels}")
        if not self.concat_channels:
            return x
        extra = [
            x.new_zeros(x.shape[0], 1, *x.shape[2:]) if name == PADDING and name not in cond else required(cond, name)
            for name in self.concat_channels
        ]
        for (name, channels), tensor in zip(self.concat_channels.items(), extra, strict=True):
            if tensor.shape[1] != channels:
                raise ValueError(f"cond[{name!r}] has {tensor.shape[1]} channels; concat_channels says {channels}")
        return torch.cat([x, *(tensor.to(x.dtype) for tensor in extra)], dim=1)


def stacked_levels(ts: Sequence[Tensor], frames: Sequence[int]) -> Tensor:
    """Levels of groups of clips, (n, 1) or (n, F) each, as those of all clips: (K, 1), or (K, frames of the longest).

    frames: of each group. What stands behind the last frame of a shorter clip is read by no token.
    """
    if all(t.shape[1] == 1 for t in ts):
        return torch.cat(list(ts))
    longest = max(frames)
    rows = [functional.pad(t.expand(-1, own), (0, longest - own)) for t, own in zip(ts, frames, strict=True)]
    return torch.cat(rows)


def fitting(coordinates: Coordinates | None, x: Tensor, t: Tensor) -> Coordinates:
    """The coordinates of tokens x (B, N, any). Raises ValueError where there are none, or of another sequence."""
    if coordinates is None:
        raise ValueError(f"x {tuple(x.shape)} is a sequence of tokens: `coordinates` must say where they are")
    if x.shape[1] != coordinates.num_tokens:
        raise ValueError(f"x has {x.shape[1]} tokens, and `coordinates` are of {coordinates.num_tokens}")
    if coordinates.num_clips > 1 and (len(x), len(t)) != (1, coordinates.num_clips):
        raise ValueError(
            f"x has {len(x)} rows and t {len(t)}; {coordinates.num_clips} packed clips are 1 row, with a level for each"
        )
    return coordinates
