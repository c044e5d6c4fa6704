"""The grammar of the world: a caption says what a scene means, and reads back into exactly that meaning.

    caption  := clause | clause " and " clause | clause ", " ... " and " clause
    clause   := ("a" | "an") [size] colour shape phrase
    phrase   := "moves" direction [speed]                                  straight
              | "moves" direction [speed] "and bounces off the walls"      bounce
              | "falls" | "falls and bounces"                              fall, drop
              | "is thrown" direction [speed]                              throw

The word `plain` stands for a size or speed that the caption leaves out: "a red circle moves right" is a circle of
plain size at plain speed.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

PLAIN = "plain"

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

# How each motion is said. One that names no direction goes down.
PHRASES: dict[str, str] = {
    "straight": "moves {direction}{speed}",
    "bounce": "moves {direction}{speed} and bounces off the walls",
    "fall": "falls",
    "drop": "falls and bounces",
    "throw": "is thrown {direction}{speed}",
}


def says_speed(motion: str) -> bool:
    """Whether a caption of this motion has a place for a speed word."""
    return "{speed}" in PHRASES[motion]


@dataclass(frozen=True)
class ObjectSpec:
    """What a caption says about one object: words only."""

    colour: str
    shape: str
    size: str
    motion: str
    direction: str
    speed: str


@dataclass(frozen=True)
class Spec:
    """The meaning of a caption: its objects in the order in which they are named (the last one is drawn in front)."""

    objects: tuple[ObjectSpec, ...]


def _clause(spec: ObjectSpec) -> str:
    words = [word for word in (spec.size, spec.colour, spec.shape) if word != PLAIN]
    article = "an" if words[0][0] in "aeiou" else "a"
    speed = "" if spec.speed == PLAIN else f" {spec.speed}"
    phrase = PHRASES[spec.motion].format(direction=spec.direction, speed=speed)
    return f"{article} {' '.join(words)} {phrase}"


def say(spec: Spec) -> str:
    """The one caption of a meaning; `parse(say(spec)) == spec`."""
    clauses = [_clause(item) for item in spec.objects]
    return " and ".join(filter(None, [", ".join(clauses[:-1]), clauses[-1]]))


def _pattern(phrase: str) -> str:
    # Longer direction words first, so that "up and left" is not read as "up" with something left over.
    directions = "|".join(sorted(DIRECTIONS, key=len, reverse=True))
    return phrase.format(direction=f"(?P<direction>{directions})", speed=r"(?: (?P<speed>(?!and\b)\w+))?")


_NOUN = r"an? (?:(?P<size>\w+) )?(?P<colour>\w+) (?P<shape>\w+) "
_CLAUSES = [(motion, re.compile(_NOUN + _pattern(phrase))) for motion, phrase in PHRASES.items()]
_BETWEEN = re.compile(r"(?:,| and) (?=an? )")


def _read(clause: str) -> ObjectSpec:
    for motion, pattern in _CLAUSES:
        match = pattern.fullmatch(clause)
        if match:
            found = {"size": PLAIN, "direction": "down", "speed": PLAIN}
            found.update({key: value for key, value in match.groupdict().items() if value is not None})
            return ObjectSpec(motion=motion, **found)
    raise ValueError(f'cannot read "{clause}"; write it like "a small red circle moves right slowly"')


def parse(caption: str) -> Spec:
    """Reads a caption (any case, any spacing, with or without a final dot).

    Colour, shape, size and speed are taken as the words that stand there; `World.parse` also holds them against the
    words that a world knows. Raises ValueError for a sentence outside the grammar.
    """
    clauses = _BETWEEN.split(" ".join(caption.lower().rstrip(" .").split()))
    return Spec(tuple(_read(clause) for clause in clauses))


def check_words(kind: str, words: Iterable[str], known: Iterable[str]) -> None:
    """Raises ValueError naming the first word that is not known."""
    legal = list(known)
    for word in words:
        if word not in legal:
            raise ValueError(f'{kind} "{word}" is not one of: {", ".join(legal)}')
