"""Moves objects with pymunk (Chipmunk): straight lines, walls, gravity, contacts.

Lengths are in frame heights, times in seconds, y points down; the frame is `aspect` wide and 1 high. What happens
therefore does not depend on resolution or frame rate: scenes with contacts are stepped at a fixed `STEP` and read off
at the frames' times; without contacts one step a frame is exact.
Objects keep upright (infinite moment of inertia), so that a shape is recognisable in every frame.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pymunk
from numpy.typing import NDArray

from data.worlds.render import PI, SHAPES, Floats, quantise

STEP = 1.0 / 240.0  # seconds
WALLS = ("left", "right", "top", "bottom")
_THICK = 1.0  # wall thickness: far more than any object moves in a step


@dataclass(frozen=True)
class Motion:
    """How a body lives: straight-moving ones pass through everything, the others meet the walls and one another."""

    contact: bool
    falls: bool
    restitution: float  # share of the speed kept by a bounce
    directions: tuple[str, ...] | None  # those that it can take; None: all
    lift: float  # speed upwards at the start, in shares of the speed along the direction


MOTIONS: dict[str, Motion] = {
    "straight": Motion(contact=False, falls=False, restitution=1.0, directions=None, lift=0.0),
    "bounce": Motion(contact=True, falls=False, restitution=1.0, directions=None, lift=0.0),
    "fall": Motion(contact=True, falls=True, restitution=0.0, directions=("down",), lift=0.0),
    "drop": Motion(contact=True, falls=True, restitution=0.8, directions=("down",), lift=0.0),
    "throw": Motion(contact=True, falls=True, restitution=0.8, directions=("left", "right"), lift=1.0),
}


@dataclass(frozen=True)
class Start:
    """One object at time zero."""

    shape: str
    radius: float
    motion: str
    position: tuple[float, float]
    velocity: tuple[float, float]  # frame heights a second


@dataclass(frozen=True)
class Trajectory:
    """What happened: positions and velocities `(F, N, 2)`; contacts `(F, N, N + 4)`, whether an object touched object
    j or wall `WALLS[j - N]` since the frame before."""

    positions: Floats
    velocities: Floats
    contacts: NDArray[np.bool_]


def _body(space: pymunk.Space, start: Start, label: int) -> pymunk.Body:
    motion = MOTIONS[start.motion]
    if not motion.contact:
        body = pymunk.Body(body_type=pymunk.Body.KINEMATIC)
        space.add(body)
    else:
        mass = PI * start.radius * start.radius
        body = pymunk.Body(mass, float("inf"))
        outline = [(x * start.radius, y * start.radius) for x, y in SHAPES[start.shape].vertices]
        shape = pymunk.Poly(body, outline)
        shape.elasticity, shape.friction, shape.collision_type = motion.restitution, 0.0, label
        space.add(body, shape)
    body.position, body.velocity = start.position, start.velocity
    return body


def _walls(space: pymunk.Space, aspect: float, first_label: int) -> None:
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


def simulate(starts: Sequence[Start], gravity: float, aspect: float, num_frames: int, fps: float) -> Trajectory:
    """Runs a scene for `num_frames` frames, the first at time zero; `gravity` in frame heights per second squared."""
    count = len(starts)
    space = pymunk.Space()
    bodies = [_body(space, start, label) for label, start in enumerate(starts, 1)]
    positions = np.empty((num_frames, count, 2))
    velocities = np.empty((num_frames, count, 2))
    contacts = np.zeros((num_frames, count, count + len(WALLS)), np.bool_)
    if any(MOTIONS[start.motion].contact for start in starts):
        _run_with_contacts(space, bodies, starts, gravity, aspect, fps, positions, velocities, contacts)
    else:
        for frame in range(num_frames):
            if frame:
                space.step(1.0 / fps)
            positions[frame] = [body.position for body in bodies]
            velocities[frame] = [body.velocity for body in bodies]
    return Trajectory(quantise(positions), quantise(velocities), contacts)


def _run_with_contacts(
    space: pymunk.Space,
    bodies: Sequence[pymunk.Body],
    starts: Sequence[Start],
    gravity: float,
    aspect: float,
    fps: float,
    positions: Floats,
    velocities: Floats,
    contacts: NDArray[np.bool_],
) -> None:
    """Fills the three arrays."""
    count = len(bodies)
    space.collision_slop = 1e-4  # Chipmunk's own default, 0.1, thinks in pixels
    _walls(space, aspect, count + 1)
    touched: set[tuple[int, int]] = set()

    def note(arbiter: pymunk.Arbiter, _space: pymunk.Space, _data: object) -> None:
        first, second = sorted(shape.collision_type - 1 for shape in arbiter.shapes)
        touched.add((first, second))

    space.on_collision(None, None, pre_solve=note)
    motions = [MOTIONS[start.motion] for start in starts]
    # Gravity acts on the whole space: what does not fall while something else does is held up by a force of its own.
    held_up = []
    if any(motion.falls for motion in motions):
        space.gravity = 0.0, gravity
        held_up = [body for body, motion in zip(bodies, motions, strict=True) if motion.contact and not motion.falls]
    steps = 0
    for frame in range(len(positions)):
        time = frame / fps
        while (steps + 1) * STEP <= time + 1e-9:
            for body in held_up:
                body.force = 0.0, -gravity * body.mass
            space.step(STEP)
            steps += 1
        rest = time - steps * STEP  # less than a step: what moves there moves straight
        velocities[frame] = [body.velocity for body in bodies]
        positions[frame] = np.array([body.position for body in bodies]) + rest * velocities[frame]
        for first, second in touched:
            contacts[frame, first, second] = True
            if second < count:
                contacts[frame, second, first] = True
        touched.clear()
