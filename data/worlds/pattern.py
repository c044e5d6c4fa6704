"""What surfaces look like: textures of objects and backgrounds, one entry a pattern.

A pattern is a share of the second tone at each place, made of one function of x and one of y, so that a whole picture
of it costs two rows of numbers. Both are averaged over the pixel exactly, so that patterns neither flicker nor beat
against the pixels while they move. Only + - * / and floor: the same bytes on every machine.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from data.worlds.outline import Floats


@dataclass(frozen=True)
class Stripes:
    """1 within `width` of each period and 0 beside it, a stripe's middle at 0; lengths in those of the surface."""

    period: float
    width: float

    def mean(self, x: Floats, pixel: Floats | float) -> Floats:
        """The share over pixels of this size around `x`, 0 to 1."""
        return (self._sum(x + 0.5 * pixel) - self._sum(x - 0.5 * pixel)) / pixel

    def _sum(self, x: Floats) -> Floats:
        """The length of stripe between some place and `x`."""
        shifted = x + 0.5 * self.width
        periods = np.floor(shifted / self.period)
        return periods * self.width + np.minimum(shifted - periods * self.period, self.width)


@dataclass(frozen=True)
class Ramp:
    """From 0 at `x = 0` to 1 at `x = length`, and level beyond."""

    length: float

    def mean(self, x: Floats, pixel: Floats | float) -> Floats:
        """The share at `x`; a ramp is so nearly its own mean over a pixel."""
        return np.minimum(np.maximum(x / self.length, 0.0), 1.0)


def _both(a: Floats, b: Floats) -> Floats:
    return a * b


def _one(a: Floats, b: Floats) -> Floats:
    return a + b - 2.0 * (a * b)


def _any(a: Floats, b: Floats) -> Floats:
    return a + b - a * b


@dataclass(frozen=True)
class Pattern:
    """Shares of the second tone: along x, along y, and how the two are joined; None: the other one alone."""

    across: Stripes | Ramp | None
    down: Stripes | Ramp | None
    join: Callable[[Floats, Floats], Floats] = _both

    def rows(self, x: Floats, y: Floats, pixel: Floats | float) -> tuple[Floats, Floats]:
        """The two functions at `x` and at `y`, places on the surface in its own lengths; 0 where there is none.

        pixel: how long a pixel is there; broadcasts to `x` and `y`.
        """
        along_x = np.zeros(x.shape) if self.across is None else self.across.mean(x, pixel)
        along_y = np.zeros(y.shape) if self.down is None else self.down.mean(y, pixel)
        return along_x, along_y

    def joined(self, along_x: Floats, along_y: Floats) -> Floats:
        """Shares of the second tone, where rows cross."""
        if self.across is None:
            return along_y
        return along_x if self.down is None else self.join(along_x, along_y)


# Of objects, in radii.
TEXTURES: dict[str, Pattern] = {
    "striped": Pattern(Stripes(0.8, 0.4), None),
    "banded": Pattern(None, Stripes(0.8, 0.4)),
    "checked": Pattern(Stripes(1.3, 0.65), Stripes(1.3, 0.65), _one),
    "dotted": Pattern(Stripes(0.7, 0.35), Stripes(0.7, 0.35)),
}

# Behind everything, in frame heights.
BACKGROUNDS: dict[str, Pattern] = {
    "striped": Pattern(Stripes(0.25, 0.125), None),
    "banded": Pattern(None, Stripes(0.25, 0.125)),
    "checked": Pattern(Stripes(0.4, 0.2), Stripes(0.4, 0.2), _one),
    "dotted": Pattern(Stripes(0.2, 0.08), Stripes(0.2, 0.08)),
    "tiled": Pattern(Stripes(0.25, 0.04), Stripes(0.25, 0.04), _any),
    "graded": Pattern(None, Ramp(1.0)),
}
