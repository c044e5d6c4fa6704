"""Clips of a world in which something happens that cannot, each beside a possible one that begins in the same way.

They come in fours, as those of IntPhys (Riochet et al. 2018, arXiv:1803.07616; IntPhys 2, Bordes et al. 2025,
arXiv:2506.09849): two possible clips, and two impossible ones that are made of the same frames. Up to the event each
impossible clip is one of the possible ones, and from then on it goes on as the other: a red circle that stays red and
a blue one that stays blue; a red one that turns blue and a blue one that turns red. So no frame tells which clips are
impossible. Whoever judges by frames alone, as by how easy each is to denoise, is right about one pair of two.

Four number i of a kind is a pure function of the world, a seed and i. `KINDS` lists what can happen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import pi, sqrt

import numpy as np
from numpy.typing import NDArray

from data.worlds.outline import SHAPES, Floats, quantise
from data.worlds.scene import MARGIN
from data.worlds.state import Clip, State
from data.worlds.world import World

SEEN = 0.7  # share of an object's area that is to be seen around the event
BRIGHT = 24  # levels by which a pixel must differ to be seen as another


@dataclass(frozen=True)
class Cast:
    """Who is in a clip: the state of a world, and which of its N objects are there, bool `(N,)`."""

    state: State
    there: NDArray[np.bool_]

    @property
    def words(self) -> list[tuple[int, int, float]]:
        """(shape, colour, radius) of each object that is there."""
        state = self.state
        return [
            (int(state.shapes[item]), int(state.colours[item]), float(state.radii[item])) for item in self.items
        ]  # fmt: skip

    @property
    def items(self) -> list[int]:
        """The objects that are there."""
        return np.flatnonzero(self.there).tolist()

    def without(self, item: int) -> Cast:
        """All objects but one."""
        there = self.there.copy()
        there[item] = False
        return Cast(self.state, there)

    def with_shape(self, item: int, shape: int) -> Cast:
        """One object has another shape."""
        shapes = self.state.shapes.copy()
        shapes[item] = shape
        return replace(self, state=replace(self.state, shapes=shapes))

    def with_colour(self, item: int, colour: int) -> Cast:
        """One object has another colour."""
        colours = self.state.colours.copy()
        colours[item] = colour
        return replace(self, state=replace(self.state, colours=colours))

    def with_way(self, item: int, way: Floats) -> Cast:
        """One object goes another way `(F, 2)`."""
        positions = self.state.positions.copy()
        positions[:, item] = quantise(way)
        return replace(self, state=replace(self.state, positions=positions))

    def without_slabs(self) -> Cast:
        """Nothing stands in the room."""
        return replace(self, state=replace(self.state, slabs=()))

    def reach(self, world: World, item: int) -> float:
        """How far the farthest point of an object is from its centroid, in frame heights."""
        outline = SHAPES[world.shapes[self.state.shapes[item]]]
        return float(self.state.radii[item]) * max(sqrt(x * x + y * y) for x, y in outline.vertices)

    def stays_inside(self, world: World, item: int) -> bool:
        """Whether all of an object is in the room at all times."""
        extent = SHAPES[world.shapes[self.state.shapes[item]]].extent
        left, right, up, down = (self.state.radii[item] * reach + MARGIN for reach in extent)
        x, y = self.state.positions[:, item].T
        wide = world.width / world.height
        return bool((x >= left).all() and (x <= wide - right).all() and (y >= up).all() and (y <= 1.0 - down).all())

    def paint(self, world: World) -> NDArray[np.uint8]:
        """The clip, `(F, H, W, 3)`."""
        return world.paint(self.state, np.broadcast_to(self.there, self.state.positions.shape[:2]))


@dataclass(frozen=True)
class Film:
    """A clip, uint8 `(F, H, W, 3)`, and who is in it before frame `since`, and from that frame on. At `since` something
    happens; in a hidden place it is not seen at once."""

    pixels: NDArray[np.uint8]
    before: Cast
    after: Cast
    since: int

    @property
    def positions(self) -> Floats:
        """`(F, N, 2)` of all objects, there or not."""
        since = self.since
        return np.concatenate([self.before.state.positions[:since], self.after.state.positions[since:]])


@dataclass(frozen=True)
class Four:
    """Two pairs of clips, `possible[i]` and `impossible[i]`, equal up to frame `event`, the first that differs.

    item: the object to which something happens. caption: of the world's clip that is the first possible one.
    """

    kind: str
    event: int
    item: int
    caption: str
    possible: tuple[Film, Film]
    impossible: tuple[Film, Film]


@dataclass(frozen=True)
class Plot:
    """Who is in the two possible clips, and who is in the impossible ones from frame `since` on.

    hidden: whether nobody sees it happen.
    """

    item: int
    since: int
    possible: tuple[Cast, Cast]
    goes_on: tuple[Cast, Cast]
    hidden: bool = False


def film(world: World, clip: Clip, kind: str, plot: Plot, events: Sequence[int]) -> Four | None:
    """The clips of a plot; None where what happens cannot be seen, or is first seen at no frame of `events`."""
    painted = {id(cast): cast.paint(world) for cast in (*plot.possible, *plot.goes_on)}
    if not plot.hidden:
        frames = [plot.since - 1, plot.since]
        casts = (*plot.possible, *plot.goes_on)
        if not all(_seen(world, cast, plot.item, painted[id(cast)], frames) for cast in casts):
            return None
    possible, impossible, differ = [], [], []
    for begins, goes_on in zip(plot.possible, plot.goes_on, strict=True):
        first, other = painted[id(begins)], painted[id(goes_on)]
        spliced = np.concatenate([first[: plot.since], other[plot.since :]])
        possible.append(Film(first, begins, begins, plot.since))
        impossible.append(Film(spliced, begins, goes_on, plot.since))
        away = np.abs(spliced.astype(np.int16) - first).max(3)
        differ.append((away > 0).any((1, 2)).argmax() if (away > BRIGHT).any() else len(away))
    if differ[0] != differ[1] or differ[0] not in events:
        return None
    pairs = ((films[0], films[1]) for films in (possible, impossible))
    return Four(kind, int(differ[0]), plot.item, clip.caption, *pairs)


def _seen(world: World, cast: Cast, item: int, pixels: NDArray[np.uint8], frames: Sequence[int]) -> bool:
    """Whether most of an object can be seen in each of some frames; True where it is not there."""
    if not cast.there[item]:
        return True
    away = np.abs(cast.without(item).paint(world).astype(np.int16) - pixels).max(3)[frames]
    radii = cast.state.radii[item] * world.height * cast.state.view.scale[frames]
    return bool(((away > BRIGHT).sum((1, 2)) >= SEEN * pi * radii**2).all())
