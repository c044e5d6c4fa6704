"""Draws scenes: analytic anti-aliasing, the same bytes on every machine.

A pixel's coverage is `clip(1/2 - d, 0, 1)`, `d` the signed distance in pixels from the pixel's centre to the outline.
Distances use only + - * / and sqrt in float64, which IEEE 754 rounds in one way everywhere (`outline.py`). Positions
arrive in fixed point (`quantise`), so that a last-bit difference upstream cannot reach a pixel.

`truth.py` is made of the same coverages, in the same order.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from data.worlds.camera import View
from data.worlds.outline import SHAPES, Circle, Floats, Polygon
from data.worlds.pattern import BACKGROUNDS, TEXTURES, Pattern
from data.worlds.scenery import Colour, Slab

SECOND = 0.6  # an object's second tone, in shares of its colour
_LIFT = 32  # levels by which a background's second tone is brighter than the first, and the border than that
_LEVELS = 15  # of the shares of a pixel of the background, so that all that rows and columns can make fits a table
_BRIGHT = 160  # a background that is brighter than this has darker ones


@dataclass(frozen=True)
class Patch:
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


@dataclass(frozen=True)
class Surface:
    """How an object looks: its colour, and the pattern on it."""

    colour: Colour
    pattern: Pattern | None = None

    @property
    def tone(self) -> Colour:
        """The pattern's second tone."""
        red, green, blue = (int(SECOND * level + 0.5) for level in self.colour)
        return red, green, blue


@dataclass(frozen=True)
class Ground:
    """What is behind everything: a colour, and the pattern on it."""

    colour: Colour
    pattern: Pattern | None = None

    def tone(self, step: int) -> Colour:
        """A brighter colour, by `step` steps; of a bright one a darker."""
        lift = _LIFT * step * (-1 if sum(self.colour) > 3 * _BRIGHT else 1)
        red, green, blue = (min(255, max(0, level + lift)) for level in self.colour)
        return red, green, blue


def surface(colour: Colour, texture: str) -> Surface:
    """A surface by the words of `pattern.TEXTURES`, or "plain"."""
    return Surface(colour, TEXTURES.get(texture))


def ground(colour: Colour, background: str) -> Ground:
    """A ground by the words of `pattern.BACKGROUNDS`, or "plain"."""
    return Ground(colour, BACKGROUNDS.get(background))


def cover(shape: Circle | Polygon, centre: Floats, radius: float | Floats) -> Patch:
    """Covers an object around its centroids `(F, 2)`; all lengths in pixels. radius: one, or one a frame `(F,)`."""
    # Half a pixel more than the outline's reach is where coverage ends; `floor` gives away less than a whole one.
    largest = radius if isinstance(radius, float) else float(radius.max())
    left, right, up, down = (int(largest * reach + 0.5) + 1 for reach in shape.extent)
    corner = np.floor(centre).astype(np.int64) - (left, up)
    offset = corner - centre
    dx = offset[:, 0, None, None] + (np.arange(left + right + 1) + 0.5)
    dy = offset[:, 1, None, None] + (np.arange(up + down + 1) + 0.5)[:, None]
    size = radius if isinstance(radius, float) else radius[:, None, None]
    return Patch(np.minimum(np.maximum(0.5 - shape.distance(dx, dy, size), 0.0), 1.0), corner)


@dataclass(frozen=True)
class Band:
    """The pixels that a slab covers in any frame: coverage `(F, S, T)`, or `(1, S, T)` where it does not move."""

    coverage: Floats
    rows: slice
    columns: slice


def cover_slab(slab: Slab, view: View, height: int, width: int) -> Band:
    """Covers a slab: a pixel's coverage is the share of its area."""
    corners = view.picture(np.array([slab[0:2], slab[2:4]]))[: 1 if view.still else None] * height
    shares, windows = [], []
    for axis, size in enumerate((width, height)):
        edge, low, high = np.arange(size, dtype=np.float64), corners[:, 0, axis, None], corners[:, 1, axis, None]
        share = np.minimum(np.maximum(np.minimum(high, edge + 1.0) - np.maximum(low, edge), 0.0), 1.0)
        places = np.flatnonzero(share.any(0)).tolist() or [0]
        windows.append(slice(places[0], places[-1] + 1))
        shares.append(share[:, windows[-1]])
    return Band(shares[1][:, :, None] * shares[0][:, None, :], windows[1], windows[0])


def plate(behind: Ground, slabs: Sequence[Slab], view: View, height: int, width: int) -> NDArray[np.uint8]:
    """What is seen where no object is: `(3, F, H, W)`, or with 1 in the place of what does not vary."""
    if behind.pattern is None and view.still:
        found = np.array(behind.colour, np.uint8)[:, None, None, None]
    else:
        found = _patterned(behind, view, height, width)
    solid = [slab for slab in slabs if not slab.front]
    if solid:
        found = np.broadcast_to(found, (3, found.shape[1], height, width)).copy()
        for slab in solid:
            _hide(found, cover_slab(slab, view, height, width), slab.colour)
    return found


def _patterned(behind: Ground, view: View, height: int, width: int) -> NDArray[np.uint8]:
    """A pattern and the border of the room: what they are in columns and rows, and a table of what these make."""
    frames = slice(1) if view.still else slice(None)
    scale, middle, centre = view.scale[frames, None], view.middle, view.centre[frames]
    x = ((np.arange(width) + 0.5) / height - middle[0]) / scale + centre[:, 0, None]
    y = ((np.arange(height) + 0.5) / height - middle[1]) / scale + centre[:, 1, None]
    pixel = 1.0 / (scale * height)
    shares = (np.zeros(x.shape), np.zeros(y.shape))
    if behind.pattern is not None:
        shares = behind.pattern.rows(x, y, pixel)
    codes = []
    for place, share, length in zip((x, y), shares, (view.aspect, 1.0), strict=True):
        inside = np.minimum(np.maximum((0.5 * length - np.abs(place - 0.5 * length)) / pixel + 0.5, 0.0), 1.0)
        levels = (inside * _LEVELS + 0.5).astype(np.uint16) * (_LEVELS + 1) + (share * _LEVELS + 0.5).astype(np.uint16)
        codes.append(levels)
    code = codes[0][:, None, :] + codes[1][:, :, None] * (_LEVELS + 1) ** 2
    return np.take(_table(behind), code, axis=1)


@lru_cache(maxsize=64)
def _table(behind: Ground) -> NDArray[np.uint8]:
    """Colours `(3, 65536)` by the code of a column plus 256 times that of a row: a code is 16 times the level of being
    inside the room, plus that of the second tone."""
    levels = np.arange(_LEVELS + 1) / _LEVELS
    inside_x, share_x = levels[None, None, :, None], levels[None, None, None, :]
    inside_y, share_y = levels[:, None, None, None], levels[None, :, None, None]
    share = np.zeros((1, 1, 1, 1)) if behind.pattern is None else behind.pattern.joined(share_x, share_y)
    first, second, border = (np.array(behind.tone(step), np.float64)[:, None, None, None, None] for step in range(3))
    colour = first + share * (second - first)
    colour = border + inside_x * inside_y * (colour - border)
    shape = (3, *[_LEVELS + 1] * 4)
    return (np.broadcast_to(colour, shape) + 0.5).astype(np.uint8).reshape(3, -1)


def _hide(picture: NDArray[np.uint8], band: Band, colour: Colour) -> None:
    """Paints a slab over a picture `(3, F, H, W)`."""
    window = picture[:, :, band.rows, band.columns]
    ink = np.array(colour, np.float64)[:, None, None, None]
    window[...] = (window + band.coverage * (ink - window) + 0.5).astype(np.uint8)


def picture(
    positions: Floats,
    radii: Sequence[float],
    shapes: Sequence[str],
    surfaces: Sequence[Surface],
    slabs: Sequence[Slab],
    behind: Ground,
    view: View,
    height: int,
    width: int,
    present: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[np.uint8], Floats]:
    """Paints objects over one another, the last in front, in a room with slabs that is seen by a camera.

    Args:
        positions: `(F, N, 2)` centroids (x, y) in the room, in frame heights from its top left corner, in fixed point.
        radii: N radii in frame heights.
        shapes: N names out of `outline.SHAPES`.
        present: `(F, N)`, False where an object is not there; None: all are.
    Returns:
        pixels `(3, F, H, W)`, and `(F, N)` the share of each object that is in the frame and not covered.
    """
    places = view.picture(positions)
    patches, inks = [], []
    for item, (radius, shape, look) in enumerate(zip(radii, shapes, surfaces, strict=True)):
        size = radius * height if view.still else radius * height * view.scale
        centre = places[:, item] * height
        patch = cover(SHAPES[shape], centre, size)
        if present is not None:
            patch = replace(patch, coverage=patch.coverage * present[:, item, None, None])
        patches.append(patch)
        inks.append(_ink(look, patches[-1], centre, size))
    back = plate(behind, slabs, view, height, width)
    front = [(cover_slab(slab, view, height, width), slab.colour) for slab in slabs if slab.front]
    pixels, visibility = paint(patches, inks, back, front, (len(positions), height, width))
    return pixels, visibility if present is None else visibility * present


def _ink(look: Surface, patch: Patch, centre: Floats, radius: float | Floats) -> Floats:
    """The colours of an object's pixels: broadcasts to `(3, F, S, T)`."""
    colour = np.array(look.colour, np.float64)[:, None, None, None]
    if look.pattern is None:
        return colour
    size = np.asarray(radius)[..., None, None]
    offset = patch.corner - centre
    x = (offset[:, 0, None, None] + (np.arange(patch.coverage.shape[2]) + 0.5)) / size
    y = (offset[:, 1, None, None] + (np.arange(patch.coverage.shape[1]) + 0.5)[:, None]) / size
    share = look.pattern.joined(*look.pattern.rows(x, y, 1.0 / size))
    return colour + share * (np.array(look.tone, np.float64)[:, None, None, None] - colour)


def paint(
    patches: Sequence[Patch],
    inks: Sequence[Floats],
    behind: NDArray[np.uint8],
    front: Sequence[tuple[Band, Colour]],
    size: tuple[int, int, int],
) -> tuple[NDArray[np.uint8], Floats]:
    """Paints patches over what is behind them, the last in front, and then what hides them all.

    Args:
        patches, inks: pixels and colours of each object.
        behind: uint8, broadcasts to `(3, F, H, W)`.
        front: what hides objects, and its colour.
        size: `(F, H, W)`.
    Returns:
        pixels `(3, F, H, W)`, and `(F, N)` the share of each object that is in the frame and not covered.
    """
    frames, height, width = size
    # What hangs over the frame's edge is painted into a margin and cut off at the end.
    edge = np.array([width, height])
    reaches = [int(max((-p.corner).max(), (p.corner + p.size - edge).max())) for p in patches]
    margin = max(0, *reaches) if reaches else 0
    wide, high = width + 2 * margin, height + 2 * margin
    inside = (slice(margin, margin + height), slice(margin, margin + width))
    canvas = np.empty((3, frames, high, wide), np.uint8)
    if behind.size == 3:
        for channel in range(3):
            canvas[channel] = behind[channel, 0, 0, 0]
    else:
        canvas[:, :, *inside] = behind
    for patch, ink in zip(patches, inks, strict=True):
        where = patch.windows(margin)
        paper = np.stack([canvas[:, frame, rows, columns] for frame, (rows, columns) in enumerate(where)], axis=1)
        # The cast cuts off towards zero: adding a half rounds to nearest.
        paint = (paper + patch.coverage * (ink - paper) + 0.5).astype(np.uint8)
        for frame, (rows, columns) in enumerate(where):
            canvas[:, frame, rows, columns] = paint[:, frame]
    seen = canvas[:, :, *inside]
    for band, colour in front:
        _hide(seen, band, colour)
    return seen, _visibility(patches, (frames, high, wide), inside, margin, front)


def _visibility(
    patches: Sequence[Patch],
    shape: tuple[int, int, int],
    inside: tuple[slice, slice],
    margin: int,
    front: Sequence[tuple[Band, Colour]],
) -> Floats:
    """The share of each object's coverage that lies in the frame and is not covered by what is in front of it."""
    visibility = np.ones((shape[0], len(patches)))
    if margin == 0 and not front and not _overlap(patches):
        return visibility
    clear = np.zeros(shape)
    clear[:, *inside] = 1.0
    for band, _ in front:
        clear[:, *inside][:, band.rows, band.columns] *= 1.0 - band.coverage
    for item in reversed(range(len(patches))):
        coverage, windows = patches[item].coverage, patches[item].windows(margin)
        here = np.stack([clear[frame, rows, columns] for frame, (rows, columns) in enumerate(windows)])
        total = coverage.sum((1, 2))
        visibility[:, item] = (coverage * here).sum((1, 2)) / np.maximum(total, 1e-12)  # 0 where it is absent
        if item:
            here *= 1.0 - coverage
            for frame, (rows, columns) in enumerate(windows):
                clear[frame, rows, columns] = here[frame]
    return visibility


def _overlap(patches: Sequence[Patch]) -> bool:
    """Whether the pixels around two objects meet in any frame."""
    for place, one in enumerate(patches):
        for other in patches[:place]:
            apart = other.corner - one.corner
            if ((apart < one.size) & (-apart < other.size)).all(1).any():
                return True
    return False
