"""95 % intervals of what is measured over clips."""

from collections.abc import Sequence
from math import isfinite, sqrt

import numpy as np

Z = 1.96  # standard errors on either side of a mean


def wilson(share: float, count: float) -> tuple[float, float]:
    """Wilson's score interval (1927) of a share of `count` independent clips: right for shares near 0 and 1, too."""
    centre = (share + Z * Z / (2 * count)) / (1 + Z * Z / count)
    half = Z / (1 + Z * Z / count) * sqrt(share * (1 - share) / count + Z * Z / (4 * count * count))
    return max(0.0, centre - half), min(1.0, centre + half)


def of_mean(values: Sequence[float]) -> tuple[float, tuple[float, float] | None]:
    """The mean of independent values and its interval, the mean plus and minus 1.96 standard errors; None of a single
    value, or of some that are not finite."""
    mean = float(np.mean(values))
    error = float(np.std(values, ddof=1)) / sqrt(len(values)) if len(values) > 1 else float("nan")
    return mean, (mean - Z * error, mean + Z * error) if isfinite(error) else None
