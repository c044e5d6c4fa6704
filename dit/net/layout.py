"""Which tokens attend to one another: all, those of a frame, of a row and column, or of a window, or all earlier ones.

For one whole clip, a layout regroups queries, keys and values, each (B, N, heads, head_dim), calls the kernel and
undoes the regrouping; so it does for packed whole clips, for all that stand side by side and have one grid together.
For any other sequence (`Coordinates`) it makes a mask from the coordinates for the kernel.
Text tokens of a joint sequence attend to everything in their clip, and every group of the clip attends to them.
"""

import math
from abc import ABC, abstractmethod
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from dit.net.context import Context, clip_of_text, joint_mask, real_tokens
from dit.net.coordinates import Coordinates
from dit.net.kernels.base import Kernel
from dit.net.kernels.masks import ByCoordinates, KeyPadding, Mask, Packed
from dit.net.patches import Grid

MOST = 2**20  # numbers along an axis

MOST_BLOCKS, MOST_NUMBERS = 2**16 - 1, 2**31 - 1  # of a CUDA grid's second axis; of an index


class Layout(ABC):
    """Base of the layouts. reads_all: every token attends to all others of its clip."""

    reads_all = False

    def __call__(self, kernel: Kernel, q: Tensor, k: Tensor, v: Tensor, context: Context) -> Tensor:
        """q, k, v (B, N, heads, head_dim) -> (B, N, heads, head_dim)."""
        if context.more_keys is not None:
            (k, text_k), (v, text_v) = (context.sequence.split(each, context.num_text) for each in (k, v))
            k, v = context.more_keys(k, v)
            k, v = context.sequence.join(k, text_k), context.sequence.join(v, text_v)
        elif context.levels.packed:
            return self.of_pack(kernel, q, k, v, context)
        elif context.coordinates.grid is not None and self.repeats(context.coordinates):
            return self.of_grid(kernel, q, k, v, context)
        return attend(kernel, q, k, v, self.mask(context))

    @abstractmethod
    def of_grid(self, kernel: Kernel, q: Tensor, k: Tensor, v: Tensor, context: Context) -> Tensor:
        """As the call, for one whole clip in which the layout `repeats` what it is from frame 0 on."""

    # A graph break in place of a trace: with the lengths of the clips a graph would be of one set of clips alone.
    @torch.compiler.disable
    def of_pack(self, kernel: Kernel, q: Tensor, k: Tensor, v: Tensor, context: Context) -> Tensor:
        """As the call, for several clips in one sequence."""
        pack = Full().mask(context)
        if self.reads_all or not isinstance(pack, Packed) or not self.repeats(context.coordinates):
            return attend(kernel, q, k, v, self.mask(context))
        counts, contexts = context.by_grid()
        batches = zip(*(pack.batches(each, pack.query, counts) for each in (q, k, v)), contexts, strict=True)
        return pack.sequence([self.of_grid(kernel, *batch) for batch in batches], counts)

    def repeats(self, coordinates: Coordinates) -> bool:
        """Whether clips that begin at these frames have groups as those that begin at frame 0."""
        begins = zip(coordinates.first, coordinates.grids, strict=True)
        return not any(first % self.period(grid) for first, grid in begins)

    def period(self, grid: Grid) -> int:
        """Frames of tokens after which the groups of such a clip repeat."""
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
        if self.reads_all and (keys.num_clips == 1 or context.more_keys is None and keys.lengths is not None):
            return joint_mask(keys, context.sequence, context.num_text, context.text.mask)
        real = real_tokens(keys, context.sequence, context.num_text, context.text.mask)
        query, key = (self._members(each, context) for each in (context.coordinates, keys))
        return ByCoordinates(query, key, real)

    def _members(self, coordinates: Coordinates, context: Context) -> Tensor:
        """Clip, group and step of each token of the joint sequence, (3, N + L) int64: see `masks.ByCoordinates`. Text
        tokens belong to all groups of their clip."""
        rows = coordinates.rows(context.device)
        video = torch.stack([rows[:, 0], self.group_of(coordinates, rows), self.step_of(rows)])
        if not context.num_text:
            return video
        clip = clip_of_text(coordinates.num_clips, context.num_text, context.device)
        text = torch.stack([clip, torch.full_like(clip, ByCoordinates.ANY), torch.zeros_like(clip)])
        return context.sequence.join(video, text)

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

    def period(self, grid: Grid) -> int:
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
        """A call for each block of queries, without a mask: exact, no work on forbidden keys, and by flash kernels."""
        _, height, width = context.coordinates.grids[0]
        outputs, end = [], 0
        for queries in q.split(self.block * height * width, dim=1):
            end += queries.shape[1]
            outputs.append(attend(kernel, queries, k[:, :end], v[:, :end], None))
        return torch.cat(outputs, dim=1) if len(outputs) > 1 else outputs[0]


class Grouped(Layout):
    """Base of the layouts that cut the video into boxes of tokens which do not see one another.

    box: its tokens along (f, h, w); one that is longer than an axis holds all of it, wherever it begins. Boxes that
    reach over the border are cut there: what is outside holds no token, and no box wraps around. shifted: by half a
    box.
    """

    def __init__(self, box: Grid) -> None:
        self.box, self.shifted = box, False

    @property
    def settings(self) -> tuple[object, ...]:
        return self.box, self.shifted

    def period(self, grid: Grid) -> int:
        return self.box[0] if self.box[0] < grid[0] else 1

    def group_of(self, coordinates: Coordinates, rows: Tensor) -> Tensor:
        boxes = torch.zeros_like(rows[:, 0])
        for i in range(3):
            size, shift = (coordinates.by_clip(partial(of, i), rows) for of in (self._size, self._shift))
            boxes = boxes * MOST + (rows[:, 1 + i] + shift) // size
        return boxes

    def _size(self, i: int, grid: Grid) -> int:
        """Of a box along the i-th axis."""
        return self.box[i] if self.box[i] < grid[i] else MOST

    def _shift(self, i: int, grid: Grid) -> int:
        return self.box[i] // 2 if self.shifted and self.box[i] < grid[i] else 0

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

    def group(self, x: Tensor, grid: Grid) -> Tensor:
        """(B, N, heads, head_dim) -> (B * boxes, n, heads, head_dim), the boxes of a sample one after another."""
        counts, sizes, before, after = self._cut(grid)
        if any(before + after):
            (f, h, w), (end_f, end_h, end_w) = before, after
            x = functional.pad(x.unflatten(1, grid), (0, 0, 0, 0, w, end_w, h, end_h, f, end_f)).flatten(1, 3)
        axes = [length for pair in zip(counts, sizes, strict=True) for length in pair]
        x = x.unflatten(1, axes).permute(0, 1, 3, 5, 2, 4, 6, 7, 8)  # (B, nf, nh, nw, f, h, w, heads, head_dim)
        return x.flatten(4, 6).flatten(0, 3)

    def ungroup(self, x: Tensor, grid: Grid) -> Tensor:
        """(B * boxes, n, heads, head_dim) -> (B, N, heads, head_dim)."""
        counts, sizes, before, after = self._cut(grid)
        x = x.unflatten(1, sizes).unflatten(0, (-1, *counts))  # (B, nf, nh, nw, f, h, w, heads, head_dim)
        x = x.permute(0, 1, 4, 2, 5, 3, 6, 7, 8)
        if not any(before + after):
            return x.flatten(1, 6)
        x = x.flatten(5, 6).flatten(3, 4).flatten(1, 2)
        for axis, (start, length) in enumerate(zip(before, grid, strict=True), start=1):
            x = x.narrow(axis, start, length)
        return x.flatten(1, 3)

    def held(self, grid: Grid, device: torch.device) -> Tensor | None:
        """(boxes, n) bool, which entries of the boxes hold a token; None: all."""
        _, _, before, after = self._cut(grid)
        if not any(before + after):
            return None
        return self.group(torch.ones(1, math.prod(grid), 1, 1, device=device), grid)[:, :, 0, 0] > 0

    def _cut(self, grid: Grid) -> tuple[Grid, Grid, Grid, Grid]:
        """Boxes, tokens of a box, and places without a token before and after the grid, along (f, h, w)."""
        sizes = tuple(min(size, n) for size, n in zip(self.box, grid, strict=True))
        before = tuple(self._shift(i, grid) for i in range(3))
        after = tuple(-(b + n) % size for b, n, size in zip(before, grid, sizes, strict=True))
        counts = tuple((b + n + a) // size for b, n, a, size in zip(before, grid, after, sizes, strict=True))
        return counts, sizes, before, after  # type: ignore[return-value]


class Spatial(Grouped):
    """A token attends to those of its own frame."""

    def __init__(self) -> None:
        super().__init__((1, MOST, MOST))


class Temporal(Grouped):
    """A token attends to those of its own row and column in all frames."""

    def __init__(self) -> None:
        super().__init__((MOST, 1, 1))


class Windowed(Grouped):
    """A token attends to those of its window; every other windowed block shifts its windows by half (arXiv 2103.14030).

    window: tokens of a window along (f, h, w), as `Grouped` has them.
    """

    def __init__(self, window: list[int]) -> None:
        if len(window) != 3 or min(window) < 1:
            raise ValueError(f"window={window} must be three sizes along (f, h, w), each at least 1")
        super().__init__((window[0], window[1], window[2]))

    def at(self, occurrence: int) -> "Windowed":
        layout = Windowed(list(self.box))
        layout.shifted = occurrence % 2 == 1
        return layout


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
