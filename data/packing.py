"""Packing: clips of any shapes become one sequence, as full as can be (NaViT, arXiv 2307.06304)."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np

from data.shapes import Batches, Ints, Shapes

AHEAD = 1024  # draws among which those that fill up a pack are looked for


class Packed(Shapes):
    """Batches of clips of different shapes, which the network takes as one sequence of at most `tokens` tokens.

    Clips come in their random order, but for the last ones of a pack, which are chosen among the next thousand so that
    it is as full as can be. All packs of an epoch but the last ones are then about equally full, whatever rank has
    them. Nothing is dropped or repeated.
    """

    packed = True

    def batches(
        self, number: Ints, tokens: Ints, budget: int, ranks: int, first: int, rng: np.random.Generator
    ) -> Batches:
        return pack(tokens[number], budget)


def pack(tokens: Ints, budget: int) -> Batches:
    """Packs draws of `tokens` (draws,) each into batches of at most `budget`, which none alone exceeds.

    A pack takes the oldest draws until there is room for about two more large ones, and fills that room by the choice
    among the next `AHEAD` draws that leaves least of it (subset sum). The oldest draw goes into each pack, so none
    waits for long.
    """
    unit = int(np.gcd.reduce(tokens)) if len(tokens) else 1
    kinds, which = np.unique(tokens // unit, return_inverse=True)
    sizes, kind_of, whole = kinds.tolist(), which.tolist(), budget // unit
    spare = min(2 * max(sizes, default=0), whole // 2)
    waiting: list[deque[int]] = [deque() for _ in sizes]  # draws of each size, the oldest in front
    counts = [0] * len(sizes)
    taken = bytearray(len(tokens))
    order: list[int] = []
    ends: list[int] = []
    oldest = reached = 0

    def take(draw: int) -> int:
        taken[draw] = 1
        order.append(draw)
        counts[kind_of[draw]] -= 1
        return int(sizes[kind_of[draw]])

    while len(order) < len(tokens):
        room = whole
        while True:
            while oldest < len(tokens) and taken[oldest]:
                oldest += 1
            while reached < min(oldest + AHEAD, len(tokens)):
                waiting[kind_of[reached]].append(reached)
                counts[kind_of[reached]] += 1
                reached += 1
            if oldest == len(tokens) or sizes[kind_of[oldest]] > room or (room < whole and room <= spare):
                break
            room -= take(oldest)
        for kind, count in fill(room, sizes, counts, len(ends)):
            queue = waiting[kind]
            while count:
                draw = queue.popleft()
                if not taken[draw]:
                    take(draw)
                    count -= 1
        ends.append(len(order))
    return Batches(np.array(order, np.int64), np.array(ends, np.int64))


def fill(room: int, sizes: Sequence[int], counts: Sequence[int], first: int) -> list[tuple[int, int]]:
    """How many of each size, at most `counts` of it, fill `room` best: (number of the size, how many).

    first: number of the size that is tried first; another one each time keeps packs from being all alike.
    """
    reachable = 1  # bit n: whether some choice has the sum n
    steps: list[tuple[int, int, int]] = []  # a size, how many of it, and what was reachable without them
    inside = (1 << (room + 1)) - 1
    for i in range(len(sizes)):
        kind = (first + i) % len(sizes)
        left, some = min(counts[kind], room // sizes[kind]), 1
        while left:  # 1, 2, 4, ... and what remains make up every number
            some = min(some, left)
            steps.append((kind, some, reachable))
            reachable |= reachable << (some * sizes[kind]) & inside
            left, some = left - some, 2 * some
        if reachable >> room & 1:
            break
    best = reachable.bit_length() - 1
    chosen = []
    for kind, some, without in reversed(steps):
        if not without >> best & 1:
            chosen.append((kind, some))
            best -= some * sizes[kind]
    return chosen
