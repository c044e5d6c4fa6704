"""The words of a world, which of them a split shows, and how meanings are drawn from them."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from functools import cached_property
from itertools import product
from math import prod
from types import MappingProxyType
from typing import TypeVar

from data.worlds.camera import CAMERAS
from data.worlds.caption import ANY, EVENTS, PLAIN, ObjectSpec, Spec, check_words, parse
from data.worlds.motion import DIRECTIONS, MATERIALS, MOTIONS
from data.worlds.outline import SHAPES
from data.worlds.pattern import BACKGROUNDS, TEXTURES
from data.worlds.scenery import SCENERIES
from data.worlds.splits import BY_SPEED, SPLITS, is_held_out, motion_directions, shown_words
from data.worlds.steer import KEYS
from data.worlds.stream import Stream

T = TypeVar("T")
Weights = Mapping[str, float]
Combination = tuple[str, str, str]  # colour, shape, direction
ALONE: Weights = MappingProxyType({PLAIN: 1.0})  # the one word of what a world does not vary
_COLLIDING = ("glide", "rest")
MOST_MEANINGS = 1_000_000  # of one object; splits, prompts and classes are made of lists of them
_PROMPT_LANE = 2  # of random numbers: no clip is drawn from it
_POOL = 4  # meanings that are drawn for each prompt that is chosen


class Lexicon:
    """Words, and meanings drawn from them. Arguments as those of `World`, of the same names."""

    def __init__(
        self,
        *,
        shapes: Sequence[str],
        colours: Sequence[str],
        directions: Sequence[str],
        sizes: Weights,
        speeds: Weights,
        motions: Weights,
        num_objects: Mapping[int, float],
        textures: Sequence[str],
        materials: Sequence[str],
        sceneries: Weights,
        backgrounds: Weights,
        cameras: Weights,
        events: Weights,
        outside_sizes: Weights,
        outside_speeds: Weights,
        keys: Sequence[str],
        size_jitter: float,
        speed_jitter: float,
        split: str,
        heldout_fraction: float,
    ) -> None:
        self.shapes, self.colours, self.directions = list(shapes), list(colours), list(directions)
        self.sizes, self.speeds = {**sizes, **outside_sizes}, {**speeds, **outside_speeds}
        self.trained_sizes, self.trained_speeds = list(sizes), list(speeds)
        self.motions = above_0("motions", motions)
        self.num_objects = {int(count): weight for count, weight in above_0("num_objects", num_objects).items()}
        self.textures, self.materials, self.keys = list(textures), list(materials), list(keys)
        self.sceneries, self.backgrounds = above_0("sceneries", sceneries), above_0("backgrounds", backgrounds)
        self.cameras, self.events = above_0("cameras", cameras), above_0("events", events)
        self.split, self.heldout_fraction = split, heldout_fraction
        self._check_words(motions)
        self.shown_sizes = shown_words(split, "size", sizes, outside_sizes, size_jitter)
        self.shown_speeds = shown_words(split, "speed", speeds, outside_speeds, speed_jitter)
        if split in BY_SPEED:  # where nothing has a speed, nothing is outside
            self._leave_sceneries([motion for motion in self.motions if MOTIONS[motion].says_speed])
        self._combinations = {motion: self._split_combinations(motion) for motion in self.motions}
        self._check_scenes()

    def _check_words(self, motions: Weights) -> None:
        for name in ("shapes", "colours", "directions", "textures", "materials"):
            _check_some(name, getattr(self, name))
        _check_some("sizes", self.trained_sizes)
        _check_some("speeds", self.trained_speeds)
        _check_some("num_objects", [count for count in self.num_objects if count > 0])
        check_words("shape", self.shapes, SHAPES)
        check_words("direction", self.directions, DIRECTIONS)
        check_words("motion", motions, MOTIONS)
        check_words("split", [self.split], SPLITS)
        check_words("texture", self.textures, [PLAIN, *TEXTURES])
        check_words("material", self.materials, MATERIALS)
        check_words("scenery", self.sceneries, SCENERIES)
        check_words("background", self.backgrounds, [PLAIN, *BACKGROUNDS])
        check_words("camera", self.cameras, CAMERAS)
        check_words("event", self.events, EVENTS)
        check_words("key", self.keys, KEYS)
        parts = (self.colours, self.shapes, self.directions, self.trained_sizes, self.trained_speeds, self.motions)
        if (count := prod(map(len, parts))) > MOST_MEANINGS:
            raise ValueError(
                f"{' x '.join(str(len(each)) for each in parts)} colours, shapes, directions, sizes, speeds and "
                f"motions make {count:,} meanings; at most {MOST_MEANINGS:,} can be listed, so name fewer words"
            )

    def _split_combinations(self, motion: str) -> list[Combination]:
        heldout = self.split == "heldout"
        every = product(self.colours, self.shapes, motion_directions(motion, self.directions))
        found = [each for each in every if is_held_out(*each, self.heldout_fraction) == heldout]
        if not found:
            raise ValueError(
                f'split "{self.split}" of motion "{motion}" has no combination of colour, shape and direction with '
                f"heldout_fraction={self.heldout_fraction}; name more words or choose a fraction nearer to 0.5"
            )
        return found

    def _check_scenes(self) -> None:
        """Raises ValueError where what is drawn would find no words."""
        for scenery, event in product(self.sceneries, self.events):
            for place in range(2 if event != PLAIN or max(self.num_objects) > 1 else 1):
                self._motions_for(scenery, self._event(scenery, event), place)
        if "collide" in self.events and 2 not in self.num_objects:
            raise ValueError("events name collide, which two objects do; give num_objects a weight for 2")
        steered = [motion for motion in self.motions if MOTIONS[motion].steered]
        if bool(steered) != bool(self.keys):
            raise ValueError(
                f"motions that are steered ({', '.join(steered) or 'none'}) and keys "
                f"({', '.join(self.keys) or 'none'}) go together: name both, or neither"
            )
        for key, motion in product(self.keys, steered):
            if motion not in KEYS[key].motions:
                raise ValueError(f'key "{key}" does nothing to motion "{motion}"; leave one of them out')

    @property
    def rich(self) -> bool:
        """Whether scenes say more than their objects' colours, shapes, sizes and motions."""
        more = (self.textures, self.materials, self.sceneries, self.backgrounds, self.cameras, self.events, self.keys)
        return any(list(each) not in ([], [PLAIN]) for each in more)

    def drop(self, motions: Sequence[str]) -> None:
        """Leaves motions out, in a split that cannot show them."""
        self.motions = {motion: weight for motion, weight in self.motions.items() if motion not in motions}
        self._leave_sceneries(list(self.motions))
        self._check_scenes()

    def _leave_sceneries(self, motions: Sequence[str]) -> None:
        """Leaves those that go with one of these motions."""
        legal = [word for word in self.sceneries if any(_goes(motion, word) for motion in motions)]
        self.sceneries = {word: self.sceneries[word] for word in legal}

    def speed_words(self, motion: str) -> list[str]:
        """What this split says of how fast it is."""
        return self.shown_speeds if MOTIONS[motion].says_speed else [PLAIN]

    def known_speeds(self, motion: str) -> list[str]:
        """All that a caption may say of it."""
        return list(self.speeds) if MOTIONS[motion].says_speed else [PLAIN]

    def possible_directions(self, motion: str) -> list[str]:
        """Those that it takes in either split."""
        return motion_directions(motion, self.directions)

    def sceneries_of(self, motion: str) -> list[str]:
        """What an object that moves so is shown with."""
        return [word for word in self.sceneries if _goes(motion, word)]

    @property
    def combinations(self) -> set[Combination]:
        """Colour, shape and direction of everything that this split shows."""
        return {each for motion in self.motions for each in self._combinations[motion]}

    # Drawing.

    def draw(self, stream: Stream) -> Spec:
        """A meaning."""
        scenery = stream.pick(self.sceneries)
        event = self._event(scenery, stream.pick(self.events))
        background, camera = stream.pick(self.backgrounds), stream.pick(self.cameras)
        count = 2 if event != PLAIN else stream.weighted(self.num_objects)
        objects: list[ObjectSpec] = []
        for place in range(count):
            objects.append(self._draw_object(stream, self._motions_for(scenery, event, place), objects, event))
        return Spec(tuple(objects), event, scenery, background, camera)

    def complete(self, spec: Spec, stream: Stream) -> Spec:
        """A meaning with words in the place of what is left open."""
        objects = []
        for item in spec.objects:
            choices: dict[str, Sequence[str]] = {
                "size": self.shown_sizes,
                "speed": self.speed_words(item.motion),
                "texture": self.textures,
                "material": self.materials,
            }
            open_ = {name: stream.pick(words) for name, words in choices.items() if getattr(item, name) == ANY}
            objects.append(replace(item, **open_))
        around: dict[str, Weights] = {
            "scenery": {word: weight for word, weight in self.sceneries.items() if _stands(word, spec)},
            "background": self.backgrounds,
            "camera": self.cameras,
        }
        words = {
            name: (stream.pick(choice) if choice else PLAIN) if getattr(spec, name) == ANY else getattr(spec, name)
            for name, choice in around.items()
        }
        event = PLAIN if spec.event == ANY else spec.event
        return Spec(tuple(objects), event, **words)

    def _event(self, scenery: str, event: str) -> str:
        """Collisions are arranged in a room with nothing else in it."""
        return event if scenery == PLAIN else PLAIN

    def _motions_for(self, scenery: str, event: str, place: int) -> dict[str, float]:
        """Motion -> weight, of object number `place`; what keys steer is the first."""
        steered = bool(self.keys) and place == 0
        found = {
            motion: weight
            for motion, weight in self.motions.items()
            if MOTIONS[motion].steered == steered
            and _goes(motion, scenery)
            and (place or self.split not in BY_SPEED or MOTIONS[motion].says_speed)
            and (event != "collide" or motion in _COLLIDING[: place + 1])
        }
        if not found:
            where = f'scenery "{scenery}"' if event == PLAIN else f'event "{event}"'
            legal = _COLLIDING[: place + 1] if event == "collide" else SCENERIES[scenery].motions or ("any",)
            raise ValueError(
                f"no motion of object {place + 1} goes with {where}; give one of {', '.join(legal)} a weight, or leave "
                f"it out"
            )
        return found

    def _draw_object(
        self, stream: Stream, motions: dict[str, float], before: Sequence[ObjectSpec], event: str
    ) -> ObjectSpec:
        motion = stream.weighted(motions)
        choices = self._combinations[motion]
        if event == "collide":
            choices = self._aimed(motion, before)
        colour, shape, direction = stream.one_of(choices)
        size = stream.one_of(self.shown_sizes)
        speed = stream.one_of(self.speed_words(motion))
        return ObjectSpec(
            colour, shape, size, motion, direction, speed, stream.pick(self.textures), stream.pick(self.materials)
        )

    def _aimed(self, motion: str, before: Sequence[ObjectSpec]) -> list[Combination]:
        """Combinations that move along an axis, or against the one before."""
        if motion == "rest":
            return self._combinations[motion]
        if not before:
            return self._along_axes
        against = _OPPOSITE[before[0].direction]
        return [each for each in self._combinations[motion] if each[2] == against]

    @cached_property
    def _along_axes(self) -> list[Combination]:
        """Of gliding ones that something can come to meet."""
        glide = self._combinations["glide"]
        there = {direction for _, _, direction in glide}
        found = [each for each in glide if _OPPOSITE.get(each[2]) in there]
        if not found:
            raise ValueError("two objects that collide move in opposite directions: name left and right, or up, down")
        return found

    # Captions.

    def parse(self, caption: str) -> Spec:
        """The meaning of a caption; raises ValueError for words that this world does not know."""
        spec = parse(caption)
        for item in spec.objects:
            legal: dict[str, Iterable[str]] = {
                "colour": self.colours,
                "shape": self.shapes,
                "size": self.sizes,
                "motion": self.motions,
                "speed": self.known_speeds(item.motion),
                "direction": motion_directions(item.motion, self.directions),
                "texture": self.textures,
                "material": self.materials,
            }
            for kind, words in legal.items():
                check_words(kind, {getattr(item, kind)} - {ANY}, words)
        around = {"scenery": self.sceneries, "background": self.backgrounds, "camera": self.cameras}
        for kind, weights in {**around, "event": {PLAIN: 1.0, **self.events}}.items():
            check_words(kind, {getattr(spec, kind)} - {ANY}, weights)
        self._check_sense(spec, caption)
        return spec

    def _check_sense(self, spec: Spec, caption: str) -> None:
        """Raises ValueError for words that each are known and together mean nothing."""
        steered = [MOTIONS[item.motion].steered for item in spec.objects]
        if self.keys and steered != [True] + [False] * (len(steered) - 1):
            raise ValueError(f'"{caption}": in this world the first object is steered, and no other')
        if spec.scenery != ANY and not _stands(spec.scenery, spec):
            legal = SCENERIES[spec.scenery].motions or ()
            raise ValueError(f'"{caption}": with a {spec.scenery} motions are {", ".join(legal)}')
        if spec.event == "collide" and not _collides(spec):
            raise ValueError(
                f'"{caption}": of two objects that collide one glides left, right, up or down, at the other'
            )

    def specs(self) -> Iterator[Spec]:
        """Every meaning of one object that this split can show, in a fixed order; around it the likeliest words."""
        for motion in self.motions:
            if self.keys and not MOTIONS[motion].steered:
                continue
            scenery = max(self.sceneries_of(motion), key=lambda word: self.sceneries[word], default=PLAIN)
            background, camera = (max(each, key=lambda w: each[w]) for each in (self.backgrounds, self.cameras))
            for (colour, shape, direction), size, speed, texture, material in product(
                self._combinations[motion], self.shown_sizes, self.speed_words(motion), self.textures, self.materials
            ):
                item = ObjectSpec(colour, shape, size, motion, direction, speed, texture, material)
                yield Spec((item,), PLAIN, scenery, background, camera)

    def prompts(self, count: int) -> list[Spec]:
        """`count` meanings of this split, all words balanced.

        Worlds that say no more than objects take every meaning of one object before one is repeated; others choose
        among some that are drawn.
        """
        if self.rich:
            drawn = (self.draw(Stream(0, index, _PROMPT_LANE)) for index in range(_POOL * count))
            every = list(dict.fromkeys(drawn))
        else:
            every = list(self.specs())
        left: list[Spec] = []
        used: dict[tuple[str, str], int] = {}
        chosen: list[Spec] = []
        words = {id(spec): _words(spec) for spec in every}
        for _ in range(count):
            left = left or list(every)
            best = min(left, key=lambda spec: sum(used.get(pair, 0) for pair in words[id(spec)]))
            left.remove(best)
            for pair in words[id(best)]:
                used[pair] = used.get(pair, 0) + 1
            chosen.append(best)
        return chosen


def _words(spec: Spec) -> list[tuple[str, str]]:
    """The words of a meaning, each with what it is a word for."""
    around = [(field.name, getattr(spec, field.name)) for field in fields(spec) if field.name != "objects"]
    return [pair for item in spec.objects for pair in vars(item).items()] + around


_OPPOSITE = {"left": "right", "right": "left", "up": "down", "down": "up"}


def _stands(scenery: str, spec: Spec) -> bool:
    """Whether objects that move so are shown with this scenery."""
    return all(_goes(item.motion, scenery) for item in spec.objects)


def _goes(motion: str, scenery: str) -> bool:
    legal = SCENERIES[scenery].motions
    return legal is None or motion in legal


def _collides(spec: Spec) -> bool:
    if len(spec.objects) != 2 or spec.scenery not in (PLAIN, ANY):
        return False
    first, second = spec.objects
    against = _OPPOSITE.get(first.direction)
    meets = second.motion == "rest" or (second.motion == "glide" and second.direction == against)
    return first.motion == "glide" and against is not None and meets


def above_0(name: str, weights: Mapping[T, float]) -> dict[T, float]:
    """The entries that have a weight. Raises ValueError where none has."""
    found = {word: weight for word, weight in weights.items() if weight > 0}
    _check_some(name, found)
    return found


def _check_some(name: str, words: Collection[object]) -> None:
    if not words:
        raise ValueError(f"{name} is empty: give at least one entry, and a weight above 0 where it has weights")
