"""What can happen in a clip that cannot: one function a kind, which says who is in the four clips (`impossible.py`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np

from data.worlds.impossible import Cast, Four, Plot, film
from data.worlds.motion import DIRECTIONS, MOTIONS
from data.worlds.outline import Floats
from data.worlds.scenery import Slab
from data.worlds.simulate import WALLS
from data.worlds.state import Clip
from data.worlds.stream import Stream
from data.worlds.world import World

LOOKED = 400  # clips of a world in one of which something of a kind can happen, if it is a kind of that world
TRIES = 4000  # clips that are looked at for a four of such a kind
FAR = 1.5  # radii: a jump is at least as long
HIDDEN, SHOWN = 0.02, 0.9  # share of an object that is seen behind a wall at most, and beside it at least
UNTURNED, TURNED = 0.05, 0.5  # of the way between two frames: an object that has left its way by less, or by more
WITHIN = 0.4  # of its radius: an object that passes through a wall comes with its middle as near to that
DEEP = 0.7  # share of the sum of two radii: objects that pass through one another come nearer than that


class Scene(NamedTuple):
    """A clip of a world, in which something is to happen at one of `events`."""

    world: World
    clip: Clip
    cast: Cast
    events: Sequence[int]
    stream: Stream

    def motion(self, item: int) -> str:
        return self.clip.state.spec.objects[item].motion

    def item(self) -> int:
        """An object, all equally likely."""
        return int(self.stream.unit() * len(self.cast.there))

    def event(self) -> int:
        """A frame, all equally likely."""
        return self.stream.one_of(self.events)

    def step(self, frame: int, item: int) -> Floats:
        """Way of an object from a frame to the next, (2,)."""
        made: Floats = self.clip.state.velocities[frame, item] / self.world.fps
        return made

    def straight(self, frame: int, item: int) -> Floats:
        """The way `(F, 2)` of an object that moves on as it does at a frame."""
        times = np.arange(self.world.num_frames)[:, None] - frame
        made: Floats = self.clip.state.positions[frame, item] + times * self.step(frame, item)
        return made

    def undisturbed(self, item: int) -> bool:
        """Whether an object moves by itself in a straight line: nothing touches or steers it, and it does not fall."""
        motion = MOTIONS[self.motion(item)]
        return not motion.falls and not motion.steered and not self.clip.state.contacts[:, item].any()

    def meets(self, item: int, frame: int) -> bool:
        """Whether an object that bounces is so near to something that it might touch it before the next frame."""
        if not MOTIONS[self.motion(item)].contact:
            return False
        places, world = self.cast.state.positions[frame], self.world
        reach = self.cast.reach(world, item) + float(np.linalg.norm(self.step(frame, item)))
        others = [other for other in self.cast.items if other != item]
        near = [np.linalg.norm(places[other] - places[item]) - self.cast.reach(world, other) for other in others]
        walls = np.minimum(places[item], np.array([world.width / world.height, 1.0]) - places[item]).min()
        slabs = [_gap(slab, places[item]) for slab in self.cast.state.slabs if slab.solid]
        return bool(min([walls, *near, *slabs]) < reach)

    def swapped(self, item: int, other: Cast, since: int, hidden: bool = False) -> Plot:
        """Another possible clip beside this one, and the two take each other's place."""
        return Plot(item, since, (self.cast, other), (other, self.cast), hidden)

    def hidden(self, item: int) -> int | None:
        """A frame at which an object is behind a wall, and comes forth later; None where there is none."""
        seen = self.clip.state.visibility[:, item]
        covered = (seen[1:] < HIDDEN) & (seen[:-1] < HIDDEN)
        frames = [int(frame) + 1 for frame in np.flatnonzero(covered) if (seen[: frame + 1] > SHOWN).any()]
        frames = [frame for frame in frames if (seen[frame:] > SHOWN).any()]
        return self.stream.one_of(frames) if frames else None


def _gap(slab: Slab, place: Floats) -> float:
    """From a place to a slab."""
    x = max(slab.left - place[0], 0.0, place[0] - slab.right)
    y = max(slab.top - place[1], 0.0, place[1] - slab.bottom)
    return float(np.hypot(x, y))


def _when(scene: Scene, item: int, hidden: bool) -> int | None:
    return scene.hidden(item) if hidden else scene.event()


def vanish(scene: Scene, hidden: bool = False) -> Plot | None:
    """Beside it stands the clip without the object, in which it appears out of nothing."""
    item = scene.item()
    since = _when(scene, item, hidden)
    return None if since is None else scene.swapped(item, scene.cast.without(item), since, hidden)


def colour(scene: Scene, hidden: bool = False) -> Plot | None:
    """Beside it stands the same in the other colour."""
    item = scene.item()
    since = _when(scene, item, hidden)
    others = [number for number in range(len(scene.world.colours)) if number != scene.cast.state.colours[item]]
    if since is None or not others:
        return None
    return scene.swapped(item, scene.cast.with_colour(item, scene.stream.one_of(others)), since, hidden)


def shape(scene: Scene, hidden: bool = False) -> Plot | None:
    """Beside it stands the same in the other shape."""
    item = scene.item()
    since = _when(scene, item, hidden)
    others = [number for number in range(len(scene.world.shapes)) if number != scene.cast.state.shapes[item]]
    if since is None or not others:
        return None
    other = scene.cast.with_shape(item, scene.stream.one_of(others))
    # A shape that reaches farther would stand in a wall where this one touches it.
    return scene.swapped(item, other, since, hidden) if other.stays_inside(scene.world, item) else None


def jump(scene: Scene) -> Plot | None:
    """Beside it stands the clip in which the object goes the same way elsewhere."""
    item, since, world = scene.item(), scene.event(), scene.world
    if not scene.undisturbed(item) or any(slab.solid for slab in scene.cast.state.slabs):
        return None
    way, room = scene.cast.state.positions[:, item], np.array([world.width / world.height, 1.0])
    share = np.array([scene.stream.unit(), scene.stream.unit()])
    offset = (room - (way.max(0) - way.min(0))) * share - way.min(0)
    other = scene.cast.with_way(item, way + offset)
    far = float(np.linalg.norm(offset)) >= FAR * scene.cast.state.radii[item]
    return scene.swapped(item, other, since) if far and other.stays_inside(world, item) else None


def reverse(scene: Scene) -> Plot | None:
    """Beside it stands the clip in which the object comes from the other side, and is at the same place just before."""
    item, since = scene.item(), scene.event()
    if not scene.undisturbed(item) or not scene.step(since - 1, item).any() or scene.meets(item, since - 1):
        return None  # where it may have touched something between two frames, it may have turned
    way = scene.cast.state.positions[since - 1, item]
    other = scene.cast.with_way(item, 2 * way - scene.straight(since - 1, item))
    return scene.swapped(item, other, since) if other.stays_inside(scene.world, item) else None


def through(scene: Scene) -> Plot | None:
    """Two objects meet, and go on as if neither were there. Beside it stands the clip with one of the two alone, which
    turns back where it met the other."""
    for item, other in ((item, other) for item in scene.cast.items for other in scene.cast.items if item != other):
        last = _last_before_contact(scene, [item, other], {item, other})
        if last is None or not scene.step(last, item).any():  # the one that moves is the one that turns back
            continue
        on = scene.cast.with_way(item, scene.straight(last, item)).with_way(other, scene.straight(last, other))
        gap = on.state.positions[last:, item] - on.state.positions[last:, other]
        deep = np.sqrt((gap * gap).sum(1)).min() < DEEP * (on.state.radii[item] + on.state.radii[other])
        since = _turns(scene, on, item, last)
        if since is not None and deep and all(on.stays_inside(scene.world, each) for each in (item, other)):
            return Plot(item, since, (scene.cast, on.without(other)), (on, scene.cast.without(other)))
    return None


def wall(scene: Scene) -> Plot | None:
    """An object goes on through a wall as if it were not there. Beside it stands the clip without walls in the room, in
    which the object turns back where it met one."""
    count = len(scene.cast.there)
    solid = [slab for slab in scene.cast.state.slabs if slab.solid]
    slabs = set(range(count + len(WALLS), count + len(WALLS) + len(solid)))
    for item in scene.cast.items:
        last = _last_before_contact(scene, [item], slabs)
        if last is None or not scene.step(last, item).any():
            continue
        on = scene.cast.with_way(item, scene.straight(last, item))
        gap = min(_gap(slab, place) for slab in solid for place in on.state.positions[last:, item])
        since = _turns(scene, on, item, last)
        if since is not None and gap < WITHIN * on.state.radii[item] and on.stays_inside(scene.world, item):
            return Plot(item, since, (scene.cast, on.without_slabs()), (on, scene.cast.without_slabs()))
    return None


def _last_before_contact(scene: Scene, items: Sequence[int], partners: set[int]) -> int | None:
    """The last frame before some objects touch something for the first time, if that is of `partners` alone; None of
    objects that fall or are steered."""
    contacts = scene.clip.state.contacts[:, items]
    touches = np.flatnonzero(contacts.any((1, 2)))
    motions = [MOTIONS[scene.motion(item)] for item in items]
    if any(motion.falls or motion.steered for motion in motions) or not len(touches) or touches[0] == 0:
        return None
    found = set(np.flatnonzero(contacts[touches[0]].any(0)).tolist())
    return int(touches[0]) - 1 if found and found <= partners else None


def _turns(scene: Scene, on: Cast, item: int, last: int) -> int | None:
    """The first frame at which an object that met something behind frame `last` is clearly off the way that it would
    have gone on; None where it is so by little at first: things may meet at the very end of the time between two."""
    away = np.linalg.norm(on.state.positions[:, item] - scene.cast.state.positions[:, item], axis=1)
    steps = away / np.linalg.norm(scene.step(last, item))
    since = last + 1 if steps[last + 1] > UNTURNED else last + 2
    return since if since < len(steps) and steps[since] > TURNED else None


def either(scene: Scene) -> Plot | None:
    """Nothing impossible: from one and the same first frame an object moves one way or another. Which of the two is
    called impossible is drawn: whoever tells them apart more often than by chance has another reason than physics."""
    item = scene.item()
    speed = float(np.linalg.norm(scene.step(0, item)))
    if not scene.undisturbed(item) or speed == 0.0 or any(slab.solid for slab in scene.cast.state.slabs):
        return None
    times = np.arange(scene.world.num_frames)[:, None] * speed
    start = scene.cast.state.positions[0, item]
    ways = [start + times * np.array(DIRECTIONS[word]) for word in scene.world.directions]
    inside = [cast for way in ways if (cast := scene.cast.with_way(item, way)).stays_inside(scene.world, item)]
    if len(inside) < 2:
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
    "wall": Kind("an object passes through a wall, or turns back from nothing", wall),
    "vanish_hidden": Kind("an object vanishes, or appears, behind a wall", partial(vanish, hidden=True)),
    "colour_hidden": Kind("an object changes its colour behind a wall", partial(colour, hidden=True)),
    "shape_hidden": Kind("an object changes its shape behind a wall", partial(shape, hidden=True)),
    CONTROL: Kind("an object moves one way or another, both possible", either),
}


class Impossible:
    """Fours of one kind.

    Args:
        world: of whose clips they are made.
        kind: out of `KINDS`.
        seed: fours of another seed are other ones.
        events: frames at which something may be seen to happen, at least 2: what moves has shown how fast.

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
        stream = Stream(0, 0, lane=1)  # one for all seeds, so that a world shows a kind or does not
        if not any(self._drawn(stream) is not None for _ in range(LOOKED)):
            raise ValueError(f"{KINDS[kind].says}: not in {LOOKED} clips of this world")

    def __getitem__(self, index: int) -> Four:
        """Four number `index`, any from 0."""
        stream = Stream(self.seed, index)
        for _ in range(TRIES):
            if (four := self._drawn(stream)) is not None:
                return four
        raise ValueError(f"{KINDS[self.kind].says}: not in {TRIES} clips of this world")

    def _drawn(self, stream: Stream) -> Four | None:
        """Of the next clip of the stream; None where nothing of the kind can happen in it."""
        clip = self.world.clip(int(stream.unit() * len(self.world)))
        cast = Cast(clip.state, np.ones(len(clip.state.radii), np.bool_))
        plot = KINDS[self.kind].plot(Scene(self.world, clip, cast, self.events, stream))
        allowed = [1] if self.kind == CONTROL else self.events
        return None if plot is None else film(self.world, clip, self.kind, plot, allowed)
