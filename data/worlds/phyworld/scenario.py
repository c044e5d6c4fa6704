"""The three scenarios of Kang et al. 2024 ("How Far is Video Generation from World Model: A Physical Law Perspective",
arXiv 2411.02385): one ball in uniform motion, two balls that collide, one ball that is thrown.

The world is a square of 10 x 10 units, x to the right and y up; times are in seconds. All figures below are from the
authors' generators (github.com/phyworld/phyworld, id_ood_data/one_ball_uniform_motion.py, one_ball_parabola.py,
two_balls_collision.py, read in 2026). Three things differ, because these scenes are solved exactly:

- the authors step Box2D by 0.01 s and take frame i at 0.01 + 0.1 i seconds; here frame i is at 0.1 i seconds;
- Box2D's fall is that of a semi-implicit Euler step, half a step's gravity (0.0125 units/s) faster;
- Box2D's balls that approach with less than 1 unit/s do not bounce; here every collision is elastic.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from data.worlds.outline import Floats
from data.worlds.stream import Stream

Range = tuple[float, float]

WORLD = 10.0  # units along each side
GRAVITY = 2.5  # units/s^2, downwards
FRAME = 0.1  # seconds between two frames
EDGE = 0.5  # units that the place of a ball keeps from the upper and the lower edge
VISIBLE = 24 * FRAME  # seconds for which a ball is wholly in the picture, where it is not too fast
LEAD = 8 * FRAME  # seconds before a collision, at least, and behind it, at least
CLIP = 32 * FRAME  # seconds of a clip
UNEQUAL = 2.0  # ratio of radii beyond which the pair is placed so that the lighter ball has room to fly
_TRIES = 1000  # draws of radii and speeds until they leave room for a collision

TRAIN = "train"
IN_DISTRIBUTION = "in_distribution"
RADIUS, SPEED, BOTH = "unseen_radius", "unseen_speed", "unseen_radius_and_speed"
UNSEEN = (RADIUS, SPEED, BOTH)
OUT_OF_DISTRIBUTION = "out_of_distribution"  # these three in turn
SPLITS = (TRAIN, IN_DISTRIBUTION, *UNSEEN, OUT_OF_DISTRIBUTION)


@dataclass(frozen=True)
class Ranges:
    """Of radii (units) and speeds (units/s).

    radius, speed: of training. small, large, slow, fast: outside of training, below and above. counted: the public
    evaluation leaves clips out in which a ball is smaller.
    """

    radius: Range
    speed: Range
    small: Range
    large: Range
    slow: Range
    fast: Range
    counted: float


@dataclass(frozen=True)
class Scene:
    """N balls at time 0: radii (N,), starts (N, 2) and velocities (N, 2)."""

    radii: Floats
    starts: Floats
    velocities: Floats
    gravity: float

    @property
    def masses(self) -> Floats:
        """(N,), of equal density: the area over pi."""
        return self.radii * self.radii

    @property
    def contact(self) -> float | None:
        """Seconds until two balls touch, which move along one horizontal line; None: they never do."""
        if len(self.radii) == 1:
            return None
        gap = self.starts[1, 0] - self.starts[0, 0] - self.radii.sum()
        closing = self.velocities[0, 0] - self.velocities[1, 0]
        return float(gap / closing) if closing > 0.0 else None

    @property
    def after(self) -> Floats:
        """Velocities (N, 2) behind an elastic collision, head on: momentum and energy are kept."""
        (m, n), (u, v) = self.masses, self.velocities[:, 0]
        left = ((m - n) * u + 2.0 * n * v) / (m + n)
        right = ((n - m) * v + 2.0 * m * u) / (m + n)
        return np.stack([np.array([left, right]), self.velocities[:, 1]], axis=1)

    def at(self, times: Floats) -> tuple[Floats, Floats]:
        """Positions and velocities, (F, N, 2) each, at `times` (F,) in seconds."""
        time = times[:, None, None]
        fall = np.array([0.0, -self.gravity])
        contact = self.contact
        if contact is None:
            return self.starts + self.velocities * time + 0.5 * fall * time * time, self.velocities + fall * time
        early, late = np.minimum(time, contact), np.maximum(time - contact, 0.0)
        positions = self.starts + self.velocities * early + self.after * late
        return positions, np.where(time < contact, self.velocities, self.after)


@dataclass(frozen=True)
class Scenario:
    """What happens, to how many balls, drawn from which ranges. caption: what a clip shows, for networks that read."""

    name: str
    caption: str
    balls: int
    gravity: float
    high: bool  # the ball starts within a unit of the highest place, so that it has room to fall
    ranges: Ranges

    def draw(self, stream: Stream, split: str, small: bool) -> Scene:
        """A scene of a split.

        split: one of `SPLITS` but "out_of_distribution". small: whether unseen radii are also those below training's,
        which the public evaluation leaves out.
        """
        ranges = self.ranges
        other_radii = [ranges.small, ranges.large] if small else [ranges.large]
        for _ in range(_TRIES):
            radii = self._draw(stream, ranges.radius, other_radii if split in (RADIUS, BOTH) else [])
            speeds = self._draw(stream, ranges.speed, [ranges.slow, ranges.fast] if split in (SPEED, BOTH) else [])
            places = self._one(stream, radii[0], speeds[0]) if self.balls == 1 else _pair(stream, radii, speeds)
            if places is not None:
                break
        else:
            raise AssertionError(f"{_TRIES} draws of {self.name}, {split}, left no room")
        height = self._height(stream, max(radii))
        signs = (1.0, -1.0)[: self.balls]  # the second ball comes from the right
        starts = np.array([[x, height] for x in places])
        velocities = np.array([[sign * speed, 0.0] for sign, speed in zip(signs, speeds, strict=True)])
        return Scene(np.array(radii), starts, velocities, self.gravity)

    def _draw(self, stream: Stream, usual: Range, unseen: Sequence[Range]) -> list[float]:
        """A number for each ball, of the usual range; where there are unseen ones, of these for the first ball, for the
        second or for both."""
        which = int(3.0 * stream.unit()) if unseen and self.balls == 2 else 2
        outside = [bool(unseen) and which in (ball, 2) for ball in range(self.balls)]
        return [_between(stream, *(stream.one_of(unseen) if out else usual)) for out in outside]

    def _one(self, stream: Stream, radius: float, speed: float) -> list[float]:
        last = WORLD - VISIBLE * speed - radius
        if last < radius:  # too fast: it starts near the left edge
            last = radius + 0.5 * stream.unit()
        return [_between(stream, radius, last)]

    def _height(self, stream: Stream, radius: float) -> float:
        highest = WORLD - EDGE - radius
        return _between(stream, highest - 1.0 if self.high else radius + EDGE, highest)


def _between(stream: Stream, low: float, high: float) -> float:
    return low + (high - low) * stream.unit()


def _pair(stream: Stream, radii: list[float], speeds: list[float]) -> list[float] | None:
    """Where two balls start so that they meet neither before `LEAD` seconds nor later than `LEAD` before the end; None:
    there is no such place."""
    (r, s), closing = radii, sum(speeds)
    room = WORLD - r - s  # both are wholly in the picture
    nearest = LEAD * closing + r + s
    farthest = min((CLIP - LEAD) * closing + r + s, room)
    if max(r, s) > UNEQUAL * min(r, s):
        farthest = min(farthest, 1.25 * nearest)
    if nearest > farthest:
        return None
    distance = _between(stream, nearest, farthest)
    last = WORLD - s - distance
    first = max(last - EDGE, r) if s > UNEQUAL * r else r  # a light ball flies back to the left, so it starts far right
    x = _between(stream, first, last)
    return [x, x + distance]


_SLOW, _FAST = (0.0, 0.8), (4.5, 6.0)
_ONE = Ranges((0.7, 1.4), (1.0, 4.0), (0.3, 0.6), (1.5, 2.0), _SLOW, _FAST, counted=0.6)
_TWO = Ranges((0.5, 1.5), (1.0, 4.0), (0.3, 0.4), (1.7, 2.0), _SLOW, _FAST, counted=0.5)
SCENARIOS: Mapping[str, Scenario] = {
    each.name: each
    for each in (
        Scenario("uniform", "a red ball moves right at a steady speed", 1, 0.0, False, _ONE),
        Scenario("collision", "a red ball and a blue ball collide", 2, 0.0, False, _TWO),
        Scenario("parabola", "a red ball is thrown to the right and falls", 1, GRAVITY, True, _ONE),
    )
}
