"""Which meanings a world has, which of them are held out, and how a scene is drawn from a stream of random numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import TypeVar

import numpy as np

from data.worlds.caption import DIRECTIONS, ObjectSpec, says_speed
from data.worlds.render import SHAPES, quantise
from data.worlds.simulate import MOTIONS, Start

T = TypeVar("T")
MARGIN = 0.02  # frame heights between a path and the frame's edge, so that the soft outline stays inside
_SALT = 19086  # of 20,000 tried, the one that holds out the words of configs/data/dataset/demo_world.yaml most evenly
_TRIES = 64  # draws of a starting place before objects may start on top of one another


def is_held_out(colour: str, shape: str, direction: str, fraction: float) -> bool:
    """Whether a combination is on the held-out side.

    A hash of the words alone decides, so the answer is the same in every world, and a larger fraction only adds
    combinations.
    """
    digest = blake2b(f"{_SALT} {colour} {shape} {direction}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < fraction * 2.0**64


def motion_directions(motion: str, directions: Sequence[str]) -> list[str]:
    """The directions that `motion` takes in a world with these `directions`; one that has no choice needs no word."""
    own = MOTIONS[motion].directions or directions
    return [word for word in own if word in directions or len(own) == 1]


class Stream:
    """Random numbers number `index` of `seed`: Philox counter blocks, the same on every machine and numpy."""

    def __init__(self, seed: int, index: int) -> None:
        # Only raw words are used: numpy promises their stream, not that of its distributions.
        self._philox = np.random.Philox(counter=[0, 0, index, 0], key=[seed, 0])
        self._words: list[int] = []

    def unit(self) -> float:
        """Uniform in [0, 1), a multiple of 2**-53."""
        if not self._words:
            self._words = self._philox.random_raw(32).tolist()
        return (self._words.pop() >> 11) * 2.0**-53

    def one_of(self, items: Sequence[T]) -> T:
        """An item, all equally likely."""
        return items[int(self.unit() * len(items))]

    def weighted(self, weights: Mapping[T, float]) -> T:
        """A key, as likely as its weight says."""
        level = self.unit() * sum(weights.values())
        for key, weight in weights.items():
            level -= weight
            if level < 0.0:
                return key
        return key


@dataclass(frozen=True)
class Stage:
    """What drawing a start needs to know: `aspect` is width over height, `duration` in seconds."""

    aspect: float
    duration: float
    sizes: Mapping[str, float]  # word -> radius, frame heights
    speeds: Mapping[str, float]  # word -> frame heights a second
    speed_jitter: float  # speeds vary by this share at most

    def speed(self, spec: ObjectSpec) -> float:
        """Frame heights a second that the words mean; what says no speed is let go from rest."""
        return self.speeds[spec.speed] if says_speed(spec.motion) else 0.0

    def room(self, spec: ObjectSpec, speed: float) -> tuple[float, float, float, float]:
        """Lowest x, highest x, lowest y, highest y of a start; the whole straight path stays inside."""
        radius = self.sizes[spec.size]
        left, right, up, down = (radius * reach + MARGIN for reach in SHAPES[spec.shape].extent)
        dx, dy = (speed * part * self.duration for part in DIRECTIONS[spec.direction])
        if MOTIONS[spec.motion].contact:  # the walls keep it inside
            dx = dy = 0.0
        return left - min(dx, 0.0), self.aspect - right - max(dx, 0.0), up - min(dy, 0.0), 1.0 - down - max(dy, 0.0)

    def check(self, spec: ObjectSpec) -> None:
        """Raises ValueError when an object cannot stay in the frame for the whole clip."""
        speed = self.speed(spec) * (1.0 + self.speed_jitter)
        x0, x1, y0, y1 = self.room(spec, speed)
        short = max(x0 - x1, y0 - y1)
        if short > 0.0:
            raise ValueError(
                f"a {spec.size} {spec.shape} moving {spec.direction} at {speed:g} frame heights a second leaves the "
                f"frame within {self.duration:g} s by {short:.3f} frame heights; shorten num_frames / fps, or lower "
                f"speed or size"
            )

    def start(self, spec: ObjectSpec, stream: Stream, others: Sequence[Start]) -> Start:
        """A start for `spec` that keeps clear of `others` where there is room."""
        speed = self.speed(spec) * (1.0 + self.speed_jitter * (2.0 * stream.unit() - 1.0))
        x0, x1, y0, y1 = self.room(spec, speed)
        radius = self.sizes[spec.size]
        for _ in range(_TRIES):
            x, y = x0 + (x1 - x0) * stream.unit(), y0 + (y1 - y0) * stream.unit()
            if all(_apart(x, y, radius, other) for other in others):
                break
        place = quantise(np.array([x, y])).tolist()
        return Start(spec.shape, radius, spec.motion, (place[0], place[1]), _velocity(spec, speed))


def _apart(x: float, y: float, radius: float, other: Start) -> bool:
    dx, dy, reach = x - other.position[0], y - other.position[1], 1.7 * (radius + other.radius)  # 1.7: a star's points
    return dx * dx + dy * dy > reach * reach


def _velocity(spec: ObjectSpec, speed: float) -> tuple[float, float]:
    dx, dy = DIRECTIONS[spec.direction]
    return speed * dx, speed * (dy - MOTIONS[spec.motion].lift)
