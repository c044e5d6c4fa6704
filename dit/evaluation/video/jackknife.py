"""The spread and the bias of a number that is computed from all clips at once (Quenouille 1956; Tukey 1958).

The clips lie in G groups, and the number is computed G times more, with one group left out. A Frechet distance of n
clips is too large by about c / n, and the leave-one-out values tell c (as Chong and Forsyth 2020, arXiv 1911.07023, do
by going through several n). Where the clips are in pairs, of a prompt each, a group holds both of a pair, and what they
share is in the spread.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from dit.statistics import t_quantile

GROUPS = 10


@dataclass(frozen=True)
class Distance:
    """A distance between two sets of clips, its 95 % interval at this number of clips, and by how much it is too large
    for want of more; None of fewer than two groups."""

    value: float
    low: float | None
    high: float | None
    bias: float | None


def groups_for(*counts: int) -> int:
    """Into how many groups sets of so many clips go: `GROUPS`, or fewer, so that two clips are left in each set."""
    return max(1, min(GROUPS, *(count // 2 for count in counts)))


def jackknife(between: Callable[[int | None], float], groups: int) -> Distance:
    """`between(g)` is the distance without group g, and of all clips where g is None."""
    value = between(None)
    if groups < 2:
        return Distance(value, None, None, None)
    left = [between(group) for group in range(groups)]
    mean = math.fsum(left) / groups
    error = math.sqrt((groups - 1) / groups * math.fsum((each - mean) ** 2 for each in left))
    half = t_quantile(groups - 1) * error
    return Distance(value, value - half, value + half, (groups - 1) * (mean - value))
