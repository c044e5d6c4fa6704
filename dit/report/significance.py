"""Whether two sets of runs differ by more than their seeds: paired differences, and many comparisons at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dit.statistics import LEVEL, Estimate, estimate, within

ROUNDING = 1e-12  # share of the values: differences that spread by less do not spread


@dataclass(frozen=True)
class Paired:
    """How much one set of values lies above another, pair by pair.

    difference: the mean of the differences with its 95 % interval; of a single pair it has none. p: of Student's paired
    test, two-sided; None of a single pair.
    """

    difference: Estimate
    p: float | None


def paired(values: Sequence[float], baseline: Sequence[float]) -> Paired | None:
    """Compares two variants run with the same seeds; `values[i]` and `baseline[i]` are of one seed. None of no pairs.

    Student's t of the differences, with pairs - 1 degrees of freedom: what a seed does to both (the same clips in the
    same order, often the same first weights) drops out of the difference. It holds its level where differences are
    about normal, and stays below it where their tails are heavier (`tests/report/test_significance.py`).

    Raises:
        ValueError: not equally many values.
    """
    if len(values) != len(baseline):
        raise ValueError(f"{len(values)} values and {len(baseline)} of the baseline are no pairs")
    differences = [value - base for value, base in zip(values, baseline, strict=True)]
    mean = estimate(differences)
    if mean is None:
        return None
    count = len(differences)
    if count == 1:
        return Paired(mean, None)
    size = max(abs(value) for value in (*values, *baseline))
    spread = float(np.std(differences, ddof=1))
    if spread <= ROUNDING * size:
        # Equal differences have no spread that could say what chance does. Zeros are no difference, as of two runs that
        # are the same; of others only the signs are left to go by.
        return Paired(mean, 1.0 if abs(mean.mean) <= ROUNDING * size else 2.0 ** (1 - count))
    return Paired(mean, p_value(mean.mean / spread * math.sqrt(count), count - 1))


def p_value(t: float, freedom: int) -> float:
    """P(|T| >= |t|) of Student's distribution."""
    return max(0.0, 1.0 - within(math.atan2(abs(t), math.sqrt(freedom)), freedom))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for being many: where nothing differs, the share of families of tests in which one or more is
    below `a` is at most `a`, however the tests depend on one another (Holm 1979, A Simple Sequentially Rejective
    Multiple Test Procedure)."""
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    corrected = [1.0] * len(p_values)
    largest = 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = largest
    return corrected


def told_apart(corrected: float | None) -> bool:
    """Whether a corrected p-value is below 1 - `LEVEL`, that of the intervals."""
    return corrected is not None and corrected < 1 - LEVEL
