"""Tells shapes apart by laying templates of the measured size over the measured place."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from dit.evaluation.segment import Floats

_FINE = 512  # cells across a template's bitmap
_REACH = 2.0  # a bitmap covers [-2, 2] x [-2, 2]: every outline of area pi that we know fits
_SAMPLES = 4  # samples across a pixel
_BLURS = (0.0, 0.6, 1.0)  # pixels: a soft square is held against soft templates, or it would pass for a circle
_TAIL = 3  # pixels to either side of a blur kernel, and of the window around an object


class Templates:
    """Anti-aliased masks of named outlines, at any place and size.

    Args:
        outlines: name -> `(K, 2)` corners (x, y), y down, in order; area pi and centroid at the origin, so that radius
            means that of the circle of equal area.
    """

    def __init__(self, outlines: Mapping[str, Sequence[Sequence[float]]]) -> None:
        if not outlines:
            raise ValueError("outlines is empty: name at least one shape")
        self.names = list(outlines)
        self._bitmaps = np.stack([_bitmap(np.asarray(corners, np.float64)) for corners in outlines.values()])

    def draw(self, centroid: Floats, radius: float, height: int, width: int) -> Floats:
        """Coverage `(names, H, W)` of every shape, centred on `centroid` (x, y) with `radius`, in pixels."""
        fine = (np.arange(_SAMPLES) + 0.5) / _SAMPLES
        x = ((np.arange(width)[:, None] + fine).reshape(-1) - centroid[0]) / radius
        y = ((np.arange(height)[:, None] + fine).reshape(-1) - centroid[1]) / radius
        column, row = _cell(x), _cell(y)
        samples = self._bitmaps[:, row[:, None], column[None, :]]
        return samples.reshape(len(self.names), height, _SAMPLES, width, _SAMPLES).mean((2, 4))

    def scores(self, mask: Floats, centroid: Floats, area: float) -> Floats:
        """How well a mask `(H, W)` matches every shape of its area: soft intersection over union, sum(min) / sum(max).

        Templates are tried sharp and softened; the best counts.
        """
        radius = float(np.sqrt(area / np.pi))
        reach = int(_REACH * radius) + _TAIL + 1
        column, row = np.floor(centroid).astype(np.int64)
        window = np.pad(mask, reach)[row : row + 2 * reach + 1, column : column + 2 * reach + 1]
        drawn = self.draw(centroid - (column - reach, row - reach), radius, *window.shape)
        soft = np.stack([_blur(drawn, sigma) for sigma in _BLURS])
        return (np.minimum(soft, window).sum((2, 3)) / np.maximum(soft, window).sum((2, 3))).max(0)


def _blur(images: Floats, sigma: float) -> Floats:
    """Gaussian blur of `(..., H, W)`, empty beyond the edges."""
    if sigma == 0.0:
        return images
    kernel = np.exp(-0.5 * (np.arange(-_TAIL, _TAIL + 1) / sigma) ** 2)
    kernel /= kernel.sum()
    padded = np.pad(images, [(0, 0)] * (images.ndim - 2) + [(_TAIL, _TAIL)] * 2)
    for axis in (-1, -2):
        padded = np.lib.stride_tricks.sliding_window_view(padded, len(kernel), axis) @ kernel
    return padded


def _cell(place: Floats) -> NDArray[np.int64]:
    # The outermost cells are empty, so that clipping what lies beyond puts it outside every shape.
    return np.clip(np.floor((place + _REACH) / (2 * _REACH) * _FINE), 0, _FINE - 1).astype(np.int64)


def _bitmap(corners: Floats) -> Floats:
    """Which cells lie inside an outline: those from which a ray to the right crosses it an odd number of times."""
    axis = (np.arange(_FINE) + 0.5) / _FINE * 2 * _REACH - _REACH
    x, y = np.meshgrid(axis, axis)
    inside = np.zeros(x.shape, np.bool_)
    for (ax, ay), (bx, by) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        spans = (ay > y) != (by > y)
        slope = (bx - ax) / (by - ay) if by != ay else 0.0
        inside ^= spans & (x < ax + (y - ay) * slope)
    return inside.astype(np.float64)
