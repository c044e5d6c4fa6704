"""Keys that move the first object of a scene: one entry a key, how presses are drawn, and what they do to bodies.

`presses[f]` is held while frame `f` is seen, until the next one: its effect shows in frame `f + 1` for the first time,
and the last row leads out of the clip.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
import pymunk
from numpy.typing import NDArray

from data.worlds.stream import Stream

Presses = NDArray[np.uint8]
ACTIONS, PRESSES = "actions", "presses"  # names of columns

JUMP_HEIGHT = 0.3  # frame heights
PUSH_REACH = 0.15  # frame heights between two outlines' circles
PUSH = 0.8  # frame heights a second that a push gives to what is as heavy as the one that pushes
HELD = (0.12, 0.45)  # seconds for which keys are held, from and to
_FLOOR = 0.7  # how level what one stands on must be: the share of its normal that points up


@dataclass(frozen=True)
class Key:
    """What a key does while it is held (`move`, a direction) or when it goes down (`jump`, `push`).

    motions: the steered motions that hear it.
    """

    motions: tuple[str, ...]
    move: tuple[float, float] = (0.0, 0.0)
    jump: bool = False
    push: bool = False

    @property
    def taps(self) -> bool:
        """Whether it acts once, when it goes down."""
        return self.jump or self.push


KEYS: dict[str, Key] = {
    "left": Key(("steer", "walk"), move=(-1.0, 0.0)),
    "right": Key(("steer", "walk"), move=(1.0, 0.0)),
    "up": Key(("steer",), move=(0.0, -1.0)),
    "down": Key(("steer",), move=(0.0, 1.0)),
    "jump": Key(("walk",), jump=True),
    "push": Key(("steer", "walk"), push=True),
}


def draw_presses(keys: Sequence[str], num_frames: int, fps: float, stream: Stream) -> Presses:
    """Presses `(F, K)`: one movement key or none at a time, held for a while, and taps of the other keys."""
    moves = [-1, *(place for place, key in enumerate(keys) if not KEYS[key].taps)]
    taps = [place for place, key in enumerate(keys) if KEYS[key].taps]
    presses = np.zeros((num_frames, len(keys)), np.uint8)
    frame = 0
    while frame < num_frames:
        held = HELD[0] + (HELD[1] - HELD[0]) * stream.unit()
        until = min(num_frames, frame + max(1, int(held * fps + 0.5)))
        if (move := stream.one_of(moves)) >= 0:
            presses[frame:until, move] = 1
        for tap in taps:
            if stream.unit() < 0.5:
                presses[frame, tap] = 1
        frame = until
    return presses


def columns(presses: Presses) -> dict[str, list[float] | list[list[float]]]:
    """What is said of a clip's frames: their presses, and the numbers that these make as bits, the first the lowest."""
    bits = 1 << np.arange(presses.shape[1])
    return {ACTIONS: (presses @ bits).astype(float).tolist(), PRESSES: presses.astype(float).tolist()}


def check_presses(presses: object, keys: Sequence[str], num_frames: int) -> Presses:
    """`presses` as uint8 `(F, K)`. ValueError for another shape, and for values that are not 0 or 1."""
    if not keys:
        raise ValueError("this world is not steered, so it takes no actions; give it keys, as world_steered has")
    found = np.asarray(presses)
    if found.shape != (num_frames, len(keys)):
        raise ValueError(
            f"actions of shape {tuple(found.shape)} for {num_frames} frames and {len(keys)} keys ({', '.join(keys)}); "
            f"give ({num_frames}, {len(keys)}), one row a frame"
        )
    if not np.isin(found, (0, 1)).all():
        raise ValueError("actions hold values beside 0 and 1; give 1 for each frame and key that is pressed")
    return found.astype(np.uint8)


class Keyboard:
    """Does what the keys say to the bodies of a simulation, of which the first is steered.

    speed: of the steered object, frame heights a second. radii: of all objects.
    """

    def __init__(
        self, keys: Sequence[str], presses: Presses, motion: str, speed: float, radii: Sequence[float], gravity: float
    ) -> None:
        self.keys = [KEYS[key] for key in keys]
        self.presses, self.motion, self.speed, self.radii, self.gravity = presses, motion, speed, radii, gravity
        self.drive: tuple[float | None, float | None] = (0.0, self._down(0.0))

    def frame(self, frame: int, bodies: Sequence[pymunk.Body]) -> None:
        """What the keys of a frame begin."""
        before = self.presses[frame - 1] if frame else np.zeros(len(self.keys), np.uint8)
        x = y = 0.0
        for key, now, was in zip(self.keys, self.presses[frame].tolist(), before.tolist(), strict=True):
            if not now:
                continue
            x, y = x + key.move[0], y + key.move[1]
            if key.jump and not was and _stands(bodies[0]):
                bodies[0].velocity = bodies[0].velocity[0], -sqrt(2.0 * self.gravity * JUMP_HEIGHT)
            if key.push and not was:
                self._push(bodies)
        length = sqrt(x * x + y * y)
        share = self.speed / length if length > 0.0 else 0.0
        self.drive = (share * x, self._down(share * y))

    def _down(self, y: float) -> float | None:
        """What falls, falls and jumps by itself."""
        return None if self.motion == "walk" else y

    def _push(self, bodies: Sequence[pymunk.Body]) -> None:
        """Kicks the nearest object that is within reach, away from the steered one."""
        own = bodies[0]
        best, way = None, PUSH_REACH
        for other, radius in zip(bodies[1:], self.radii[1:], strict=True):
            dx, dy = other.position[0] - own.position[0], other.position[1] - own.position[1]
            gap = sqrt(dx * dx + dy * dy) - radius - self.radii[0]
            if other.body_type == pymunk.Body.DYNAMIC and gap < way:
                best, way = other, gap
        if best is None:
            return
        dx, dy = best.position[0] - own.position[0], best.position[1] - own.position[1]
        length = max(sqrt(dx * dx + dy * dy), 1e-9)
        kick = PUSH * own.mass / best.mass / length
        best.velocity = best.velocity[0] + kick * dx, best.velocity[1] + kick * dy


def _stands(body: pymunk.Body) -> bool:
    """Whether it touches something below it."""
    below: list[bool] = []

    def look(arbiter: pymunk.Arbiter) -> None:
        normal = arbiter.contact_point_set.normal
        below.append(arbiter.shapes[0].body is body and normal[1] > _FLOOR)
        below.append(arbiter.shapes[1].body is body and normal[1] < -_FLOOR)

    body.each_arbiter(look)
    return any(below)
