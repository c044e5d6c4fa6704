"""Clips that look as another one does: the same file twice, or a copy in another size, codec or quality."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

NEAR = 15  # bits of 256 that may differ (`scores.looks`); two clips that near have one of 16 bands of 16 bits in common
NEIGHBOURS = 256  # that a clip is compared with in each band, of those that share it, in the order of their bits


def duplicates(
    content: Sequence[str], looks: Sequence[str], files: NDArray[np.integer], good: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """For each row the earlier row that it doubles, which is no duplicate itself, or -1: (N,).

    A copy that begins at another moment is not found, nor one that is cut, mirrored or has other borders.

    Args:
        content: what rows are made of: equal for equal files and parts; "" for unknown.
        looks: perceptual hashes in hex, "" where there is none; those of other lengths, as of images, are not compared.
        files: (N,) which file each row is of; rows of one file are never duplicates of one another.
        good: (N,) rows that count.
    """
    found = np.full(len(content), -1, np.int64)
    for first, second in sorted(_near(looks, files, good), key=lambda pair: (pair[1], pair[0])):
        if found[first] < 0 and found[second] < 0:
            found[second] = first
    for first, second in (*_equal(content, good), *_equal(looks, good)):
        kept = found[first] if found[first] >= 0 else first
        if found[second] < 0 and files[kept] != files[second]:
            found[second] = kept
    return found


def _equal(keys: Sequence[str], good: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """Pairs (first row with a key, later row with it)."""
    first: dict[str, int] = {}
    for row, key in enumerate(keys):
        if key and good[row] and (earlier := first.setdefault(key, row)) != row:
            yield earlier, row


def _near(looks: Sequence[str], files: NDArray[np.integer], good: NDArray[np.bool_]) -> set[tuple[int, int]]:
    """Pairs (earlier, later) of rows whose hashes differ, but in at most `NEAR` of 256 bits. Of equal hashes the first
    row stands for all."""
    first: dict[str, int] = {}
    for row, each in enumerate(looks):
        if each and good[row]:
            first.setdefault(each, row)
    lengths = {len(each) for each in first}
    pairs: set[tuple[int, int]] = set()
    for length in lengths:
        rows = np.array([row for each, row in first.items() if len(each) == length])
        bits = np.stack([np.frombuffer(bytes.fromhex(looks[row]), np.uint8) for row in rows])  # (n, bytes)
        bands = bits.view(np.uint16)  # (n, bytes / 2)
        near = NEAR * bits.shape[1] * 8 // 256
        for band in range(bands.shape[1]):
            order = np.lexsort((*bands.T, bands[:, band]))
            key = bands[order, band]
            for step in range(1, min(NEIGHBOURS, len(order) - 1) + 1):
                at = np.flatnonzero(key[step:] == key[:-step])
                if len(at) == 0:
                    break
                a, b = order[at], order[at + step]
                alike = np.bitwise_count(bits[a] ^ bits[b]).sum(1) <= near
                a, b = rows[a[alike]], rows[b[alike]]
                a, b = a[files[a] != files[b]], b[files[a] != files[b]]
                pairs |= set(zip(np.minimum(a, b).tolist(), np.maximum(a, b).tolist(), strict=True))
    return pairs
