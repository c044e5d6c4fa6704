"""From words to numbers: where the objects of a meaning start, how fast, how large, and what stands around them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from data.worlds.caption import ObjectSpec, Spec
from data.worlds.motion import DIRECTIONS, MATERIALS, MOTIONS
from data.worlds.outline import SHAPES, quantise
from data.worlds.scenery import SCENERIES, Bounds, Crossing, Slab
from data.worlds.simulate import Start
from data.worlds.stream import Stream

MARGIN = 0.02  # frame heights between a path and the frame's edge, so that the soft outline stays inside
_TRIES = 64  # draws of a starting place before objects may start on top of one another
_CAREFUL_TRIES = 256
_MEET = (0.3, 0.55)  # share of the clip after which two objects that collide meet, from and to
_OFF_CENTRE = 0.5  # how far the smaller of them may be off the other's line, in its radii


@dataclass(frozen=True)
class Scene:
    """The numbers of one meaning, before anything moves."""

    starts: tuple[Start, ...]
    slabs: tuple[Slab, ...]


@dataclass(frozen=True)
class Stage:
    """What drawing a start needs to know: `aspect` is width over height, `duration` in seconds."""

    aspect: float
    duration: float
    sizes: Mapping[str, float]  # word -> radius, frame heights
    speeds: Mapping[str, float]  # word -> frame heights a second
    speed_jitter: float  # speeds vary by this share at most
    size_jitter: float = 0.0  # likewise radii
    # Where no draw of a start is clear of others, the clearest is taken. The last one is in worlds of before.
    careful: bool = False

    @property
    def whole(self) -> Bounds:
        """All of the room."""
        return Bounds(0.0, 0.0, self.aspect, 1.0)

    def speed(self, spec: ObjectSpec) -> float:
        """Frame heights a second that the words mean; what says no speed is let go from rest."""
        return self.speeds[spec.speed] if MOTIONS[spec.motion].says_speed else 0.0

    def room(self, spec: ObjectSpec, speed: float, radius: float, bounds: Bounds) -> Bounds:
        """Lowest and highest x and y of a start; the whole straight path stays inside."""
        left, right, up, down = (radius * reach + MARGIN for reach in SHAPES[spec.shape].extent)
        dx, dy = (speed * part * self.duration for part in DIRECTIONS[spec.direction])
        if MOTIONS[spec.motion].contact:  # the walls keep it inside
            dx = dy = 0.0
        return Bounds(
            bounds.left + left - min(dx, 0.0),
            bounds.top + up - min(dy, 0.0),
            bounds.right - right - max(dx, 0.0),
            bounds.bottom - down - max(dy, 0.0),
        )

    def check(self, spec: ObjectSpec) -> None:
        """Raises ValueError when an object cannot stay in the frame for the whole clip."""
        speed, radius = self.speed(spec) * (1.0 + self.speed_jitter), self.sizes[spec.size] * (1.0 + self.size_jitter)
        x0, y0, x1, y1 = self.room(spec, speed, radius, self.whole)
        short = max(x0 - x1, y0 - y1)
        if short > 0.0:
            raise ValueError(
                f"a {spec.size} {spec.shape} moving {spec.direction} at {speed:g} frame heights a second leaves the "
                f"frame within {self.duration:g} s by {short:.3f} frame heights; shorten num_frames / fps, or lower "
                f"speed or size"
            )

    def check_around(self, spec: ObjectSpec, scenery: str) -> None:
        """Raises ValueError when an object does not fit into what stands around it, or does not come out behind it."""
        built = SCENERIES[scenery]
        speed, radius = self.speed(spec), self.sizes[spec.size] * (1.0 + self.size_jitter)
        if built.holder is not None:
            bounds = built.holder(self.whole, _smallest)[1]
            x0, y0, x1, y1 = self.room(spec, speed, radius, bounds)
            if max(x0 - x1, y0 - y1) > 0.0:
                raise ValueError(
                    f"a {spec.size} {spec.shape} is too large for a {scenery}; lower its size, or name others"
                )
        crossing = self._crossing(spec.shape, spec.direction, radius, speed * (1.0 - self.speed_jitter), (0.0, 0.0))
        for slab in built.cover(self.whole, [crossing], _smallest) if built.cover is not None else ():
            axis = 0 if abs(crossing.way[0]) >= abs(crossing.way[1]) else 1
            own, way = sum(crossing.reach[2 * axis : 2 * axis + 2]), abs(crossing.way[axis])
            hidden = (slab.right - slab.left, slab.bottom - slab.top)[axis]
            # Half of the way lies on each side of the wall's middle, which is off by 2 % at most.
            if 0.96 * way < own + hidden:
                raise ValueError(
                    f"a {spec.size} {spec.shape} at {speed:g} frame heights a second goes {way:.2f} in "
                    f"{self.duration:g} s, and needs {own + hidden:.2f} to come out behind a {scenery}; raise speeds "
                    f"or num_frames / fps, or lower sizes"
                )

    def check_meeting(self, shapes: Sequence[str], sizes: Sequence[str]) -> None:
        """Raises ValueError when two of the largest objects have no room to come from apart on one line."""
        radius = max(self.sizes[size] for size in sizes) * (1.0 + self.size_jitter)
        for axis, length in enumerate((self.aspect, 1.0)):
            own = 2.0 * radius * max(sum(SHAPES[shape].extent[2 * axis : 2 * axis + 2]) for shape in shapes)
            if own + 2.0 * MARGIN >= length:
                raise ValueError(
                    f"two objects of radius {radius:g} do not fit side by side into {length:g} frame heights, so they "
                    f"cannot come to collide; lower sizes, or leave the event out"
                )

    def scene(self, spec: Spec, stream: Stream) -> Scene:
        """The scene of a meaning; the stream decides what the words leave open."""
        built = SCENERIES[spec.scenery]
        held, room = ((), self.whole) if built.holder is None else built.holder(self.whole, stream.unit)
        starts = self._collision(spec.objects[0], spec.objects[1], stream, room) if spec.event == "collide" else []
        for item in spec.objects[len(starts) :]:
            starts.append(self.start(item, stream, starts, room))
        if built.cover is None:
            return Scene(tuple(starts), held)
        crossings = [
            self._crossing(item.shape, item.direction, start.radius, _length(start.velocity), start.position)
            for item, start in zip(spec.objects, starts, strict=True)
        ]
        return Scene(tuple(starts), held + built.cover(self.whole, crossings, stream.unit))

    def start(self, spec: ObjectSpec, stream: Stream, others: Sequence[Start], bounds: Bounds) -> Start:
        """A start for `spec` within `bounds` that keeps clear of `others` where there is room."""
        speed, radius = self._drawn(spec, stream)
        x0, y0, x1, y1 = self.room(spec, speed, radius, bounds)
        if MOTIONS[spec.motion].grounded:
            y0 = y1 = y1 + MARGIN
        best: tuple[float, float, float] | None = None
        for _ in range(_CAREFUL_TRIES if self.careful else _TRIES):
            x, y = x0 + (x1 - x0) * stream.unit(), y0 + (y1 - y0) * stream.unit()
            gap = min((_gap(x, y, radius, other) for other in others), default=1.0)
            if gap > 0.0:
                break
            best = (gap, x, y) if best is None else max(best, (gap, x, y))
        else:
            if best is not None and self.careful:
                _, x, y = best
        return _start(spec, radius, speed, x, y)

    def _drawn(self, spec: ObjectSpec, stream: Stream) -> tuple[float, float]:
        """Speed and radius of one object."""
        speed = self.speed(spec) * (1.0 + self.speed_jitter * (2.0 * stream.unit() - 1.0))
        varied = 1.0 + self.size_jitter * (2.0 * stream.unit() - 1.0) if self.size_jitter > 0.0 else 1.0
        return speed, self.sizes[spec.size] * varied

    def _collision(self, first: ObjectSpec, second: ObjectSpec, stream: Stream, bounds: Bounds) -> list[Start]:
        """Two objects on one line, so that they meet in the middle of the clip, not always head-on."""
        drawn = [self._drawn(item, stream) for item in (first, second)]
        (speed, radius), (other_speed, other_radius) = drawn
        direction = DIRECTIONS[first.direction]
        axis = 0 if direction[0] else 1
        forwards = direction[axis] > 0.0
        reach, other_reach = (
            tuple(size * part for part in SHAPES[item.shape].extent)
            for item, (_, size) in zip((first, second), drawn, strict=True)
        )
        front, back = 2 * axis + forwards, 2 * axis + (not forwards)
        low, high = bounds[axis] + MARGIN, bounds[2 + axis] - MARGIN
        # Behind the first, between the two while they touch, and before the second, which faces the first.
        own = reach[back] + reach[front] + other_reach[back] + other_reach[front]
        closing = speed + other_speed
        until = min(self.duration * (_MEET[0] + (_MEET[1] - _MEET[0]) * stream.unit()), (high - low - own) / closing)
        gap = closing * until
        behind = low + reach[back] + (high - low - own - gap) * stream.unit()
        ahead = behind + reach[front] + gap + other_reach[back]
        along = (behind, ahead) if forwards else (low + high - behind, low + high - ahead)
        across = 1 - axis
        off = _OFF_CENTRE * min(radius, other_radius) * (2.0 * stream.unit() - 1.0)
        least = max(reach[2 * across], other_reach[2 * across] - off) + MARGIN
        most = max(reach[2 * across + 1], other_reach[2 * across + 1] + off) + MARGIN
        side = bounds[across] + least + (bounds[2 + across] - bounds[across] - least - most) * stream.unit()
        places = ((along[0], side), (along[1], side + off))
        starts = []
        for item, (item_speed, size), (u, v) in zip((first, second), drawn, places, strict=True):
            x, y = (u, v) if axis == 0 else (v, u)
            starts.append(_start(item, size, item_speed, x, y))
        return starts

    def _crossing(
        self, shape: str, direction: str, radius: float, speed: float, place: tuple[float, float]
    ) -> Crossing:
        dx, dy = DIRECTIONS[direction]
        left, right, up, down = (radius * part for part in SHAPES[shape].extent)
        return Crossing(place, (dx * speed * self.duration, dy * speed * self.duration), (left, right, up, down))


def _smallest() -> float:
    """In the place of random numbers: of containers the smallest."""
    return 0.0


def _length(vector: tuple[float, float]) -> float:
    x, y = vector
    return float(np.sqrt(x * x + y * y))


def _start(spec: ObjectSpec, radius: float, speed: float, x: float, y: float) -> Start:
    place = quantise(np.array([x, y])).tolist()
    motion = MOTIONS[spec.motion]
    dx, dy = DIRECTIONS[spec.direction]
    velocity = (0.0, 0.0) if motion.steered else (speed * dx, speed * (dy - motion.lift))
    return Start(
        spec.shape, radius, spec.motion, (place[0], place[1]), velocity, MATERIALS[spec.material], speed
    )  # fmt: skip


def _gap(x: float, y: float, radius: float, other: Start) -> float:
    """Above 0 where two objects are apart: square of their distance, less that at which they might touch."""
    dx, dy, reach = x - other.position[0], y - other.position[1], 1.7 * (radius + other.radius)  # 1.7: a star's points
    return dx * dx + dy * dy - reach * reach
