"""The shapes of objects: outlines of area pi, and how far a point is from them.

Only + - * / and sqrt in float64, which IEEE 754 rounds in one way everywhere: corners come from square roots, not from
sin and cos, whose last bit depends on the maths library.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import sqrt

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
PI = 3.141592653589793
_GRID = 2.0**24  # positions per frame height
_OFF_TIE = 0.4142135623730951  # irrational, so that no dyadic position lies on a rounding boundary


def quantise(values: Floats) -> Floats:
    """Snaps lengths (in frame heights) to multiples of 2**-24."""
    return np.floor(values * _GRID + _OFF_TIE) / _GRID


@dataclass(frozen=True)
class Polygon:
    """An outline of area pi around its centroid (so that radius means the circle of equal area), y down.

    A point's signed distance is the `rank`-th largest of its distances to the edges' lines: 1 gives a convex polygon;
    2 gives a pentagram, whose points lie outside at most one of its five lines.
    """

    vertices: tuple[tuple[float, float], ...]  # (K, 2) corners in order
    lines: tuple[tuple[float, float, float], ...]  # (nx, ny, offset): signed distance = nx x + ny y - offset
    rank: int

    @cached_property
    def extent(self) -> tuple[float, float, float, float]:
        """How far the outline reaches from its centroid: left, right, up, down, at radius 1."""
        xs, ys = zip(*self.vertices, strict=True)
        return -min(xs), max(xs), -min(ys), max(ys)

    def distance(self, dx: Floats, dy: Floats, radius: float | Floats) -> Floats:
        """Signed distance (negative inside) of offsets `dx`, `dy` from the centroid, in their unit."""
        largest = [np.full(np.broadcast_shapes(dx.shape, dy.shape), -np.inf) for _ in range(self.rank)]
        for nx, ny, offset in self.lines:
            value = (nx * dx - offset * radius) + ny * dy
            for place in range(self.rank - 1):
                largest[place], value = np.maximum(largest[place], value), np.minimum(largest[place], value)
            np.maximum(largest[-1], value, out=largest[-1])
        return largest[-1]


@dataclass(frozen=True)
class Circle:
    """The unit circle; `vertices` approximate it for whoever needs an outline."""

    vertices: tuple[tuple[float, float], ...]

    @cached_property
    def extent(self) -> tuple[float, float, float, float]:
        """How far the outline reaches from its centre: left, right, up, down, at radius 1."""
        return 1.0, 1.0, 1.0, 1.0

    def distance(self, dx: Floats, dy: Floats, radius: float | Floats) -> Floats:
        """Signed distance (negative inside) of offsets `dx`, `dy` from the centre, in their unit."""
        return np.sqrt(dx * dx + dy * dy) - radius


def _polygon(corners: Sequence[tuple[float, float]], step: int, rank: int) -> Polygon:
    """Centres `corners` (clockwise on the screen) and scales them to area pi.

    Lines run from every `step`-th corner to the `step`-th after it.
    """
    follow = [*corners[1:], corners[0]]
    cross = [ax * by - bx * ay for (ax, ay), (bx, by) in zip(corners, follow, strict=True)]
    area = sum(cross) / 2.0
    mid_x = sum((a[0] + b[0]) * c for a, b, c in zip(corners, follow, cross, strict=True)) / (6.0 * area)
    mid_y = sum((a[1] + b[1]) * c for a, b, c in zip(corners, follow, cross, strict=True)) / (6.0 * area)
    scale = sqrt(PI / area)
    vertices = [((x - mid_x) * scale, (y - mid_y) * scale) for x, y in corners]
    lines = []
    for start in range(len(vertices)):
        (ax, ay), (bx, by) = vertices[start], vertices[(start + step) % len(vertices)]
        if step > 1 and start % 2:
            continue
        length = sqrt((bx - ax) * (bx - ax) + (by - ay) * (by - ay))
        nx, ny = (by - ay) / length, (ax - bx) / length
        lines.append((nx, ny, nx * ax + ny * ay))
    return Polygon(tuple(vertices), tuple(lines), rank)


def _star() -> Polygon:
    # Corners of a pentagon at multiples of 72 degrees from straight up, outer and inner in turn; clockwise, y down.
    c36, s36 = (1.0 + sqrt(5.0)) / 4.0, sqrt(10.0 - 2.0 * sqrt(5.0)) / 4.0
    c72, s72 = (sqrt(5.0) - 1.0) / 4.0, sqrt(10.0 + 2.0 * sqrt(5.0)) / 4.0
    outer = [(0.0, -1.0), (s72, -c72), (s36, c36), (-s36, c36), (-s72, -c72)]
    shrink = c72 / c36  # a pentagram's inner radius over its outer one
    inner = [(-x * shrink, -y * shrink) for x, y in (outer[3], outer[4], outer[0], outer[1], outer[2])]
    return _polygon([corner for pair in zip(outer, inner, strict=True) for corner in pair], step=4, rank=2)


def _circle() -> Circle:
    # Halving the angle five times from 90 degrees gives 64 corners without sin or cos.
    corners: list[tuple[float, float]] = [(1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0)]
    for _ in range(4):
        follow = [*corners[1:], corners[0]]
        middle = [(ax + bx, ay + by) for (ax, ay), (bx, by) in zip(corners, follow, strict=True)]
        middle = [(x / sqrt(x * x + y * y), y / sqrt(x * x + y * y)) for x, y in middle]
        corners = [corner for pair in zip(corners, middle, strict=True) for corner in pair]
    return Circle(tuple(corners))


# The shapes that a world may use; all have area pi at radius 1 and their centroid at the origin.
SHAPES: dict[str, Circle | Polygon] = {
    "circle": _circle(),
    "square": _polygon([(-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0)], step=1, rank=1),
    "triangle": _polygon([(0.0, -sqrt(3.0)), (1.0, 0.0), (-1.0, 0.0)], step=1, rank=1),
    "diamond": _polygon([(0.0, -1.0), (1.0, 0.0), (0.0, 1.0), (-1.0, 0.0)], step=1, rank=1),
    "star": _star(),
    "bar": _polygon([(-2.2, -1.0), (2.2, -1.0), (2.2, 1.0), (-2.2, 1.0)], step=1, rank=1),
}
