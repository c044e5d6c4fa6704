"""How objects move, and how that is said: one entry a motion.

A phrase has a place for `{direction}` or `{speed}` where the motion has one; `short` says the same without the speed.
"""

from dataclasses import dataclass

# Direction words and unit steps (x to the right, y down), the diagonals at 45 degrees.
_HALF = 0.7071067811865476
DIRECTIONS: dict[str, tuple[float, float]] = {
    "left": (-1.0, 0.0),
    "right": (1.0, 0.0),
    "up": (0.0, -1.0),
    "down": (0.0, 1.0),
    "up and left": (-_HALF, -_HALF),
    "up and right": (_HALF, -_HALF),
    "down and left": (-_HALF, _HALF),
    "down and right": (_HALF, _HALF),
}


@dataclass(frozen=True)
class Motion:
    """How a body lives.

    Attributes:
        phrase, short: what a caption says of it.
        contact: it meets walls and other objects; without, it passes straight through everything.
        falls: gravity acts on it.
        restitution: share of the speed that a bounce keeps.
        directions: those that it can take; None: all. One that has no choice is not said.
        lift: speed upwards at the start, in shares of the speed along the direction.
        steered: keys move it, at the speed that the caption says; it begins at rest.
        grounded: it begins on the floor.
    """

    phrase: str
    short: str
    contact: bool
    falls: bool = False
    restitution: float = 1.0
    directions: tuple[str, ...] | None = None
    lift: float = 0.0
    steered: bool = False
    grounded: bool = False

    @property
    def says_speed(self) -> bool:
        """Whether a caption of this motion has a place for a speed word."""
        return "{speed}" in self.phrase


MOTIONS: dict[str, Motion] = {
    "straight": Motion("moves {direction}{speed}", "moving {direction}", contact=False),
    "bounce": Motion("moves {direction}{speed} and bounces off the walls", "bouncing {direction}", contact=True),
    "fall": Motion("falls", "falling", contact=True, falls=True, restitution=0.0, directions=("down",)),
    "drop": Motion("falls and bounces", "dropping", contact=True, falls=True, restitution=0.8, directions=("down",)),
    "throw": Motion(
        "is thrown {direction}{speed}",
        "thrown {direction}",
        contact=True,
        falls=True,
        restitution=0.8,
        directions=("left", "right"),
        lift=1.0,
    ),
    # What meets others without loss, as on ice seen from above.
    "glide": Motion("glides {direction}{speed}", "gliding {direction}", contact=True),
    "rest": Motion("rests", "resting", contact=True, directions=("down",)),
    # What keys move: anywhere, or along the floor.
    "steer": Motion("is steered{speed}", "steered", contact=True, restitution=0.0, directions=("down",), steered=True),
    "walk": Motion(
        "is steered{speed} on the ground",
        "steered on the ground",
        contact=True,
        falls=True,
        restitution=0.0,
        directions=("down",),
        steered=True,
        grounded=True,
    ),
}

# What an object is made of -> mass for its area, in that of a plain one.
MATERIALS: dict[str, float] = {"plain": 1.0, "light": 0.25, "heavy": 4.0}
