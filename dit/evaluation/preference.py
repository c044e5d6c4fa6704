"""Which of two clips a scorer finds less surprising: shares of pairs told apart, with intervals.

Each comparison is a four of `data/worlds/impossible.py`: two pairs of a possible and an impossible clip, made of the
same frames. A pair is told apart when the possible clip has the lower score; equal scores count half. The two pairs of
a four depend on one another (a scorer that prefers a frame's content is right about one and wrong about the other), so
intervals count fours, not pairs: Wilson's, which is too wide rather than too narrow then.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dit.statistics import Estimate, estimate, estimate_share

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Preference:
    """What scores of n fours add up to.

    pairs: share of pairs told apart. fours: share of fours in which both impossible clips together have the higher
    score. surprise: mean of how much higher the scores of the impossible clips of a four are, as a share of those of
    the possible ones.
    """

    pairs: Estimate
    fours: Estimate
    surprise: Estimate


def preference(possible: Floats, impossible: Floats) -> Preference:
    """From scores `(n, 2)` of the possible and the impossible clips of n fours; higher is more surprising."""
    if possible.shape != impossible.shape or possible.ndim != 2 or possible.shape[1] != 2 or not len(possible):
        raise ValueError(f"scores {possible.shape} and {impossible.shape} are not those of fours: give (n, 2) both")
    of_pairs, of_fours = told_apart(possible, impossible), told_apart(possible.sum(1), impossible.sum(1))
    surprise = estimate((impossible.sum(1) / possible.sum(1) - 1).tolist())
    assert surprise is not None
    pairs, fours = (estimate_share(float(of.mean()), len(possible)) for of in (of_pairs, of_fours))
    return Preference(pairs, fours, surprise)


def told_apart(possible: Floats, impossible: Floats) -> Floats:
    """1 where the impossible one has the higher score, 0 where the possible one has, 1/2 where they are equal."""
    made: Floats = 0.5 * (1.0 + np.sign(impossible - possible))
    return made


def stacked(fours: Sequence[Sequence[Sequence[float]]]) -> Floats:
    """Scores by level of both clips of each of n fours, as plain lists: `(n, 2, levels)`."""
    return np.asarray(fours, np.float64)
