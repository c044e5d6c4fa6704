"""Clips of a world in which something happens that cannot, each beside a possible one that begins in the same way.

They come in fours, as those of IntPhys (Riochet et al. 2018, arXiv:1803.07616; IntPhys 2, Bordes et al. 2025,
arXiv:2506.09849): two possible clips, and two impossible ones that are made of the same frames. Up to the event each
impossible clip is one of the possible ones, and from then on it goes on as the other: a red circle that stays red and
a blue one that stays blue; a red one that turns blue and a blue one that turns red. So no frame tells which clips are
impossible. Whoever judges by frames alone, as by how easy each is to denoise, is right about one pair of two.

Four number i of a kind is a pure function of the world, a seed and i.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.worlds.caption import DIRECTIONS
from data.worlds.render import SHAPES, Floats, quantise, render
from data.worlds.scene import MARGIN, Stream
from data.worlds.simulate import MOTIONS
from data.worlds.world import Clip, World

TRIES = 400  # clips of the world that are looked at for one in which something of a kind can happen
FAR = 1.5  # radii: a jump is at least as long
SEEN = 0.9  # share of an object that is in the frame and not covered, around the event
UNTURNED, TURNED = 0.05, 0.5  # of the way between two frames: an object that has left its way by less, or by more
DEEP = 0.7  # share of the sum of two radii: objects that pass through one another come nearer than that


@dataclass(frozen=True)
class Cast:
    """The objects of a clip of F frames and their ways. Lengths in frame heights.

    positions: `(F, N, 2)`. radii: `(N,)`. shapes, colours: words.
    """

    positions: Floats
    radii: Floats
    shapes: tuple[str, ...]
    colours: tuple[str, ...]

    def without(self, item: int) -> Cast:
        """All objects but one."""
        rest = [other for other in range(len(self.radii)) if other != item]
        shapes, colours = (tuple(words[other] for other in rest) for words in (self.shapes, self.colours))
        return Cast(self.positions[:, rest], self.radii[rest], shapes, colours)

    def with_shape(self, item: int, shape: str) -> Cast:
        """One object has another shape."""
        return replace(self, shapes=(*self.shapes[:item], shape, *self.shapes[item + 1 :]))

    def with_colour(self, item: int, colour: str) -> Cast:
        """One object has another colour."""
        return replace(self, colours=(*self.colours[:item], colour, *self.colours[item + 1 :]))

    def with_way(self, item: int, way: Floats) -> Cast:
        """One object goes another way `(F, 2)`."""
        positions = self.positions.copy()
        positions[:, item] = quantise(way)
        return replace(self, positions=positions)

    def reach(self, item: int) -> float:
        """How far the farthest point of an object is from its centroid."""
        return float(self.radii[item]) * max(sqrt(x * x + y * y) for x, y in SHAPES[self.shapes[item]].vertices)

    def stays_inside(self, item: int, aspect: float) -> bool:
        """Whether all of an object is in the frame at all times."""
        left, right, up, down = (self.radii[item] * reach + MARGIN for reach in SHAPES[self.shapes[item]].extent)
        x, y = self.positions[:, item].T
        return bool((x >= left).all() and (x <= aspect - right).all() and (y >= up).all() and (y <= 1.0 - down).all())


@dataclass(frozen=True)
class Film:
    """A clip, uint8 `(F, H, W, 3)`, and who is in it up to the event, and from the event on."""

    pixels: NDArray[np.uint8]
    before: Cast
    after: Cast


@dataclass(frozen=True)
class Four:
    """Two pairs of clips, `possible[i]` and `impossible[i]`, equal up to frame `event`, the first that differs.

    item: the object to which something happens. caption: of the world's clip that is the first possible one.
    """

    kind: str
    event: int
    item: int
    caption: str
    possible: tuple[Film, Film]
    impossible: tuple[Film, Film]


class Plot(NamedTuple):
    """Who is in the two possible clips, and who is in the impossible ones from the event on."""

    item: int
    event: int
    possible: tuple[Cast, Cast]
    goes_on: tuple[Cast, Cast]


class Scene(NamedTuple):
    """A clip of a world, in which something is to happen at one of `events`."""

    world: World
    clip: Clip
    cast: Cast
    events: Sequence[int]
    stream: Stream

    @property
    def aspect(self) -> float:
        return self.world.width / self.world.height

    def motion(self, item: int) -> str:
        return self.clip.state.spec.objects[item].motion

    def item(self) -> int:
        """An object, all equally likely."""
        return int(self.stream.unit() * len(self.cast.radii))

    def event(self) -> int:
        """A frame, all equally likely."""
        return self.stream.one_of(self.events)

    def undisturbed(self, item: int) -> bool:
        """Whether an object moves by itself in a straight line: nothing touches it, and it does not fall."""
        return not MOTIONS[self.motion(item)].falls and not self.clip.state.contacts[:, item].any()

    def meets(self, item: int, frame: int, step: float) -> bool:
        """Whether an object that bounces is so near to a wall or to another one that a `step` might bring it there."""
        if not MOTIONS[self.motion(item)].contact:
            return False
        place, reach = self.cast.positions[frame, item], self.cast.reach(item) + step
        others = np.delete(self.cast.positions[frame], item, axis=0) - place
        near = [other for other in range(len(self.cast.radii)) if other != item]
        apart = np.sqrt((others * others).sum(1)) - [self.cast.reach(other) for other in near]
        walls = np.minimum(place, np.array([self.aspect, 1.0]) - place)
        return bool(walls.min() < reach or (apart < reach).any())

    def swapped(self, item: int, other: Cast, event: int | None = None) -> Plot:
        """Another possible clip beside this one, and the two take each other's place."""
        at = self.event() if event is None else event
        return Plot(item, at, (self.cast, other), (other, self.cast))


def vanish(scene: Scene) -> Plot | None:
    """Beside it stands the clip without the object, in which it appears out of nothing."""
    item = scene.item()
    return scene.swapped(item, scene.cast.without(item))


def colour(scene: Scene) -> Plot | None:
    """Beside it stands the same in the other colour."""
    item = scene.item()
    others = [word for word in scene.world.colours if word != scene.cast.colours[item]]
    return scene.swapped(item, scene.cast.with_colour(item, scene.stream.one_of(others))) if others else None


def shape(scene: Scene) -> Plot | None:
    """Beside it stands the same in the other shape."""
    item = scene.item()
    others = [word for word in scene.world.shapes if word != scene.cast.shapes[item]]
    if not others:
        return None
    other = scene.cast.with_shape(item, scene.stream.one_of(others))
    # A shape that reaches farther would stand in a wall where this one touches it.
    return scene.swapped(item, other) if other.stays_inside(item, scene.aspect) else None


def jump(scene: Scene) -> Plot | None:
    """Beside it stands the clip in which the object goes the same way elsewhere."""
    item = scene.item()
    if not scene.undisturbed(item):
        return None
    way, room = scene.cast.positions[:, item], np.array([scene.aspect, 1.0])
    share = np.array([scene.stream.unit(), scene.stream.unit()])
    offset = (room - (way.max(0) - way.min(0))) * share - way.min(0)
    other = scene.cast.with_way(item, way + offset)
    far = float(np.sqrt((offset * offset).sum())) >= FAR * scene.cast.radii[item]
    return scene.swapped(item, other) if far and other.stays_inside(item, scene.aspect) else None


def reverse(scene: Scene) -> Plot | None:
    """Beside it stands the clip in which the object comes from the other side, and is at the same place just before."""
    item, event = scene.item(), scene.event()
    if not scene.undisturbed(item):
        return None
    way = scene.cast.positions[:, item]
    velocity = scene.clip.state.velocities[event - 1, item] / scene.world.fps
    if scene.meets(item, event - 1, float(np.sqrt((velocity * velocity).sum()))):
        return None  # it might have touched something between two frames
    times = np.arange(len(way))[:, None] - (event - 1)
    other = scene.cast.with_way(item, way[event - 1] - times * velocity)
    return scene.swapped(item, other, event) if other.stays_inside(item, scene.aspect) else None


def through(scene: Scene) -> Plot | None:
    """Two objects meet, and go on as if neither were there. Beside it stands the clip with one of the two alone, which
    turns back where it met the other."""
    state = scene.clip.state
    count = len(scene.cast.radii)
    for item, other in ((item, other) for item in range(count) for other in range(count) if item != other):
        touches = np.flatnonzero(state.contacts[:, item].any(1) | state.contacts[:, other].any(1))
        falls = any(MOTIONS[scene.motion(each)].falls for each in (item, other))
        if falls or not len(touches) or touches[0] == 0:
            continue
        last = int(touches[0]) - 1  # the last frame before they meet
        if not state.velocities[last, item].any():  # the one that moves is the one that turns back
            continue
        at_once = [
            *np.flatnonzero(state.contacts[last + 1, item]),
            *np.flatnonzero(state.contacts[last + 1, other]),
        ]
        if set(at_once) != {item, other}:  # nothing else is in play
            continue
        straight = scene.cast
        for each in (item, other):
            times = np.arange(len(straight.positions))[:, None] - last
            way = straight.positions[last, each] + times * state.velocities[last, each] / scene.world.fps
            straight = straight.with_way(each, way)
        # They may meet at the very end of the time between two frames. The first one that differs is to be seen.
        away = straight.positions[:, item] - scene.cast.positions[:, item]
        steps = np.sqrt((away * away).sum(1) / (state.velocities[last, item] ** 2).sum()) * scene.world.fps
        event = last + 1 if steps[last + 1] > UNTURNED else last + 2
        if event not in scene.events or steps[event] < TURNED:
            continue
        gap = straight.positions[event:, item] - straight.positions[event:, other]
        deep = np.sqrt((gap * gap).sum(1)).min() < DEEP * (straight.radii[item] + straight.radii[other])
        if deep and all(straight.stays_inside(each, scene.aspect) for each in (item, other)):
            alone, turns = straight.without(other), scene.cast.without(other)
            return Plot(item, event, (scene.cast, alone), (straight, turns))
    return None


def either(scene: Scene) -> Plot | None:
    """Nothing impossible: from one and the same first frame an object moves one way or another. Which of the two is
    called impossible is drawn: whoever tells them apart more often than by chance has another reason than physics."""
    item = scene.item()
    if not scene.undisturbed(item):
        return None
    velocity = scene.clip.state.velocities[0, item] / scene.world.fps
    speed = float(np.sqrt((velocity * velocity).sum()))
    times = np.arange(len(scene.cast.positions))[:, None]
    start = scene.cast.positions[0, item]
    ways = [start + times * speed * np.array(DIRECTIONS[word]) for word in scene.world.directions]
    casts = [scene.cast.with_way(item, way) for way in ways]
    inside = [cast for cast in casts if cast.stays_inside(item, scene.aspect)]
    if speed == 0.0 or len(inside) < 2:
        return None
    pairs = []
    for _ in range(2):
        first = int(scene.stream.unit() * len(inside))
        second = (first + 1 + int(scene.stream.unit() * (len(inside) - 1))) % len(inside)
        pairs.append((inside[first], inside[second]))
    return Plot(item, 1, (pairs[0][0], pairs[1][0]), (pairs[0][1], pairs[1][1]))


@dataclass(frozen=True)
class Kind:
    """Something impossible. says: what happens. plot: of a clip; None where it cannot happen there."""

    says: str
    plot: Callable[[Scene], Plot | None]


CONTROL = "control"
KINDS: dict[str, Kind] = {
    "vanish": Kind("an object vanishes, or appears out of nothing", vanish),
    "colour": Kind("an object turns into one of another colour", colour),
    "shape": Kind("an object turns into one of another shape", shape),
    "jump": Kind("an object is elsewhere from one frame to the next", jump),
    "reverse": Kind("an object turns back, and nothing touches it", reverse),
    "through": Kind("an object passes through another one, or turns back from nothing", through),
    CONTROL: Kind("an object moves one way or another, both possible", either),
}


class Impossible:
    """Fours of one kind.

    Args:
        world: of whose clips they are made.
        kind: out of `KINDS`.
        seed: fours of another seed are other ones.
        events: frames at which something may happen, at least 2: what moves has shown how fast.

    Raises ValueError, in one line, for a world in which nothing of the kind can happen.
    """

    def __init__(self, world: World, kind: str, seed: int, events: Sequence[int]) -> None:
        if kind not in KINDS:
            raise ValueError(f'kind "{kind}" is not one of: {", ".join(KINDS)}')
        if not events or min(events) < 2 or max(events) >= world.num_frames:
            raise ValueError(
                f"events={list(events)} must name frames from 2 to {world.num_frames - 1}, the last one of these clips"
            )
        self.world, self.kind, self.seed, self.events = world, kind, seed, list(events)
        self[0]

    def __getitem__(self, index: int) -> Four:
        """Four number `index`, any from 0."""
        stream = Stream(self.seed, index)
        for _ in range(TRIES):
            clip = self.world.clip(int(stream.unit() * len(self.world)))
            scene = Scene(self.world, clip, cast_of(self.world, clip), self.events, stream)
            plot = KINDS[self.kind].plot(scene)
            if plot is not None and (four := self._film(clip, plot)) is not None:
                return four
        raise ValueError(f"{KINDS[self.kind].says}: in none of {TRIES} clips of this world that can be shown")

    def _film(self, clip: Clip, plot: Plot) -> Four | None:
        """The clips; None where what happens cannot be seen."""
        possible, impossible = [], []
        for begins, goes_on in zip(plot.possible, plot.goes_on, strict=True):
            (pixels, seen), (other, seen_other) = (paint(self.world, clip, each) for each in (begins, goes_on))
            if min(seen[plot.event - 1].min(), seen[plot.event].min(), seen_other[plot.event].min()) < SEEN:
                return None
            spliced = np.concatenate([pixels[: plot.event], other[plot.event :]])
            possible.append(Film(pixels, begins, begins))
            impossible.append(Film(spliced, begins, goes_on))
        return Four(self.kind, plot.event, plot.item, clip.caption, _pair(possible), _pair(impossible))


def _pair(films: Sequence[Film]) -> tuple[Film, Film]:
    first, second = films
    return first, second


def kinds_of(world: World, seed: int, events: Sequence[int]) -> Iterator[tuple[str, Impossible | str]]:
    """Each kind, with its fours, or why there are none in this world."""
    for kind in KINDS:
        try:
            yield kind, Impossible(world, kind, seed, events)
        except ValueError as error:
            yield kind, str(error)


def cast_of(world: World, clip: Clip) -> Cast:
    """Who is in a clip of the world, and how it moves."""
    objects = clip.state.spec.objects
    shapes, colours = tuple(item.shape for item in objects), tuple(item.colour for item in objects)
    return Cast(clip.state.positions, clip.state.radii, shapes, colours)


def paint(world: World, clip: Clip, cast: Cast) -> tuple[NDArray[np.uint8], Floats]:
    """A cast in the room of a clip: pixels `(F, H, W, 3)`, and `(F, N)` the share of each object that is seen; 1 where
    there is none."""
    if not len(cast.radii):
        empty = np.empty((world.num_frames, world.height, world.width, 3), np.uint8)
        empty[:] = world.background
        return empty, np.ones((world.num_frames, 1))
    colours = [world.colours[word] for word in cast.colours]
    size = (world.height, world.width)
    pixels, seen = render(cast.positions, cast.radii.tolist(), cast.shapes, colours, world.background, *size)
    return pixels.transpose(1, 2, 3, 0), seen
