"""Moves objects with pymunk (Chipmunk): straight lines, walls, gravity, contacts.

Lengths are in frame heights, times in seconds, y points down; the frame is `aspect` wide and 1 high. What happens
therefore does not depend on resolution or frame rate: scenes with contacts are stepped at a fixed `STEP` and read off
at the frames' times; without contacts one step a frame is exact.
Objects keep upright (infinite moment of inertia), so that a shape is recognisable in every frame.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pymunk
from numpy.typing import NDArray

from data.worlds.motion import MOTIONS
from data.worlds.outline import PI, SHAPES, Floats, quantise
from data.worlds.scenery import Slab

STEP = 1.0 / 240.0  # seconds
WALLS = ("left", "right", "top", "bottom")
_THICK = 1.0  # wall thickness: far more than any object moves in a step


@dataclass(frozen=True)
class Start:
    """One object at time zero."""

    shape: str
    radius: float
    motion: str
    position: tuple[float, float]
    velocity: tuple[float, float]  # frame heights a second
    density: float = 1.0  # mass for its area
    speed: float = 0.0  # frame heights a second; of one that is steered, how fast keys move it

    @property
    def mass(self) -> float:
        """That of a plain object of radius 1 is pi."""
        return PI * self.radius * self.radius * self.density


class Pilot(Protocol):
    """What steers the first body of a scene."""

    drive: tuple[float | None, float | None]  # the velocity (x, y) that it is given; None: it has its own

    def frame(self, frame: int, bodies: Sequence[pymunk.Body]) -> None:
        """Called when frame `frame` is seen."""


@dataclass(frozen=True)
class Trajectory:
    """What happened: positions and velocities `(F, N, 2)`; contacts `(F, N, N + 4 + S)`, whether an object touched
    object j, wall `WALLS[j - N]` or solid slab `j - N - 4` since the frame before."""

    positions: Floats
    velocities: Floats
    contacts: NDArray[np.bool_]


def _body(space: pymunk.Space, start: Start, label: int) -> pymunk.Body:
    motion = MOTIONS[start.motion]
    if not motion.contact:
        body = pymunk.Body(body_type=pymunk.Body.KINEMATIC)
        space.add(body)
    else:
        body = pymunk.Body(start.mass, float("inf"))
        outline = [(x * start.radius, y * start.radius) for x, y in SHAPES[start.shape].vertices]
        shape = pymunk.Poly(body, outline)
        shape.elasticity, shape.friction, shape.collision_type = motion.restitution, 0.0, label
        space.add(body, shape)
    body.position, body.velocity = start.position, start.velocity
    return body


def _walls(space: pymunk.Space, aspect: float, slabs: Sequence[Slab], first_label: int) -> None:
    low, far = -_THICK, _THICK
    ends = [
        ((low, low - 1), (low, 2 + far)),
        ((aspect + far, low - 1), (aspect + far, 2 + far)),
        ((low - 1, low), (aspect + 2, low)),
        ((low - 1, 1 + far), (aspect + 2, 1 + far)),
    ]
    for label, (a, b) in enumerate(ends, first_label):
        wall = pymunk.Segment(space.static_body, a, b, _THICK)
        wall.elasticity, wall.friction, wall.collision_type = 1.0, 0.0, label
        space.add(wall)
    for label, slab in enumerate(slabs, first_label + len(WALLS)):
        corners = [(slab.left, slab.top), (slab.right, slab.top), (slab.right, slab.bottom), (slab.left, slab.bottom)]
        side = pymunk.Poly(space.static_body, corners)
        side.elasticity, side.friction, side.collision_type = 1.0, 0.0, label
        space.add(side)


def simulate(
    starts: Sequence[Start],
    gravity: float,
    aspect: float,
    num_frames: int,
    fps: float,
    slabs: Sequence[Slab] = (),
    pilot: Pilot | None = None,
) -> Trajectory:
    """Runs a scene for `num_frames` frames, the first at time zero; `gravity` in frame heights per second squared.

    slabs: what stands in the room; the solid ones stop those that meet others.
    """
    count, solid = len(starts), [slab for slab in slabs if slab.solid]
    space = pymunk.Space()
    bodies = [_body(space, start, label) for label, start in enumerate(starts, 1)]
    positions = np.empty((num_frames, count, 2))
    velocities = np.empty((num_frames, count, 2))
    contacts = np.zeros((num_frames, count, count + len(WALLS) + len(solid)), np.bool_)
    if any(MOTIONS[start.motion].contact for start in starts):
        _walls(space, aspect, solid, count + 1)
        run = _Contacts(space, bodies, starts, gravity, pilot)
        steps = 0
        for frame in range(num_frames):
            time = frame / fps
            until = steps
            while (until + 1) * STEP <= time + 1e-9:
                until += 1
            touched = run.steps(until - steps)
            steps = until
            rest = time - steps * STEP  # less than a step: what moves there moves straight
            velocities[frame] = [body.velocity for body in bodies]
            positions[frame] = np.array([body.position for body in bodies]) + rest * velocities[frame]
            for first, second in touched:
                contacts[frame, first, second] = True
                if second < count:
                    contacts[frame, second, first] = True
            if pilot is not None:
                pilot.frame(frame, bodies)
    else:
        for frame in range(num_frames):
            if frame:
                space.step(1.0 / fps)
            positions[frame] = [body.position for body in bodies]
            velocities[frame] = [body.velocity for body in bodies]
    return Trajectory(quantise(positions), quantise(velocities), contacts)


class _Contacts:
    """Steps a space in which objects meet, and notes which touch: pairs of numbers of objects, walls and slabs."""

    def __init__(
        self,
        space: pymunk.Space,
        bodies: Sequence[pymunk.Body],
        starts: Sequence[Start],
        gravity: float,
        pilot: Pilot | None,
    ) -> None:
        self.space, self.hero, self.pilot = space, bodies[0], pilot
        self.touching: set[tuple[int, int]] = set()  # after the last step
        self.met: set[tuple[int, int]] = set()  # began to touch
        space.collision_slop = 1e-4  # Chipmunk's own default, 0.1, thinks in pixels
        space.on_collision(None, None, begin=self._begin, separate=self._separate)
        motions = [MOTIONS[start.motion] for start in starts]
        # Gravity acts on the whole space: what does not fall while something else does is held up by a force.
        self.held_up: list[tuple[pymunk.Body, tuple[float, float]]] = []
        if any(motion.falls for motion in motions):
            space.gravity = 0.0, gravity
            self.held_up = [
                (body, (0.0, -gravity * body.mass))
                for body, motion in zip(bodies, motions, strict=True)
                if motion.contact and not motion.falls
            ]

    def _begin(self, arbiter: pymunk.Arbiter, _space: pymunk.Space, _data: object) -> None:
        pair = _pair(arbiter)
        self.touching.add(pair)
        self.met.add(pair)

    def _separate(self, arbiter: pymunk.Arbiter, _space: pymunk.Space, _data: object) -> None:
        self.touching.discard(_pair(arbiter))

    def steps(self, count: int) -> set[tuple[int, int]]:
        """Makes `count` steps and returns the pairs that touched in one of them."""
        self.met.clear()
        touched: set[tuple[int, int]] = set()
        space, held_up = self.space, self.held_up
        for step in range(count):
            for body, force in held_up:
                body.force = force
            if self.pilot is not None:
                self._drive(self.pilot.drive)
            space.step(STEP)
            if step == 0:  # what touched before and does no more has gone
                touched |= self.touching
        return touched | self.met

    def _drive(self, wanted: tuple[float | None, float | None]) -> None:
        """Gives the steered body a velocity by a force, so that walls hold against it.

        Chipmunk moves bodies, finds contacts, adds forces to velocities, and solves the contacts with these.
        """
        hero = self.hero
        vx, vy = hero.velocity
        x, y = wanted
        share, (fx, fy) = hero.mass / STEP, hero.force
        hero.force = fx if x is None else fx + share * (x - vx), fy if y is None else fy + share * (y - vy)


def _pair(arbiter: pymunk.Arbiter) -> tuple[int, int]:
    first, second = arbiter.shapes
    a, b = first.collision_type - 1, second.collision_type - 1
    return (a, b) if a < b else (b, a)
