"""The grammar of the world: a caption says what a scene means, and reads back into exactly that meaning.

    medium   := clauses [", and they collide"] [", behind a wall" | ", in a box" | ...]
                [", on a" background "background"] [", while the camera" camera]
    clauses  := clause | clause " and " clause | clause ", " ... " and " clause
    clause   := ("a" | "an") [size] [material] [texture] colour shape phrase
    phrase   := "moves" direction [speed]                                  straight
              | "moves" direction [speed] "and bounces off the walls"      bounce
              | "falls" | "falls and bounces"                              fall, drop
              | "is thrown" direction [speed]                              throw
              | ...                                                        `motion.MOTIONS`
    short    := colour shape participle {", " colour shape participle}     "red circle moving right"
    long     := a sentence on how many, on each object, and on room, background and camera; nothing is left unsaid

The word `plain` stands for what a medium caption leaves out: "a red circle moves right" is a circle of plain size at
plain speed, on a plain background. What a short caption leaves out is `any`: it says nothing about it.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from data.worlds.camera import CAMERAS
from data.worlds.motion import DIRECTIONS, MATERIALS, MOTIONS
from data.worlds.pattern import BACKGROUNDS, TEXTURES
from data.worlds.scenery import SCENERIES

PLAIN = "plain"
ANY = "any"
LENGTHS = ("short", "medium", "long")
EVENTS = {PLAIN: "", "collide": ", and they collide"}


@dataclass(frozen=True)
class ObjectSpec:
    """What a caption says about one object: words only."""

    colour: str
    shape: str
    size: str
    motion: str
    direction: str
    speed: str
    texture: str = PLAIN
    material: str = PLAIN


@dataclass(frozen=True)
class Spec:
    """The meaning of a caption: its objects in the order in which they are named (the last one is drawn in front), what
    happens between them, and what is around them."""

    objects: tuple[ObjectSpec, ...]
    event: str = PLAIN
    scenery: str = PLAIN
    background: str = PLAIN
    camera: str = PLAIN


def stated(spec: Spec, length: str) -> Spec:
    """What a caption of this length says of a meaning: all of it, or with `ANY` in the place of what is left open."""
    if length != "short":
        return spec
    open_ = {"size": ANY, "texture": ANY, "material": ANY}
    objects = (
        replace(item, **open_, speed=ANY if MOTIONS[item.motion].says_speed else PLAIN) for item in spec.objects
    )  # fmt: skip
    return Spec(tuple(objects), ANY, ANY, ANY, ANY)


def say(spec: Spec, length: str = "medium") -> str:
    """The one caption of a meaning, in this length; `parse(say(spec, length)) == stated(spec, length)`."""
    return _SAYING[length](spec)


def parse(caption: str) -> Spec:
    """Reads a caption of any length (any case, any spacing, with or without a final dot).

    Colour, shape, size and speed are taken as the words that stand there; `World.parse` also holds them against the
    words that a world knows. Raises ValueError for a sentence outside the grammar.
    """
    return read(caption)[0]


def read(caption: str) -> tuple[Spec, str]:
    """The meaning of a caption, and its length."""
    text = " ".join(caption.lower().rstrip(" .").split())
    if text.startswith(_LONG_HEAD):
        return _read_long(text), "long"
    short = [_short_object(each) for each in text.split(", ")]
    if all(short):
        return Spec(tuple(filter(None, short)), ANY, ANY, ANY, ANY), "short"
    return _read_medium(text), "medium"


def check_words(kind: str, words: Iterable[str], known: Iterable[str]) -> None:
    """Raises ValueError naming the first word that is not known."""
    legal = list(known)
    for word in words:
        if word not in legal:
            raise ValueError(f'{kind} "{word}" is not one of: {", ".join(legal)}')


def _listed(words: Iterable[str]) -> str:
    """Alternatives of a pattern; longer ones first, so that "up and left" is not read as "up" with something left."""
    return "|".join(sorted(words, key=len, reverse=True))


_OWN = _listed([*MATERIALS, *TEXTURES])
_SPEED = r"(?P<speed>(?!(?:and|at)\b)(?:very )?\w+)"
_OBJECT_WORDS = r"(?P<colour>\w+) (?P<shape>\w+)"


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def _phrase(spec: ObjectSpec, unsaid: str) -> str:
    speed = unsaid if spec.speed == PLAIN else f" {spec.speed}"
    return MOTIONS[spec.motion].phrase.format(direction=spec.direction, speed=speed)


def _phrase_pattern(phrase: str, speed: str) -> str:
    return phrase.format(direction=f"(?P<direction>{_listed(DIRECTIONS)})", speed=speed)


def _found(match: re.Match[str], motion: str, **unsaid: str) -> ObjectSpec:
    found = {"size": PLAIN, "direction": "down", "speed": PLAIN, **unsaid}
    found.update({key: value for key, value in match.groupdict().items() if value is not None})
    return ObjectSpec(motion=motion, **found)


# Medium: today's usual caption.


def _clause(spec: ObjectSpec) -> str:
    words = [word for word in (spec.size, spec.material, spec.texture, spec.colour, spec.shape) if word != PLAIN]
    return f"{_article(words[0])} {' '.join(words)} {_phrase(spec, '')}"


def _say_medium(spec: Spec) -> str:
    clauses = [_clause(item) for item in spec.objects]
    text = " and ".join(filter(None, [", ".join(clauses[:-1]), clauses[-1]]))
    text += EVENTS[spec.event] + SCENERIES[spec.scenery].says
    if spec.background != PLAIN:
        text += f", on a {spec.background} background"
    if spec.camera != PLAIN:
        text += f", while the camera {CAMERAS[spec.camera].says}"
    return text


_NOUN = rf"an? (?:(?P<size>(?!(?:{_OWN})\b)\w+) )?(?:(?P<material>{_listed(MATERIALS)}) )?"
_NOUN += rf"(?:(?P<texture>{_listed(TEXTURES)}) )?{_OBJECT_WORDS} "
_CLAUSES = [
    (name, re.compile(_NOUN + _phrase_pattern(motion.phrase, rf"(?: {_SPEED})?"))) for name, motion in MOTIONS.items()
]
_BETWEEN = re.compile(r"(?:,| and) (?=an? )")


def _read_clause(clause: str) -> ObjectSpec:
    for motion, pattern in _CLAUSES:
        match = pattern.fullmatch(clause)
        if match:
            return _found(match, motion)
    raise ValueError(f'cannot read "{clause}"; write it like "a small red circle moves right slowly"')


# What may stand behind the clauses, the last first: field of `Spec` -> the words that say it -> the value.
_ENDINGS: dict[str, dict[str, str]] = {
    "camera": {f", while the camera {each.says}": name for name, each in CAMERAS.items() if name != PLAIN},
    "background": {f", on a {name} background": name for name in BACKGROUNDS},
    "scenery": {each.says: name for name, each in SCENERIES.items() if name != PLAIN},
    "event": {says: name for name, says in EVENTS.items() if name != PLAIN},
}


def _read_medium(text: str) -> Spec:
    around = {}
    for field, endings in _ENDINGS.items():
        for ending, word in endings.items():
            if text.endswith(ending):
                text, around[field] = text.removesuffix(ending), word
                break
    return Spec(tuple(_read_clause(clause) for clause in _BETWEEN.split(text)), **around)


# Short: what and how, no more.


def _say_short(spec: Spec) -> str:
    return ", ".join(
        f"{item.colour} {item.shape} {MOTIONS[item.motion].short.format(direction=item.direction)}"
        for item in spec.objects
    )


_SHORT = [
    (name, re.compile(rf"{_OBJECT_WORDS} {_phrase_pattern(motion.short, '')}")) for name, motion in MOTIONS.items()
]


def _short_object(text: str) -> ObjectSpec | None:
    for motion, pattern in _SHORT:
        match = pattern.fullmatch(text)
        if match:
            speed = ANY if MOTIONS[motion].says_speed else PLAIN
            return _found(match, motion, size=ANY, speed=speed, texture=ANY, material=ANY)
    return None


# Long: everything, also what is plain.

_LONG_HEAD = "this clip shows "
_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_AT_PLAIN = " at plain speed"


def _say_long(spec: Spec) -> str:
    count = len(spec.objects)
    number = _NUMBERS[count] if count < len(_NUMBERS) else str(count)
    sentences = [f"This clip shows {number} object{'s' if count != 1 else ''}."]
    for item in spec.objects:
        made = f"of {item.size} size, {item.material} weight and {item.texture} surface"
        phrase = _phrase(item, _AT_PLAIN)
        sentences.append(f"One is {_article(item.colour)} {item.colour} {item.shape} {made}; it {phrase}.")
    if spec.event != PLAIN:
        sentences.append(_LONG_EVENTS[spec.event])
    sentences.append(SCENERIES[spec.scenery].sentence)
    sentences.append(f"The background is {spec.background}. The camera {CAMERAS[spec.camera].says}.")
    return " ".join(sentences)


_LONG_EVENTS = {"collide": "They collide."}
_LONG_CLAUSES = [
    (
        name,
        re.compile(
            rf"one is an? {_OBJECT_WORDS} of (?P<size>\w+) size, (?P<material>\w+) weight and (?P<texture>\w+) surface"
            + "; it "
            + _phrase_pattern(motion.phrase, rf"(?:{_AT_PLAIN}| {_SPEED})"),
        ),
    )
    for name, motion in MOTIONS.items()
]
_LONG_AROUND: dict[str, dict[str, str]] = {
    "event": {says.lower().rstrip("."): name for name, says in _LONG_EVENTS.items()},
    "scenery": {each.sentence.lower().rstrip("."): name for name, each in SCENERIES.items()},
    "background": {f"the background is {name}": name for name in (PLAIN, *BACKGROUNDS)},
    "camera": {f"the camera {each.says}": name for name, each in CAMERAS.items()},
}


def _read_long(text: str) -> Spec:
    head, *sentences = text.split(". ")
    objects: list[ObjectSpec] = []
    around: dict[str, str] = {}
    for sentence in sentences:
        field = next((field for field, known in _LONG_AROUND.items() if sentence in known), None)
        if field is not None:
            around[field] = _LONG_AROUND[field][sentence]
            continue
        for motion, pattern in _LONG_CLAUSES:
            match = pattern.fullmatch(sentence)
            if match:
                objects.append(_found(match, motion))
                break
        else:
            raise ValueError(f'cannot read "{sentence}" in a long caption; docs/worlds.md shows one')
    said = Spec(tuple(objects), **around)
    if not objects or head != _say_long(said).lower().split(". ")[0]:
        raise ValueError(
            f'"{head}" does not fit the {len(objects)} objects that follow; docs/worlds.md shows a caption'
        )
    return said


_SAYING = {"short": _say_short, "medium": _say_medium, "long": _say_long}
