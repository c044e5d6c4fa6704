"""How the loss of a family of runs falls with compute, and how sure that is.

The law is L(C) = L_inf + a C^-b (Hestness et al. 2017, arXiv 1712.00409; Hoffmann et al. 2022, arXiv 2203.15556).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dit.statistics import LEVEL, Estimate, Floats, t_quantile

EXPONENTS = np.geomspace(0.005, 3, 300)  # what is searched for b
APART = 1.05  # computes within this factor count as one
HUBER = 1.345  # scales from which a residual counts less (Huber 1964)
PARAMETERS = 3


@dataclass(frozen=True)
class Law:
    """L(C) = floor + amount (C / reference)^-exponent. The first entry of each array is the fit, the others are fits
    of resampled runs.

    scatter: the standard deviation of a run around the law, as a share of its loss. count: runs.
    """

    floor: Floats
    amount: Floats
    exponent: Floats
    reference: float
    scatter: float
    count: int

    def loss(self, compute: float) -> Estimate:
        """The loss that the law has at a compute."""
        return self._estimate(self.floor + self.amount * (compute / self.reference) ** -self.exponent)

    def compute(self, loss: float) -> Estimate:
        """The compute at which the law has a loss; inf where it is never reached."""
        with np.errstate(divide="ignore", over="ignore"):
            left = (loss - self.floor) / self.amount
            found = self.reference * np.where(left > 0, left, np.nan) ** (-1 / self.exponent)
        return self._estimate(np.where(np.isnan(found), np.inf, found))

    def parameter(self, name: str) -> Estimate:
        """`floor`, `amount` or `exponent`."""
        return self._estimate(getattr(self, name))

    def _estimate(self, values: Floats) -> Estimate:
        tail = (1 - LEVEL) / 2
        low, high = np.quantile(values[1:], (tail, 1 - tail), method="nearest")  # exact for inf
        return Estimate(float(values[0]), float(low), float(high), self.count)


def grown(computes: Sequence[float], sizes: Sequence[float], at: float) -> Estimate:
    """The size that a family comes to at a compute: a power of it, least squares of logarithms, with Student's interval
    of the line. Its computes must not all be one."""
    x, y = np.log(np.asarray(computes, np.float64)), np.log(np.asarray(sizes, np.float64))
    slope, level = np.polyfit(x - x.mean(), y, 1)
    away = np.log(at) - x.mean()
    freedom = len(x) - 2
    variance = ((y - level - slope * (x - x.mean())) ** 2).sum() / freedom
    half = t_quantile(freedom) * np.sqrt(variance * (1 / len(x) + away**2 / ((x - x.mean()) ** 2).sum()))
    mean = level + slope * away
    return Estimate(float(np.exp(mean)), float(np.exp(mean - half)), float(np.exp(mean + half)), len(x))


def fit(computes: Sequence[float], losses: Sequence[float], *, resamples: int, seed: int) -> Law:
    """Fits the law to runs, one number each, by least squares of relative residuals with Huber's weights.

    The intervals are of a bootstrap of residuals: each resample has the fitted losses with residuals drawn anew, as
    large as what the fit took from them makes up for, and with a scale drawn as unsure as few runs leave it.

    Raises:
        ValueError: values that are not above 0, fewer than three computes or four runs, or a loss that does not fall.
    """
    c, loss = np.asarray(computes, np.float64), np.asarray(losses, np.float64)
    for name, values in (("compute", c), ("loss", loss)):
        bad = values[~(np.isfinite(values) & (values > 0))]
        if len(bad):
            raise ValueError(f"a {name} of {bad[0]:g} is no finite number above 0, as the law needs")
    kinds = 1 + int((np.diff(np.sort(np.log(c))) > np.log(APART)).sum())
    if kinds < 3:
        raise ValueError(
            f"{PARAMETERS} parameters want runs of at least 3 computes, and there are {kinds} (runs: {len(c)})"
        )
    if len(c) <= PARAMETERS:
        raise ValueError(
            f"{len(c)} runs fit a law of {PARAMETERS} parameters exactly and leave nothing to tell its uncertainty"
            " from; give at least one more, such as another seed"
        )
    reference = float(np.exp(np.log(c).mean()))
    x = c / reference
    floor, amount, exponent = (each[0] for each in _solve(x, loss[None]))
    if not amount > 0:
        raise ValueError("the loss does not fall with compute over these runs, so there is no law to be fitted")
    fitted = floor + amount * x**-exponent
    residuals = loss / fitted - 1
    freedom = len(c) - PARAMETERS
    scatter = float(np.sqrt((residuals**2).sum() / freedom))
    draw = np.random.default_rng(seed)
    scale = np.sqrt(len(c) / draw.chisquare(freedom, (resamples, 1)))
    drawn = scale * draw.choice(residuals - residuals.mean(), (resamples, len(c)))
    again = _solve(x, fitted * np.maximum(1 + drawn, 0.01))
    floors, amounts, exponents = (
        np.concatenate([[first], rest]) for first, rest in zip((floor, amount, exponent), again, strict=True)
    )
    return Law(floors, amounts, exponents, reference, scatter, len(c))


def _solve(x: Floats, losses: Floats) -> tuple[Floats, Floats, Floats]:
    """(floor, amount, exponent), each (R,), of losses (R, N) at x (N,)."""
    weights = np.ones_like(losses)
    for last in (False, False, True):
        exponent = _best_exponent(x, losses, weights)
        powers = x ** -exponent[:, None]
        floor, amount, _ = _linear(*_moments(losses, weights, powers))
        if last:
            break
        size = np.abs(1 - (floor[:, None] + amount[:, None] * powers) / losses)
        limit = HUBER * 1.4826 * np.median(size, axis=1, keepdims=True)
        weights = np.where(size > limit, limit / np.maximum(size, 1e-300), 1.0)
    return floor, amount, exponent


def _best_exponent(x: Floats, losses: Floats, weights: Floats) -> Floats:
    """The exponent (R,) of the least squares: the best of the grid, and from there by a parabola."""
    p = x[:, None] ** -EXPONENTS
    one, two = weights / losses, weights / losses**2
    sums = (one.sum(1, keepdims=True), one @ p, two.sum(1, keepdims=True), two @ p, two @ p**2)
    _, _, error = _linear(*sums, weights.sum(1, keepdims=True))
    best = np.clip(error.argmin(1), 1, len(EXPONENTS) - 2)
    rows = np.arange(len(losses))
    left, middle, right = (error[rows, best + step] for step in (-1, 0, 1))
    bend = left - 2 * middle + right
    shift = np.where(bend > 0, (left - right) / (2 * np.where(bend > 0, bend, 1)), 0.0)
    return np.asarray(EXPONENTS[best] * (EXPONENTS[1] / EXPONENTS[0]) ** np.clip(shift, -1, 1))


def _moments(losses: Floats, weights: Floats, powers: Floats) -> tuple[Floats, ...]:
    """What `_linear` takes, each (R,), for powers (R, N)."""
    one, two = weights / losses, weights / losses**2
    return (
        one.sum(1), (one * powers).sum(1), two.sum(1), (two * powers).sum(1), (two * powers**2).sum(1), weights.sum(1)
    )  # fmt: skip


def _linear(
    one: Floats, power: Floats, one_one: Floats, one_power: Floats, power_power: Floats, weight: Floats
) -> tuple[Floats, Floats, Floats]:
    """(floor, amount, squared error) that are best where neither may be below 0, from weighted sums over the runs."""
    with np.errstate(divide="ignore", invalid="ignore"):
        bulk = one_one * power_power - one_power**2
        floor = (power_power * one - one_power * power) / bulk
        amount = (one_one * power - one_power * one) / bulk
    alone, flat = power / power_power, one / one_one
    none = ~np.isfinite(floor) | (floor < 0)
    floor, amount = np.where(none, 0.0, floor), np.where(none, alone, amount)
    rises = amount < 0
    floor, amount = np.where(rises, flat, floor), np.where(rises, 0.0, amount)
    return floor, amount, weight - floor * one - amount * power
