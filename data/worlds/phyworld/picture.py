"""Draws balls as the authors' generators do (`vectorized_draw_balls` of github.com/phyworld/phyworld, as a formula):
white paper, a red and a blue ball with a soft edge, 256 x 256 pixels; smaller pictures are that picture averaged.

Column i and row j of the 256 stand for x = 10 i / 255 and y = 10 (1 - j / 255), so the outermost pixels lie on the
edges of the world. A ball of radius r covers max(0, min(1, (r^2 - d^2) / (0.03 r^2))) of a pixel at distance d. Levels
are cut off to whole numbers, as theirs; the authors' files are compressed besides, these clips are not. Only + - * / in
float64 and sums of whole numbers are used, so the bytes are the same on every machine.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from data.worlds.outline import Floats
from data.worlds.phyworld.scenario import WORLD

SIZE = 256  # pixels along each side of the authors' pictures
SOFT = 0.03  # of the squared radius, over which a ball fades
COLOURS = ((255, 0, 0), (0, 0, 255))  # of the first and of the second ball
PAPER = 255
SIZES = (16, 32, 64, 128, 256)


def paint(positions: Floats, radii: Sequence[float] | Floats, size: int) -> NDArray[np.uint8]:
    """Pictures uint8 (3, F, size, size) of balls that do not overlap.

    positions: (F, N, 2) in units, x to the right and y up. radii: (N,) in units. size: one of `SIZES`.
    """
    block = SIZE // size  # pixels of the authors' picture that make one of ours, along each side
    gone = np.zeros((3, len(positions), size, size), np.int32)  # levels taken from the paper, summed over a block
    for ball, radius in enumerate(radii):
        dimmed = [channel for channel, level in enumerate(COLOURS[ball]) if not level]
        for frame, rows, columns, taken in _pieces(positions[:, ball], float(radius), size, block):
            for channel in dimmed:
                gone[channel, frame, rows, columns] += taken
    whole = block * block
    return (PAPER - (gone + whole // 2) // whole).astype(np.uint8)


def lattice(size: int) -> tuple[float, float]:
    """(origin, pitch) in units: column j of a picture of `size` pixels stands for x = origin + pitch j, and row i for
    y = `WORLD` - origin - pitch i."""
    block = SIZE // size
    scale = WORLD / (SIZE - 1)
    return 0.5 * (block - 1) * scale, block * scale


def _pieces(places: Floats, radius: float, size: int, block: int) -> list[tuple[int, slice, slice, NDArray[np.int32]]]:
    """Of each frame in which a ball can be seen: where it lies in the picture, and what it takes there from the paper,
    summed over blocks."""
    scale = (SIZE - 1) / WORLD
    centre = np.stack([places[:, 0] * scale, (WORLD - places[:, 1]) * scale], axis=1)  # (F, 2) columns and rows
    reach = radius * scale
    first = np.floor((centre - reach) / block).astype(np.int64)  # the first block that the ball may touch
    count = int(2.0 * reach / block) + 2  # blocks along each side
    seen = np.flatnonzero(((first < size) & (first + count > 0)).all(1))
    if not len(seen):
        return []
    at = first[seen, :, None] * block + np.arange(count * block)  # (S, 2, P) columns and rows
    away = (at - centre[seen, :, None]) / scale
    away *= away
    square = radius * radius
    distance = away[:, 1, :, None] + away[:, 0, None, :]  # (S, P, P) squared
    cover = np.clip((square - distance) / (square * SOFT), 0.0, 1.0)
    levels = PAPER - (PAPER * (1.0 - cover)).astype(np.uint8)
    taken = levels.reshape(len(seen), count, block, count, block).sum((2, 4), dtype=np.int32)
    pieces = []
    for item, frame in enumerate(seen.tolist()):
        left, top = first[frame].tolist()
        columns, rows = slice(max(left, 0), min(left + count, size)), slice(max(top, 0), min(top + count, size))
        inside = (slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left))
        pieces.append((frame, rows, columns, taken[item][inside]))
    return pieces
