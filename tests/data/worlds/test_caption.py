"""The grammar reads back exactly what it says."""

import random

import pytest

from data.worlds.caption import PLAIN, ObjectSpec, Spec, parse, say
from data.worlds.motion import DIRECTIONS, MOTIONS


def random_object(rng: random.Random) -> ObjectSpec:
    motion = rng.choice(list(MOTIONS))
    phrase = MOTIONS[motion].phrase
    return ObjectSpec(
        colour=rng.choice(["red", "orange", "blue", "white"]),
        shape=rng.choice(["circle", "square", "star"]),
        size=rng.choice(["small", PLAIN, "large", "enormous"]),
        motion=motion,
        direction=rng.choice(list(DIRECTIONS)) if "{direction}" in phrase else "down",
        speed=rng.choice(["slowly", PLAIN, "quickly"]) if "{speed}" in phrase else PLAIN,
    )


@pytest.mark.parametrize("seed", range(300))
def test_every_meaning_reads_back_from_its_caption(seed: int) -> None:
    rng = random.Random(seed)
    spec = Spec(tuple(random_object(rng) for _ in range(rng.randint(1, 4))))
    assert parse(say(spec)) == spec
    assert parse("  " + say(spec).upper().replace(" ", "  ") + ". ") == spec


@pytest.mark.parametrize(
    ("caption", "objects"),
    [
        ("a red circle moves right", [("red", "circle", PLAIN, "straight", "right", PLAIN)]),
        ("a small blue square moves up slowly", [("blue", "square", "small", "straight", "up", "slowly")]),
        ("a green triangle falls and bounces", [("green", "triangle", PLAIN, "drop", "down", PLAIN)]),
        ("an orange star falls", [("orange", "star", PLAIN, "fall", "down", PLAIN)]),
        (
            "a red circle moves up and left quickly and bounces off the walls and a blue star is thrown right",
            [
                ("red", "circle", PLAIN, "bounce", "up and left", "quickly"),
                ("blue", "star", PLAIN, "throw", "right", PLAIN),
            ],
        ),
    ],
)
def test_captions_mean_what_they_say(caption: str, objects: list[tuple[str, ...]]) -> None:
    assert parse(caption) == Spec(tuple(ObjectSpec(*words) for words in objects))
    assert say(parse(caption)) == caption


@pytest.mark.parametrize(
    "caption",
    [
        "",
        "a dog runs",
        "red circle moves right",
        "a red circle moves",
        "a red circle moves right and",
        "a circle falls",
    ],
)
def test_sentences_outside_the_grammar_are_refused(caption: str) -> None:
    with pytest.raises(ValueError, match='write it like "a small red circle') as error:
        parse(caption)
    assert "\n" not in str(error.value)
