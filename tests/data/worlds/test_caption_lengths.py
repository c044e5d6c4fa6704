"""Captions of three lengths read back exactly what they state, for random meanings and for those that worlds draw."""

import random

import pytest
from world_settings import PRESETS, preset

from data.worlds.camera import CAMERAS
from data.worlds.caption import ANY, EVENTS, LENGTHS, PLAIN, ObjectSpec, Spec, parse, read, say, stated
from data.worlds.motion import DIRECTIONS, MATERIALS, MOTIONS
from data.worlds.pattern import BACKGROUNDS, TEXTURES
from data.worlds.scenery import SCENERIES


def random_object(rng: random.Random) -> ObjectSpec:
    motion = rng.choice(list(MOTIONS))
    says = MOTIONS[motion].phrase
    return ObjectSpec(
        colour=rng.choice(["red", "orange", "blue", "white"]),
        shape=rng.choice(["circle", "square", "star"]),
        size=rng.choice(["small", PLAIN, "large", "tiny"]),
        motion=motion,
        direction=rng.choice(list(DIRECTIONS)) if "{direction}" in says else "down",
        speed=rng.choice(["slowly", PLAIN, "very quickly"]) if "{speed}" in says else PLAIN,
        texture=rng.choice([PLAIN, *TEXTURES]),
        material=rng.choice(list(MATERIALS)),
    )


def random_meaning(seed: int) -> Spec:
    rng = random.Random(seed)
    return Spec(
        tuple(random_object(rng) for _ in range(rng.randint(1, 4))),
        rng.choice(list(EVENTS)),
        rng.choice(list(SCENERIES)),
        rng.choice([PLAIN, *BACKGROUNDS]),
        rng.choice(list(CAMERAS)),
    )


@pytest.mark.parametrize("length", LENGTHS)
def test_every_meaning_reads_back_at_every_length(length: str) -> None:
    for seed in range(300):
        spec = random_meaning(seed)
        caption = say(spec, length)
        assert read(caption) == (stated(spec, length), length), caption
        assert parse("  " + caption.upper().replace(" ", "  ") + ". ") == stated(spec, length)


def test_lengths_differ_in_what_they_say() -> None:
    spec = Spec(
        (
            ObjectSpec("red", "circle", "small", "glide", "right", "very quickly", "striped", "heavy"),
            ObjectSpec("orange", "star", PLAIN, "rest", "down", PLAIN),
        ),
        "collide",
        PLAIN,
        "checked",
        "in",
    )
    assert say(spec, "short") == "red circle gliding right, orange star resting"
    assert say(spec, "medium") == (
        "a small heavy striped red circle glides right very quickly and an orange star rests, and they collide, on a "
        "checked background, while the camera zooms in"
    )
    assert say(spec, "long") == (
        "This clip shows two objects. One is a red circle of small size, heavy weight and striped surface; it glides "
        "right very quickly. One is an orange star of plain size, plain weight and plain surface; it rests. They "
        "collide. Nothing else is in the room. The background is checked. The camera zooms in."
    )
    short = parse(say(spec, "short"))
    assert short.camera == short.event == short.objects[0].size == short.objects[0].speed == ANY
    assert short.objects[1].speed == PLAIN  # nothing is left open about the speed of what rests


@pytest.mark.parametrize("name", PRESETS)
def test_worlds_read_their_own_captions(name: str) -> None:
    for length in LENGTHS:
        world = preset(name, caption_lengths={length: 1.0}, height=8, width=8)
        for index in range(6):
            clip = world.clip(index)
            assert read(clip.caption)[1] == length
            assert world.parse(clip.caption) == stated(clip.state.spec, length)


def test_a_short_caption_is_filmed_with_words_for_what_it_leaves_open() -> None:
    world = preset("full")
    caption = "red circle moving right"
    films = [world.film(caption, seed) for seed in range(12)]
    assert {film.caption for film in films} == {caption}
    sizes = {film.state.spec.objects[0].size for film in films}
    assert sizes <= {"small", "plain", "large"} and len(sizes) > 1
    assert {film.state.spec.scenery for film in films} <= {"plain", "wall"}  # what moves straight is in no box
    assert all(film.state.spec.objects[0].direction == "right" for film in films)


@pytest.mark.parametrize(
    ("caption", "message"),
    [
        ("This clip shows two objects. One is a red circle of plain size.", 'cannot read "one is a red circle'),
        ("This clip shows two objects.", "does not fit the 0 objects"),
        ("a red circle falls, in a bag", 'cannot read "a red circle falls, in a bag"'),
        ("red circle moving", 'cannot read "red circle moving"'),
    ],
)
def test_sentences_outside_the_grammar_are_refused(caption: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        parse(caption)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "caption", "message"),
    [
        ("physics", "a wooden red circle falls and bounces", 'size "wooden" is not one of: small'),
        ("camera", "a heavy red circle moves right", 'material "heavy" is not one of: plain'),
        ("physics", "a striped red circle glides right", 'texture "striped" is not one of: plain'),
        ("physics", "a red circle glides right, on a tiled background", 'background "tiled" is not one of: plain'),
        ("physics", "a red circle glides right, in a box", 'scenery "box" is not one of: plain'),
        (
            "containers",
            "a red circle moves right and bounces off the walls, in a cup",
            "with a cup motions are fall, drop",
        ),
        (
            "physics",
            "a red circle glides right and a blue star glides up, and they collide",
            "of two objects that collide one glides",
        ),
        ("steered", "a red circle falls", "the first object is steered, and no other"),
        ("steered", "a red circle is steered on the ground and a blue square is steered on the ground", "and no other"),
    ],
)
def test_words_without_sense_are_refused(name: str, caption: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        preset(name).parse(caption)
    assert "\n" not in str(error.value)
