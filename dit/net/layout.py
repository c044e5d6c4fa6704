"""Which tokens attend to one another: all, those of a frame, of a row and column, or of a window, or all earlier ones.

For one whole clip, a layout regroups queries, keys and values, each (B, N, heads, head_dim), calls the kernel and
undoes the regrouping; so it does for packed whole clips, for all that stand side by side and have one grid together.
For any other sequence (`Coordinates`) it makes a mask from the coordinates for the kernel.
Text tokens of a joint sequence attend to everything in their clip, and every group of the clip attends to them.
"""

from abc import ABC, abstractmethod
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from dit.net.context import Context, SameGrid, clip_of_text
from dit.net.coordinates import Coordinates
from dit.net.kernels.base import Kernel
from dit.net.kernels.masks import ByCoordinates, KeyPadding, Mask, Packed, Spans
from dit.net.patches import Grid

MOST = 2**20  # numbers along an axis

MOST_BLOCKS, MOST_NUMBERS = 2**16 - 1, 2**31 - 1  # of a CUDA grid's second axis; of an index


class Layout(ABC):
    """Base of the layouts. reads_all: every token attends to all others of its clip."""

    reads_all = False

    def __call__(self, kernel: Kernel, q: Tensor, k: Tensor, v: Tensor, context: Context) -> Tensor:
        """q, k, v (B, N, heads, head_dim) -> (B, N, heads, head_dim)."""
        coordinates = context.coordinates
        if context.more_keys is None and context.levels.packed:
            return self.of_pack(kernel, q, k, v, context)
        if coordinates.grid is not None and context.more_keys is None and coordinates.first[0] % self.period == 0:
            return self.of_grid(kernel, q, k, v, context)
        if context.more_keys is not None:
            (k, text_k), (v, text_v) = (context.sequence.split(each, context.num_text) for each in (k, v))
            k, v = context.more_keys(k, v)
            k, v = context.sequence.join(k, text_k), context.sequence.join(v, text_v)
        return attend(kernel, q, k, v, self.mask(context))

    @abstractmethod
    def of_grid(self, kernel: Kernel, q: Tensor, k: Tensor, v: Tensor, context: Context) -> Tensor:
        """As the call, for one whole clip whose first frame is a multiple of `period`."""

    # A graph break in place of a trace: with the lengths of the clips a graph would be of one set of clips alone.
    @torch.compiler.disable
    def of_pack(self, kernel: Kernel, q: Tensor, k: Tensor, v: Tensor, context: Context) -> Tensor:
        """As the call, for several clips in one sequence."""
        whole = context.coordinates.lengths is not None
        if self.reads_all or not whole or any(first % self.period for first in context.coordinates.first):
            return attend(kernel, q, k, v, self.mask(context))
        batches = context.alike()
        streams = [context.sequence.split(each, context.num_text) for each in (q, k, v)]
        videos = [batched(video, [batch.clips * batch.tokens for batch in batches], batches) for video, _ in streams]
        text = context.num_text // context.coordinates.num_clips
        texts = [
            [None] * len(batches) if own is None else batched(own, [batch.clips * text for batch in batches], batches)
            for _, own in streams
        ]
        made: list[tuple[Tensor, Tensor | None]] = []
        for i, (_, _, own) in enumerate(batches):
            q, k, v = (own.sequence.join(video[i], each[i]) for video, each in zip(videos, texts, strict=True))
            made.append(own.sequence.split(self.of_grid(kernel, q, k, v, own), text))
        video = torch.cat([each.flatten(0, 1) for each, _ in made])[None]
        read = [each.flatten(0, 1) for _, each in made if each is not None]
        return context.sequence.join(video, torch.cat(read)[None] if read else None)

    @property
    def period(self) -> int:
        """Frames of tokens after which the layout repeats."""
        return 1

    def mask(self, context: Context) -> Mask | None:
        """Which keys the tokens of the joint sequence may attend to, by their coordinates.

        Made once: blocks of the same layout share it, and with it what a kernel makes of it.
        """
        name = repr(self)
        if name not in context.masks:
            context.masks[name] = self._mask(context)
        return context.masks[name]

    def _mask(self, context: Context) -> Mask | None:
        keys = context.coordinates if context.more_keys is None else context.more_keys.coordinates
        real = None
        if context.num_text and context.text.mask is not None:
            video = context.text.mask.new_ones(len(context.text.mask), keys.num_tokens)
            real = context.sequence.join(video, context.text.mask)
        if self.reads_all and keys.num_clips == 1:
            return None if real is None else KeyPadding(real, never_empty=True)
        if self.reads_all and keys.lengths is not None and context.more_keys is None:
            text = (context.num_text // keys.num_clips,) * keys.num_clips
            parts = (keys.lengths,) if not context.num_text else (keys.lengths, text)
            parts = parts[::-1] if context.sequence.text_first else parts
            return Packed(parts, parts, real, never_empty=True)
        query, key = (self._joint_members(each, context) for each in (context.coordinates, keys))
        return ByCoordinates(query, key, real)

    def _joint_members(self, coordinates: Coordinates, context: Context) -> Tensor:
        """(3, N + L): `members`, and the text tokens, which belong to all groups of their clip."""
        video = self.members(coordinates, context.device)
        if not context.num_text:
            return video
        clip = clip_of_text(coordinates.num_clips, context.num_text, context.device)
        text = torch.stack([clip, torch.full_like(clip, ByCoordinates.ANY), torch.zeros_like(clip)])
        return context.sequence.join(video, text)

    def members(self, coordinates: Coordinates, device: torch.device) -> Tensor:
        """Clip, group and step of each token, (3, N) int64: see `masks.ByCoordinates`."""
        rows = coordinates.rows(device)
        return torch.stack([rows[:, 0], self.group_of(coordinates, rows), self.step_of(rows)])

    def group_of(self, coordinates: Coordinates, rows: Tensor) -> Tensor:
        """(N,) int64, for rows (N, 4) of a table: tokens with equal numbers attend to one another."""
        return torch.zeros_like(rows[:, 0])

    def step_of(self, rows: Tensor) -> Tensor:
        """(N,) int64: tokens attend to those of their own number and of smaller ones."""
        return torch.zeros_like(rows[:, 0])

    def __repr__(self) -> str:
        """The same for layouts that are the same. torch.compile traces it: so it names no attribute by itself."""
        return f"{type(self).__name__}{self.settings}"

    @property
    def settings(self) -> tuple[object, ...]:
        """What tells it from others of its class."""
        return ()

    def at(self, occurrence: int) -> "Layout":
        """The layout of the block that is the `occurrence`-th of its letter in the pattern, from 0."""
        return self


class Full(Layout):
    """Every token attends to every token."""

    reads_all = True

    def of_grid(self, kernel: Kernel, q: Tensor, k: Tensor, v: Tensor, context: Context) -> Tensor:
        return attend(kernel, q, k, v, context.joint_mask)


class BlockCausal(Layout):
    """A token attends to those of its own block of frames and of all blocks before (SkyReels-V2, arXiv 2504.13074).

    block: frames of tokens in a block; the last block of a video may be shorter. 1 is causal frame by frame.
    """

    def __init__(self, block: int) -> None:
        if block < 1:
            raise ValueError(f"block={block} frames of a block-causal layout must be at least 1")
        self.block = block

    @property
    def settings(self) -> tuple[object, ...]:
        return (self.block,)

    @property
    def period(self) -> int:
        return self.block

    def step_of(self, rows: Tensor) -> Tensor:
        return rows[:, 1] // self.block

    def __call__(self, kernel: Kernel, q: Tensor, k: Tensor, v: Tensor, context: Context) -> Tensor:
        """Raises ValueError when text shares the sequence: it would carry later frames into earlier ones."""
        if context.num_text:
            raise ValueError(
                "block-causal attention cannot have text tokens in its sequence, which would carry later frames into"
                " earlier ones; choose net/text=cross, or a pattern without block-causal blocks"
            )
        return super().__call__(kernel, q, k, v, context)

    def of_grid(self, kernel: Kernel, q: Tensor, k: Tensor, v: Tensor, context: Context) -> Tensor:
        frames, height, width = context.coordinates.grids[0]
        mask = Spans.block_causal(frames, height * width, self.block) if self.block < frames else None
        return attend(kernel, q, k, v, mask)


class Grouped(Layout):
    """Base of the layouts that cut the video into groups which do not see one another."""

    @abstractmethod
    def group(self, x: Tensor, grid: Grid) -> Tensor:
        """(B, N, heads, head_dim) -> (B * groups, n, heads, head_dim), the groups of a sample one after another."""

    @abstractmethod
    def ungroup(self, x: Tensor, grid: Grid) -> Tensor:
        """(B * groups, n, heads, head_dim) -> (B, N, heads, head_dim)."""

    def held(self, grid: Grid, device: torch.device) -> Tensor | None:
        """(groups, n) bool, which entries of the groups hold a token; None: all."""
        return None

    def of_grid(self, kernel: Kernel, q: Tensor, k: Tensor, v: Tensor, context: Context) -> Tensor:
        video_q, text_q = context.sequence.split(q, context.num_text)
        video_k, text_k = context.sequence.split(k, context.num_text)
        video_v, text_v = context.sequence.split(v, context.num_text)
        grid = context.coordinates.grids[0]
        keys, values = self.group(video_k, grid), self.group(video_v, grid)
        real = self.held(grid, q.device)
        groups = keys.shape[0] // q.shape[0]
        real = None if real is None else real.repeat(q.shape[0], 1)  # (B * groups, n)
        text = None
        if text_q is not None and text_k is not None and text_v is not None:
            text = attend(kernel, text_q, k, v, context.joint_mask)  # (B, L, heads, head_dim)
            if real is not None or context.text.mask is not None:
                real = torch.cat(
                    [or_all(real, keys), or_all(context.text.mask, text_k).repeat_interleave(groups, 0)], 1
                )
            keys = torch.cat([keys, text_k.repeat_interleave(groups, 0)], dim=1)
            values = torch.cat([values, text_v.repeat_interleave(groups, 0)], dim=1)
        mask = None if real is None else KeyPadding(real)
        video = attend(kernel, self.group(video_q, grid), keys, values, mask)
        return context.sequence.join(self.ungroup(video, grid), text)


class Spatial(Grouped):
    """A token attends to those of its own frame."""

    def group_of(self, coordinates: Coordinates, rows: Tensor) -> Tensor:
        return rows[:, 1]

    def group(self, x: Tensor, grid: Grid) -> Tensor:
        return x.unflatten(1, (grid[0], -1)).flatten(0, 1)  # (B F, H W, heads, head_dim), a view

    def ungroup(self, x: Tensor, grid: Grid) -> Tensor:
        return x.unflatten(0, (-1, grid[0])).flatten(1, 2)


class Temporal(Grouped):
    """A token attends to those of its own row and column in all frames."""

    def group_of(self, coordinates: Coordinates, rows: Tensor) -> Tensor:
        return rows[:, 2] * MOST + rows[:, 3]

    def group(self, x: Tensor, grid: Grid) -> Tensor:
        return x.unflatten(1, (grid[0], -1)).transpose(1, 2).flatten(0, 1)  # (B H W, F, heads, head_dim)

    def ungroup(self, x: Tensor, grid: Grid) -> Tensor:
        return x.unflatten(0, (-1, grid[1] * grid[2])).transpose(1, 2).flatten(1, 2)


class Windowed(Grouped):
    """A token attends to those of its window; every other windowed block shifts its windows by half (arXiv 2103.14030).

    window: tokens of a window along (f, h, w); an axis that is shorter is one window. Windows that reach over the
    border are cut there: what is outside holds no token, and no window wraps around.
    """

    def __init__(self, window: list[int]) -> None:
        if len(window) != 3 or min(window) < 1:
            raise ValueError(f"window={window} must be three sizes along (f, h, w), each at least 1")
        self.window = tuple(window)
        self.shifted = False

    def at(self, occurrence: int) -> "Windowed":
        layout = Windowed(list(self.window))
        layout.shifted = occurrence % 2 == 1
        return layout

    @property
    def settings(self) -> tuple[object, ...]:
        return self.window, self.shifted

    @property
    def period(self) -> int:
        return self.window[0]

    def group_of(self, coordinates: Coordinates, rows: Tensor) -> Tensor:
        windows = torch.zeros_like(rows[:, 0])
        for i in range(3):
            size, shift = (coordinates.by_clip(partial(of, i), rows) for of in (self._size, self._shift))
            windows = windows * MOST + (rows[:, 1 + i] + shift) // size
        return windows

    def _size(self, i: int, grid: Grid) -> int:
        """Of a window along the i-th axis: one that is longer than the axis holds all of it, wherever it begins."""
        return self.window[i] if self.window[i] < grid[i] else MOST

    def _shift(self, i: int, grid: Grid) -> int:
        return self.window[i] // 2 if self.shifted and self.window[i] < grid[i] else 0

    def group(self, x: Tensor, grid: Grid) -> Tensor:
        return self._cut(x.unflatten(1, grid), grid).flatten(0, 1)

    def ungroup(self, x: Tensor, grid: Grid) -> Tensor:
        window, before, after = self._borders(grid)
        counts = [(b + n + a) // w for b, n, a, w in zip(before, grid, after, window, strict=True)]
        x = x.unflatten(1, window).unflatten(0, (-1, *counts))  # (B, nf, nh, nw, f, h, w, heads, head_dim)
        x = x.permute(0, 1, 4, 2, 5, 3, 6, 7, 8).flatten(5, 6).flatten(3, 4).flatten(1, 2)
        for axis, (start, length) in enumerate(zip(before, grid, strict=True), start=1):
            x = x.narrow(axis, start, length)
        return x.flatten(1, 3)

    def held(self, grid: Grid, device: torch.device) -> Tensor | None:
        _, before, after = self._borders(grid)
        if not any(before + after):
            return None
        inside = torch.ones(1, *grid, 1, 1, device=device)
        return self._cut(inside, grid)[0, :, :, 0, 0] > 0  # (groups, n)

    def _cut(self, x: Tensor, grid: Grid) -> Tensor:
        """(B, F, H, W, heads, head_dim) -> (B, groups, n, heads, head_dim)."""
        window, before, after = self._borders(grid)
        if any(before + after):
            (f, h, w), (end_f, end_h, end_w) = before, after
            x = functional.pad(x, (0, 0, 0, 0, w, end_w, h, end_h, f, end_f))
        for axis, size in zip((1, 3, 5), window, strict=True):
            x = x.unflatten(axis, (-1, size))  # (B, nf, f, nh, h, nw, w, heads, head_dim)
        return x.permute(0, 1, 3, 5, 2, 4, 6, 7, 8).flatten(4, 6).flatten(1, 3)

    def _borders(self, grid: Grid) -> tuple[Grid, Grid, Grid]:
        """Sizes of a window, and places without a token before and after the grid, along (f, h, w)."""
        window = tuple(min(w, n) for w, n in zip(self.window, grid, strict=True))
        before = tuple(self._shift(i, grid) for i in range(3))
        after = tuple(-(b + n) % w for b, n, w in zip(before, grid, window, strict=True))
        return window, before, after  # type: ignore[return-value]


def batched(x: Tensor, sizes: list[int], batches: list[SameGrid]) -> list[Tensor]:
    """Tokens of packed clips (1, N, heads, head_dim), of which each batch has one of `sizes` -> (clips, n, heads,
    head_dim) of each."""
    return [part.unflatten(1, (batch.clips, -1))[0] for part, batch in zip(x.split(sizes, 1), batches, strict=True)]


def attend(kernel: Kernel, q: Tensor, k: Tensor, v: Tensor, mask: Mask | None) -> Tensor:
    """The kernel on tensors (B, N, heads, head_dim), in several calls where one would have too many sequences."""
    if isinstance(mask, Packed) and torch.compiler.is_compiling():
        return _outside(kernel, q, k, v, mask)
    most = most_sequences(*q.shape[1:])
    if len(q) > most:
        parts = [slice(start, start + most) for start in range(0, len(q), most)]
        return torch.cat([attend(kernel, q[part], k[part], v[part], mask and mask.rows(part)) for part in parts])
    return kernel(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), mask).transpose(1, 2)


@torch.compiler.disable  # see `Layout.of_pack`
def _outside(kernel: Kernel, q: Tensor, k: Tensor, v: Tensor, mask: Mask) -> Tensor:
    return attend(kernel, q, k, v, mask)


def most_sequences(tokens: int, heads: int, head_dim: int) -> int:
    """How many sequences the flash kernels take in one call, at least 1. Past it a GPU says "invalid configuration
    argument" (sequences are blocks of a grid) or, in the backward pass, "illegal memory access" (its index has 32 bits,
    and counts queries in blocks of 128). Temporal attention of 16 clips of 32x32 tokens comes there."""
    padded = -(-tokens // 128) * 128 * -(-head_dim // 32) * 32
    return max(1, min(MOST_BLOCKS, MOST_NUMBERS // (heads * padded)))


def or_all(mask: Tensor | None, keys: Tensor) -> Tensor:
    """`mask`, or True for every key of keys (B, n, ...)."""
    return keys.new_ones(keys.shape[:2], dtype=torch.bool) if mask is None else mask
