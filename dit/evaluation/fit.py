"""Motion through places that were seen, by least squares."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dit.evaluation.segment import Floats

Times = NDArray[np.number[Any]]


def fitted(times: Times, places: Floats, gravity: float = 0.0) -> Floats:
    """Where something is at time 0 and its velocity there, (2, 2), from places (T, 2) (x, y) at times (T,).

    gravity: its acceleration along y, which is known.
    """
    fallen = np.stack([np.zeros(len(times)), 0.5 * gravity * times**2], axis=1)
    return _solved([np.ones(len(times)), times], places - fallen)


def accelerated(times: Times, places: Floats) -> Floats:
    """The acceleration (x, y) of what is seen at places (T, 2) at times (T,)."""
    return np.asarray(_solved([np.ones(len(times)), times, 0.5 * times**2], places)[2])


def off_line(times: Times, places: Floats, line: Floats) -> Floats:
    """How far places (T, 2) at times (T,) are from a `fitted` line without gravity, (T,)."""
    return np.asarray(np.linalg.norm(places - (line[0] + times[:, None] * line[1]), axis=1))


def _solved(columns: list[Times], places: Floats) -> Floats:
    solved, *_ = np.linalg.lstsq(np.stack(columns, axis=1), places, rcond=None)
    return np.asarray(solved, np.float64)
