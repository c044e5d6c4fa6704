"""Draws scenes: analytic anti-aliasing, the same bytes on every machine.

A pixel's coverage is `clip(1/2 - d, 0, 1)`, `d` the signed distance in pixels from the pixel's centre to the outline.
Distances use only + - * / and sqrt in float64, which IEEE 754 rounds in one way everywhere; tables come from square
roots, not from sin and cos, whose last bit depends on the maths library. Positions arrive in fixed point
(`quantise`), so that a last-bit difference upstream cannot reach a pixel.
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

    def distance(self, dx: Floats, dy: Floats, radius: float) -> Floats:
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

    def distance(self, dx: Floats, dy: Floats, radius: float) -> Floats:
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


@dataclass(frozen=True)
class _Patch:
    """The pixels around one object: coverage `(F, S, T)`, and `(F, 2)` where (x, y) its top left pixel lies."""

    coverage: Floats
    corner: NDArray[np.int64]

    @property
    def size(self) -> NDArray[np.int64]:
        return np.array([self.coverage.shape[2], self.coverage.shape[1]])

    def windows(self, margin: int) -> list[tuple[slice, slice]]:
        """Rows and columns of the patch, frame by frame, in a canvas with a margin."""
        high, wide = self.coverage.shape[1:]
        corners = (self.corner + margin).tolist()
        return [(slice(top, top + high), slice(left, left + wide)) for left, top in corners]


def _patch(shape: Circle | Polygon, centre: Floats, radius: float) -> _Patch:
    """Covers an object around its centroids `(F, 2)`; all lengths in pixels."""
    # Half a pixel more than the outline's reach is where coverage ends; `floor` gives away less than a whole one.
    left, right, up, down = (int(radius * reach + 0.5) + 1 for reach in shape.extent)
    corner = np.floor(centre).astype(np.int64) - (left, up)
    offset = corner - centre
    dx = offset[:, 0, None, None] + (np.arange(left + right + 1) + 0.5)
    dy = offset[:, 1, None, None] + (np.arange(up + down + 1) + 0.5)[:, None]
    return _Patch(np.minimum(np.maximum(0.5 - shape.distance(dx, dy, radius), 0.0), 1.0), corner)


def render(
    positions: Floats,
    radii: Sequence[float],
    shapes: Sequence[str],
    colours: Sequence[tuple[int, int, int]],
    background: tuple[int, int, int],
    height: int,
    width: int,
) -> tuple[NDArray[np.uint8], Floats]:
    """Paints objects over one another, the last in front.

    Args:
        positions: `(F, N, 2)` centroids (x, y) in frame heights, from the top left corner, in fixed point.
        radii: N radii in frame heights.
    Returns:
        pixels `(3, F, H, W)`, and `(F, N)` the share of each object that is in the frame and not covered.
    """
    patches = [
        _patch(SHAPES[shapes[item]], positions[:, item] * height, radii[item] * height) for item in range(len(radii))
    ]
    # What hangs over the frame's edge is painted into a margin and cut off at the end.
    edge = np.array([width, height])
    margin = max(0, *(int(max((-p.corner).max(), (p.corner + p.size - edge).max())) for p in patches))
    frames, wide, high = len(positions), width + 2 * margin, height + 2 * margin
    canvas = np.empty((3, frames, high, wide), np.uint8)
    for channel, level in enumerate(background):
        canvas[channel] = level
    for patch, colour in zip(patches, colours, strict=True):
        ink = np.array(colour, np.float64)[:, None, None, None]
        where = patch.windows(margin)
        paper = np.stack([canvas[:, frame, rows, columns] for frame, (rows, columns) in enumerate(where)], axis=1)
        # The cast cuts off towards zero: adding a half rounds to nearest.
        paint = (paper + patch.coverage * (ink - paper) + 0.5).astype(np.uint8)
        for frame, (rows, columns) in enumerate(where):
            canvas[:, frame, rows, columns] = paint[:, frame]
    inside = (slice(margin, margin + height), slice(margin, margin + width))
    return canvas[:, :, *inside], _visibility(patches, (frames, high, wide), inside, margin)


def _visibility(
    patches: Sequence[_Patch], shape: tuple[int, int, int], inside: tuple[slice, slice], margin: int
) -> Floats:
    """The share of each object's coverage that lies in the frame and is not covered by objects in front of it."""
    if len(patches) == 1 and margin == 0:
        return np.ones((shape[0], 1))
    clear = np.zeros(shape)
    clear[:, *inside] = 1.0
    visibility = np.empty((shape[0], len(patches)))
    for item in reversed(range(len(patches))):
        coverage, total = patches[item].coverage, patches[item].coverage.sum((1, 2))
        for frame, (rows, columns) in enumerate(patches[item].windows(margin)):
            here = clear[frame, rows, columns]
            visibility[frame, item] = (coverage[frame] * here).sum() / total[frame]
            here *= 1.0 - coverage[frame]
    return visibility
