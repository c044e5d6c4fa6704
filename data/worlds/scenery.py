"""What stands in the room beside the objects: walls that hide them, boxes and cups that hold them; one entry each.

Everything is made of slabs, upright rectangles that do not move.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

Colour = tuple[int, int, int]

THICK = 0.03  # of a container's sides, frame heights
WALL: Colour = (120, 120, 124)  # what hides objects
SIDE: Colour = (150, 120, 90)  # what holds them
_ROOMY = 0.06  # by so many frame heights a wall is wider than what it hides, which is then hidden for a while


def rgb(value: Sequence[int]) -> Colour:
    """Three numbers from 0 to 255 as a colour. ValueError for others."""
    if len(value) != 3 or not all(0 <= part <= 255 for part in value):
        raise ValueError(f"colour {list(value)} is not three numbers from 0 to 255")
    red, green, blue = (int(part) for part in value)
    return red, green, blue


class Slab(NamedTuple):
    """A rectangle in the room, in frame heights, y down. In front of the objects it hides them; behind, it is `solid`
    and stops those that meet others."""

    left: float
    top: float
    right: float
    bottom: float
    colour: Colour
    front: bool

    @property
    def solid(self) -> bool:
        """Whether objects bounce off it."""
        return not self.front


class Bounds(NamedTuple):
    """Where objects may start, in frame heights."""

    left: float
    top: float
    right: float
    bottom: float


class Crossing(NamedTuple):
    """How an object crosses the room: where it starts, the way until the clip ends, and how far it reaches around."""

    start: tuple[float, float]
    way: tuple[float, float]
    reach: tuple[float, float, float, float]  # left, right, up, down


Unit = Callable[[], float]  # a random number in [0, 1)


def _wall(room: Bounds, crossings: Sequence[Crossing], unit: Unit) -> tuple[Slab, ...]:
    """Across the middle of the first object's way, upright if it moves to a side, and wide enough to hide each one."""
    first = crossings[0]
    upright = abs(first.way[0]) >= abs(first.way[1])
    axis = 0 if upright else 1
    width = max(sum(each.reach[2 * axis : 2 * axis + 2]) for each in crossings) + _ROOMY
    # The middle of the object as it is seen, half-way, and a little before or after.
    offset = 0.5 * (first.reach[2 * axis + 1] - first.reach[2 * axis])
    middle = first.start[axis] + (0.48 + 0.04 * unit()) * first.way[axis] + offset
    low, high = middle - 0.5 * width, middle + 0.5 * width
    if upright:
        return (Slab(low, room.top, high, room.bottom, WALL, front=True),)
    return (Slab(room.left, low, room.right, high, WALL, front=True),)


def _container(lid: bool, width: float, height: float) -> Callable[[Bounds, Unit], tuple[tuple[Slab, ...], Bounds]]:
    """Sides around an inner room of up to `width` by `height`, with or without a lid."""

    def build(room: Bounds, unit: Unit) -> tuple[tuple[Slab, ...], Bounds]:
        across, down = room.right - room.left - 2 * THICK, room.bottom - room.top - 2 * THICK
        if width > across or height > down:
            raise ValueError(
                f"a box or cup of up to {width:g} by {height:g} frame heights does not fit into a frame of "
                f"{room.right - room.left:g} by 1; make frames wider, or leave sceneries out"
            )
        wide, high = width * (0.85 + 0.15 * unit()), height * (0.85 + 0.15 * unit())
        left = room.left + THICK + (across - wide) * unit()
        # A box may hang anywhere; a cup stands on the floor.
        top = room.top + THICK + (down - high) * (unit() if lid else 1.0)
        right, bottom = left + wide, top + high
        ceiling = top - THICK if lid else top
        sides = [
            Slab(left - THICK, ceiling, left, bottom + THICK, SIDE, front=False),
            Slab(right, ceiling, right + THICK, bottom + THICK, SIDE, front=False),
            Slab(left, bottom, right, bottom + THICK, SIDE, front=False),
        ]
        if lid:
            sides.append(Slab(left, top - THICK, right, top, SIDE, front=False))
        return tuple(sides), Bounds(left, top, right, bottom)

    return build


@dataclass(frozen=True)
class Scenery:
    """What stands in a room.

    Attributes:
        says: what a caption adds.
        sentence: the same in a long caption.
        motions: those that are shown with it; None: all.
        holder: makes its slabs and the room that is left for objects, before they have their places; None: it has none.
        cover: makes its slabs once the objects have their ways; None: it has none.
    """

    says: str
    sentence: str
    motions: tuple[str, ...] | None = None
    holder: Callable[[Bounds, Unit], tuple[tuple[Slab, ...], Bounds]] | None = None
    cover: Callable[[Bounds, Sequence[Crossing], Unit], tuple[Slab, ...]] | None = None


SCENERIES: dict[str, Scenery] = {
    "plain": Scenery("", "Nothing else is in the room."),
    "wall": Scenery(", behind a wall", "A wall stands in front.", ("straight",), cover=_wall),
    "box": Scenery(
        ", in a box",
        "A box holds everything.",
        ("bounce", "fall", "drop", "throw", "glide", "rest"),
        holder=_container(lid=True, width=0.75, height=0.7),
    ),
    "cup": Scenery(
        ", in a cup",
        "A cup holds everything.",
        ("fall", "drop"),
        holder=_container(lid=False, width=0.7, height=0.55),
    ),
}
