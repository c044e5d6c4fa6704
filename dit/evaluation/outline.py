"""How far the outline of a drawn object is from the true one: its mean displacement in pixels.

If an outline is moved outwards by u(s) pixels along its length, the area between the two outlines is the integral of
|u|. So that area over the true perimeter is the mean displacement, and anti-aliased masks give it to a fraction of a
pixel: sum |mask - true coverage| / perimeter. Wrong sizes, dents, bulges, rounded corners and blur all count, each with
the area it takes; where the object is does not, since the true outline is laid where it fits best.
"""

from collections.abc import Sequence
from functools import cached_property
from itertools import product

import numpy as np

from dit.evaluation.segment import DEAD_ZONE, Floats

_FINE = 256  # cells across the table of distances
_MARGIN = 0.5  # radii that the table reaches beyond the outline
_STEPS = (0.5, 0.25, 0.125, 0.0625, 0.03125)  # pixels by which the place is moved, from coarse to fine
_TRIES = 8  # moves of one size
_FAR = 0.5  # radii that the best place may be from the centroid: half an object that is cut away moves it by less


class Outline:
    """A true outline, drawn and held against masks.

    Args:
        corners: `(K, 2)` corners (x, y), y down, in order; area pi and centroid at the origin, so that radius means
            that of the circle of equal area.
    """

    def __init__(self, corners: Sequence[Sequence[float]]) -> None:
        self._corners = np.asarray(corners, np.float64)
        self._extent = float(np.abs(self._corners).max())
        self._reach = self._extent + _MARGIN
        self.perimeter = float(np.linalg.norm(np.roll(self._corners, -1, axis=0) - self._corners, axis=1).sum())

    def missing(self, radius: float) -> float:
        """The error where there is no object at all, pixels: its area over its perimeter, 3.2 for a circle of 6.4."""
        return np.pi * radius / self.perimeter

    def error(self, mask: Floats, centroid: Floats, radius: float) -> float:
        """Mean distance, pixels, of a mask's outline from the true one of `radius` pixels, wherever that fits best.

        mask: `(H, W)` soft coverage of the object alone; centroid: (x, y), where the search for the best place starts.
        What the true outline covers outside of the frame counts as missing.
        """
        seen, corner = self._window(mask, centroid, radius)
        place = start = centroid - corner
        least = self._differences(seen, place[None], radius)[0]
        for step in _STEPS:
            for _ in range(_TRIES):
                around = place + step * _AROUND
                around = around[(np.abs(around - start) <= _FAR * radius).all(1)]
                differences = self._differences(seen, around, radius)
                if differences.min(initial=np.inf) >= least:
                    break
                least, place = differences.min(), around[differences.argmin()]
        # Not before: what is made flat hides the last tenth of a pixel, and the search would hide errors there.
        drawn = self.draw(place[None], radius, *seen.shape)[0]
        return float(np.abs(_certain(drawn) - _certain(seen)).sum() / (self.perimeter * radius))

    def _window(self, mask: Floats, centroid: Floats, radius: float) -> tuple[Floats, Floats]:
        """The part of the plane with the mask and all of the true outline, and where (x, y) its top left corner is."""
        far = (self._extent + _FAR) * radius + 1.0
        spans = []
        for axis, middle in ((0, centroid[1]), (1, centroid[0])):
            filled = np.flatnonzero(mask.any(1 - axis))
            low, high = int(np.floor(middle - far)), int(np.ceil(middle + far))
            spans.append((min([low, *filled[:1]]), max([high, *(filled[-1:] + 1)])))
        (top, bottom), (left, right) = spans
        window = np.zeros((bottom - top, right - left))
        inside = mask[max(top, 0) : bottom, max(left, 0) : right]
        row, column = max(-top, 0), max(-left, 0)
        window[row : row + inside.shape[0], column : column + inside.shape[1]] = inside
        return window, np.array([left, top], np.float64)

    def _differences(self, seen: Floats, places: Floats, radius: float) -> Floats:
        """How badly the true outline fits at each of `places` (P, 2): (P,).

        Above all the area of the symmetric difference, which a dent does not draw away from the right place. Of an
        object that is too small it is the same anywhere inside; the squares put it into the middle.
        """
        away = np.abs(self.draw(places, radius, *seen.shape) - seen)
        return np.asarray((away + 0.25 * away * away).sum((1, 2)))

    def draw(self, places: Floats, radius: float, height: int, width: int) -> Floats:
        """Coverage `(P, H, W)` of the shape centred on each of `places` `(P, 2)` (x, y), in pixels.

        A pixel's coverage falls from 1 to 0 over one pixel across the outline: clip(1/2 - signed distance, 0, 1).
        """
        x = (np.arange(width) + 0.5 - places[:, :1]) / radius
        y = (np.arange(height) + 0.5 - places[:, 1:]) / radius
        return np.clip(0.5 - radius * self._look_up(x, y), 0.0, 1.0)

    def _look_up(self, x: Floats, y: Floats) -> Floats:
        """Signed distances at x `(P, W)` and y `(P, H)`, from the table by bilinear interpolation: `(P, H, W)`."""
        table, scale = self._distances, (_FINE - 1) / (2 * self._reach)
        across, down = (np.clip((axis + self._reach) * scale, 0, _FINE - 1 - 1e-9) for axis in (x, y))
        column, row = across.astype(np.int64)[:, None, :], down.astype(np.int64)[:, :, None]
        right, below = across[:, None, :] - column, down[:, :, None] - row
        upper = table[row, column] * (1 - right) + table[row, column + 1] * right
        lower = table[row + 1, column] * (1 - right) + table[row + 1, column + 1] * right
        return np.asarray(upper * (1 - below) + lower * below)

    @cached_property
    def _distances(self) -> Floats:
        """Signed distance to the outline at radius 1, negative inside, on a square grid around the centroid."""
        axis = np.linspace(-self._reach, self._reach, _FINE)
        x, y = np.meshgrid(axis, axis)
        away, inside = np.full(x.shape, np.inf), np.zeros(x.shape, np.bool_)
        for (ax, ay), (bx, by) in zip(self._corners, np.roll(self._corners, -1, axis=0), strict=True):
            dx, dy = bx - ax, by - ay
            along = np.clip(((x - ax) * dx + (y - ay) * dy) / (dx * dx + dy * dy), 0.0, 1.0)
            away = np.minimum(away, np.hypot(x - ax - along * dx, y - ay - along * dy))
            inside ^= ((ay > y) != (by > y)) & (x < ax + (y - ay) * (dx / dy if dy else 0.0))  # a ray to the right
        return np.where(inside, -away, away)


_AROUND = np.array([offset for offset in product((-1.0, 0.0, 1.0), repeat=2) if any(offset)])


def _certain(soft: Floats) -> Floats:
    """Coverage with both ends made flat, so that neither grain inside the object nor beside it passes for outline.

    Any profile that falls from 1 to 0 across an edge counts a displaced edge in full, so this costs no proportion.
    """
    return np.where(soft < DEAD_ZONE, 0.0, np.where(soft > 1.0 - DEAD_ZONE, 1.0, soft))
