"""Means with their 95 % intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95
NORMAL = 1.96  # standard errors that a normal quantity stays within, on both sides, with probability `LEVEL`
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A mean and its 95 % interval; low and high are None where there is none, as of a single value."""

    mean: float
    low: float | None = None
    high: float | None = None
    count: int = 1  # values that the mean is of


def estimate(values: Sequence[float]) -> Estimate | None:
    """The mean of independent values, as one a seed, with Student's interval. None of no values."""
    if not len(values):
        return None
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return Estimate(mean)
    half = t_quantile(len(values) - 1) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return Estimate(mean, mean - half, mean + half, len(values))


def estimate_share(share: float, count: int) -> Estimate:
    """A share of `count` independent trials with Wilson's score interval (1927), which is right near 0 and 1, too."""
    square = NORMAL * NORMAL
    centre = (share + square / (2 * count)) / (1 + square / count)
    half = NORMAL / (1 + square / count) * math.sqrt(share * (1 - share) / count + square / (4 * count * count))
    return Estimate(share, max(0.0, centre - half), min(1.0, centre + half), count)


def columnwise(values: Floats) -> tuple[Floats, Floats, Floats]:
    """(mean, low, high), each `(S,)`, of `(R, S)`: R >= 2 runs at S steps, none of them NaN."""
    runs = len(values)
    half = t_quantile(runs - 1) * values.std(axis=0, ddof=1) / math.sqrt(runs)
    mean = values.mean(axis=0)
    return mean, mean - half, mean + half


@cache
def t_quantile(freedom: int, level: float = LEVEL) -> float:
    """The t that Student's distribution stays within, on both sides, with probability `level`.

    By bisection of `within`.

    Raises:
        ValueError: no degree of freedom, or a level outside (0, 1).
    """
    if freedom < 1 or not 0 < level < 1:
        raise ValueError(f"freedom={freedom} must be at least 1, and level={level} between 0 and 1")
    low, high = 0.0, math.pi / 2  # the angle, whose tangent t is a multiple of
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if within(middle, freedom) < level else (low, middle)
    return math.tan(low) * math.sqrt(freedom)


def within(angle: float, freedom: int) -> float:
    """P(|T| <= t) with t = tan(angle) sqrt(freedom): a finite sum (Abramowitz and Stegun 1964, 26.7.3 and 26.7.4)."""
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term = cosine if odd else 1.0
    total = 0.0 if freedom == 1 else term
    for k in range(2 + odd, freedom - 1, 2):
        term *= (k - 1) / k * cosine * cosine
        total += term
    return 2 / math.pi * (angle + sine * total) if odd else sine * total
