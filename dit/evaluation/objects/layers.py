"""Takes the frames of a scene apart: what stands in the room, and pieces of colour in front of the background.

The colours of objects, of what stands in the room, and the background with its camera are knowledge of the world; where
anything is, is read from pixels. An object may be patterned with a second, darker tone of its colour: whatever lies
between the two tones is its own. How much of a pixel at its rim it covers is told by the colours inside it, next to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dit.evaluation.segment import MIN_CONTRAST, Bools, Floats, grown, label

MAX_OFF = 60.0  # levels between a pixel and the colour that it is taken for
MAX_BESIDE = 45.0  # levels between a pixel and the background, beyond which something is there
NEAR_SLAB = 35.0  # levels between a pixel and what stands in the room; mixes of white and dark stay farther away
STILL = 0.5  # share of the frames in which a place of the room has to show what stands there
FAINT = 0.15  # coverage below this is noise


@dataclass(frozen=True)
class Setting:
    """What is behind everything, and how the room is seen; lengths in pixels.

    plate: uint8 (F, H, W, 3), the picture of an empty room. centre: (F, 2) place (x, y) of the room in the middle of
    the picture. scale: (F,) lengths in the picture over lengths in the room.
    """

    plate: NDArray[np.uint8]
    centre: Floats
    scale: Floats

    @property
    def middle(self) -> Floats:
        """The middle of the picture, (x, y)."""
        height, width = self.plate.shape[1:3]
        return np.array([0.5 * width, 0.5 * height], np.float64)

    def room(self, place: Floats, frame: int) -> Floats:
        """Where a place (..., 2) of the picture is in the room."""
        return (place - self.middle) / self.scale[frame] + self.centre[frame]

    def picture(self, place: Floats, frame: int) -> Floats:
        """Where a place (..., 2) of the room is in the picture."""
        return (place - self.centre[frame]) * self.scale[frame] + self.middle


@dataclass(frozen=True)
class Palette:
    """The colours of a world, levels from 0 to 255.

    colours: name -> (red, green, blue) of objects. second: an object's second tone in shares of its colour; 1 where
    objects have one tone. walls, sides: colours of what stands in front of objects, and of what they bounce off.

    Raises ValueError for a colour that cannot be told from another.
    """

    colours: Mapping[str, Sequence[float]]
    second: float = 1.0
    walls: Sequence[Sequence[float]] = ()
    sides: Sequence[Sequence[float]] = ()

    def __post_init__(self) -> None:
        inks = {name: np.asarray(value, np.float64) for name, value in self.colours.items()}
        for name, ink in inks.items():
            for other, value in inks.items():
                if name < other and np.linalg.norm(ink - value) < MIN_CONTRAST:
                    raise ValueError(
                        f"{name} and {other} are less than {MIN_CONTRAST:.0f} levels apart: not to be read"
                    )

    def distances(self, levels: Floats) -> Floats:
        """How far pixels (..., 3) are from each colour's tones: (colours, ...)."""
        found = []
        for value in self.colours.values():
            ink = np.asarray(value, np.float64)
            tone = self.second * ink
            axis = ink - tone
            length = float(axis @ axis)
            share = np.clip((levels - tone) @ axis / length, 0.0, 1.0) if length else np.zeros(levels.shape[:-1])
            found.append(np.linalg.norm(levels - tone - share[..., None] * axis, axis=-1))
        return np.stack(found)


@dataclass(frozen=True)
class Piece:
    """A connected piece of one colour in a frame; lengths in pixels of the picture."""

    colour: str
    centroid: Floats  # (2,) x, y; the centre of the top left pixel is (0.5, 0.5)
    area: float
    mask: Floats  # (H, W) soft coverage

    @property
    def solid(self) -> Bools:
        """Its pixels, rim included."""
        return np.asarray(self.mask > FAINT)


@dataclass(frozen=True)
class Layers:
    """What F frames show."""

    pieces: tuple[tuple[Piece, ...], ...]  # of each frame, the largest first
    walls: Bools  # (F, H, W), where something hides what is behind it
    sides: Floats  # (P, 2) places (x, y) in the room, in pixels, of what stands there and is bounced off
    unlike: float  # share of the pixels that are neither background, nor what stands in the room, nor a piece


def take_apart(levels: Floats, setting: Setting, palette: Palette, min_area: float) -> Layers:
    """Layers of `(F, H, W, 3)` finite levels. min_area: pixels below which a piece is none.

    A piece is at least two pixels wide somewhere: where two colours meet, their mixes look like a third one.
    """
    plate = np.array(setting.plate, np.float64)
    standing, walls, sides = _standing(levels, setting, palette)
    away = palette.distances(levels)
    nearest = away.argmin(0)
    off = away.min(0)
    near_slab = np.zeros(levels.shape[:3], np.bool_)
    for colour in (*palette.walls, *palette.sides):
        near = standing & (np.linalg.norm(levels - np.asarray(colour, np.float64), axis=-1) <= NEAR_SLAB)
        near_slab |= near
    core = (off <= MAX_OFF) & (off < np.linalg.norm(levels - plate, axis=-1)) & ~near_slab
    # Beside what stands in the room the background is a mix of both.
    for colour in (*palette.walls, *palette.sides):
        mixed, residual = _onto(levels, plate, np.asarray(colour, np.float64))
        take = standing & ~core & (residual <= NEAR_SLAB)
        plate[take] = mixed[take]
    names = list(palette.colours)
    found: list[list[Piece]] = [[] for _ in levels]
    taken = np.zeros(levels.shape[:3], np.bool_)
    for number, name in enumerate(names):
        own = core & (nearest == number)
        if not own.any():
            continue
        labels = label(own)
        for frame in np.flatnonzero(own.any((1, 2))).tolist():
            for piece in np.unique(labels[frame][own[frame]]).tolist():
                body = labels[frame] == piece
                if not _thick(body):
                    continue
                box = _box(body)
                mask = np.zeros(body.shape)
                mask[box] = _soft(levels[frame][box], plate[frame][box], body[box], (core[frame] & ~body)[box])
                taken[frame] |= mask > 0.0
                area = float(mask.sum())
                if area >= min_area:
                    found[frame].append(Piece(name, _centroid(mask), area, mask))
    beside = np.linalg.norm(levels - plate, axis=-1) > MAX_BESIDE
    beside &= ~grown(taken) & ~grown(grown(standing))
    pieces = tuple(tuple(sorted(each, key=lambda piece: -piece.area)) for each in found)
    return Layers(pieces, walls, sides, float(beside.mean()))


def nearest_setting(levels: Floats, settings: Sequence[Setting]) -> int:
    """The number of the setting whose empty room is most like the picture."""
    if len(settings) == 1:
        return 0
    return int(np.argmin([np.minimum(np.abs(levels - each.plate).sum(-1), MAX_BESIDE).mean() for each in settings]))


def _standing(levels: Floats, setting: Setting, palette: Palette) -> tuple[Bools, Bools, Floats]:
    """Where something stands, rim included (F, H, W); where it is a wall (F, H, W); and places of sides in the room."""
    frames, height, width = levels.shape[:3]
    standing, walls = np.zeros((frames, height, width), np.bool_), np.zeros((frames, height, width), np.bool_)
    sides: list[Floats] = []
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    grid = np.stack([x, y], axis=-1)
    for kind, colours in (("wall", palette.walls), ("side", palette.sides)):
        for colour in colours:
            near = np.linalg.norm(levels - np.asarray(colour, np.float64), axis=-1) <= NEAR_SLAB
            seen = np.zeros((height, width))
            for frame in range(frames):
                seen += _looked_up(near[frame], setting.picture(grid, frame))
            there = seen >= STILL * frames
            if not there.any():
                continue
            if kind == "side":
                sides.append(grid[there])
            for frame in range(frames):
                here = _looked_up(there, setting.room(grid, frame))
                standing[frame] |= grown(here)
                if kind == "wall":
                    walls[frame] |= here & near[frame]
    return standing, walls, np.concatenate(sides) if sides else np.zeros((0, 2))


def _looked_up(mask: Bools, places: Floats) -> Bools:
    """A mask (H, W) at places (H, W, 2) (x, y); False outside."""
    height, width = mask.shape
    column, row = (np.floor(places[..., axis]).astype(np.int64) for axis in (0, 1))
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    return np.asarray(mask[np.clip(row, 0, height - 1), np.clip(column, 0, width - 1)] & inside)


def _onto(levels: Floats, start: Floats, end: Floats) -> tuple[Floats, Floats]:
    """The nearest mixes of two colours, and how far off they are."""
    axis = end - start
    length = np.maximum((axis * axis).sum(-1), 1e-9)
    share = np.clip(((levels - start) * axis).sum(-1) / length, 0.0, 1.0)
    mixed = start + share[..., None] * axis
    return mixed, np.linalg.norm(levels - mixed, axis=-1)


def _thick(body: Bools) -> bool:
    """Whether a mask (H, W) is two pixels wide somewhere, in both directions."""
    return bool((body[1:, 1:] & body[:-1, 1:] & body[1:, :-1] & body[:-1, :-1]).any())


def _box(body: Bools) -> tuple[slice, slice]:
    """The rows and columns of a mask (H, W), and three more on each side: all that `_soft` looks at."""
    rows, columns = np.flatnonzero(body.any(1)), np.flatnonzero(body.any(0))
    return tuple(slice(max(0, int(each[0]) - 3), int(each[-1]) + 4) for each in (rows, columns))  # type: ignore[return-value]


def _soft(levels: Floats, plate: Floats, body: Bools, others: Bools) -> Floats:
    """How much of each pixel (H, W) a piece covers: 1 inside, and at its rim what the colours inside it say.

    others: the bodies of other pieces, which are not its rim.
    """
    inside = ~grown(~body)
    mask = np.where(inside, 1.0, 0.0)
    ring = grown(body) & ~inside & ~others
    own = np.median(levels[inside if inside.any() else body], axis=0)
    near = np.lib.stride_tricks.sliding_window_view(np.pad(inside, 2), (5, 5))[ring]  # (R, 5, 5)
    around = np.lib.stride_tricks.sliding_window_view(np.pad(levels, ((2, 2), (2, 2), (0, 0))), (5, 5), (0, 1))[ring]
    counts = near.sum((1, 2))[:, None]
    inks = np.where(counts > 0, (around * near[:, None]).sum((2, 3)) / np.maximum(counts, 1), own)  # (R, 3)
    axis, away = inks - plate[ring], levels[ring] - plate[ring]
    shares = np.clip((away * axis).sum(1) / np.maximum((axis * axis).sum(1), 1e-9), 0.0, 1.0)
    near_axis = np.linalg.norm(away - shares[:, None] * axis, axis=1) <= MAX_OFF
    mask[ring] = np.where((shares >= FAINT) & (body[ring] | near_axis), shares, 0.0)
    return mask


def _centroid(mask: Floats) -> Floats:
    height, width = mask.shape
    total = mask.sum()
    return np.array(
        [mask.sum(0) @ (np.arange(width) + 0.5) / total, mask.sum(1) @ (np.arange(height) + 0.5) / total], np.float64
    )
