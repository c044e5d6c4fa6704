"""What a world's captions promise of a clip, in the words of `dit.evaluation.objects`, and who reads its clips."""

from __future__ import annotations

from itertools import product
from math import pi, sqrt

import numpy as np

from data.worlds.camera import view
from data.worlds.caption import ANY, PLAIN, ObjectSpec, Spec
from data.worlds.motion import DIRECTIONS, MATERIALS, MOTIONS
from data.worlds.outline import SHAPES
from data.worlds.render import SECOND, ground, plate
from data.worlds.scenery import SIDE, WALL
from data.worlds.state import State
from data.worlds.steer import PUSH
from data.worlds.world import World
from dit.evaluation.objects.judge import Promise, Reader
from dit.evaluation.objects.layers import Palette, Setting
from dit.evaluation.objects.physics import Course
from dit.evaluation.objects.tracks import Thing

_HIT = 3.0  # what a steered object makes of a speed: twice its own, and that of what it hits


class Promises:
    """A world's captions, in pixels and frames of this world.

    ValueError for a world whose colours cannot be told apart.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self._settings: dict[tuple[str, str], Setting] = {}
        words = world.lexicon
        palette = Palette(
            colours=world.colours,
            second=SECOND if set(words.textures) - {PLAIN} else 1.0,
            walls=[WALL] if "wall" in words.sceneries else [],
            sides=[SIDE] if set(words.sceneries) - {PLAIN, "wall"} else [],
        )
        scale = min(float(self.setting(PLAIN, camera).scale.min()) for camera in words.cameras)
        radius = min(world.stage.sizes[word] for word in words.shown_sizes) * (1.0 - world.stage.size_jitter)
        outlines = {name: SHAPES[name].vertices for name in world.shapes}
        self.reader = Reader(palette, outlines, radius * world.height * scale)

    def of(self, caption: str) -> Promise:
        """What a caption promises. ValueError for words that the world does not know."""
        world, spec = self.world, self.world.parse(caption)
        things = tuple(_thing(world, spec, number) for number in range(len(spec.objects)))
        backgrounds = list(world.lexicon.backgrounds) if spec.background == ANY else [spec.background]
        cameras = list(world.lexicon.cameras) if spec.camera == ANY else [spec.camera]
        settings = tuple(self.setting(*words) for words in product(backgrounds, cameras))
        slack = max(world.stage.speed_jitter, world.stage.size_jitter)
        return Promise(things, settings, _fastest(world, spec), slack)

    def course(self, state: State, given: int) -> Course:
        """The true course of a clip that goes on from its first `given` frames."""
        return Course(
            positions=state.positions * self.world.height,
            visibility=state.visibility,
            contacts=state.contacts,
            radii=state.radii * self.world.height,
            masses=state.masses,
            restitution=np.array([MOTIONS[item.motion].restitution for item in state.spec.objects]),
            steered=np.array([MOTIONS[item.motion].steered for item in state.spec.objects]),
            given=given,
        )

    def setting(self, background: str, camera: str) -> Setting:
        """By its words."""
        words = (background, camera)
        if words not in self._settings:
            world, size = self.world, (self.world.height, self.world.width)
            seen = view(camera, world.stage.aspect, world.num_frames, world.fps)
            empty = plate(ground(world.background, background), [], seen, *size)
            whole = np.broadcast_to(empty, (3, world.num_frames, *size)).transpose(1, 2, 3, 0)
            self._settings[words] = Setting(whole, seen.centre * world.height, seen.scale)
        return self._settings[words]


def _thing(world: World, spec: Spec, number: int) -> Thing:
    item, motion = spec.objects[number], MOTIONS[spec.objects[number].motion]
    step = world.height / world.fps
    paced = item.speed != ANY
    # Any speed will do where only its direction is asked.
    pace = world.stage.speed(item) if paced else min(world.stage.speeds.values())
    dx, dy = DIRECTIONS[item.direction]
    velocity = (pace * step * dx, pace * step * (dy - motion.lift))
    return Thing(
        colour=item.colour,
        shape=item.shape,
        radius=None if item.size == ANY else world.stage.sizes[item.size] * world.height,
        velocity=None if world.keys else velocity,  # keys move what is steered, and push the others
        gravity=world.gravity * world.height / world.fps**2 if motion.falls else 0.0,
        straight=not motion.contact,
        paced=paced,
    )


def _fastest(world: World, spec: Spec) -> tuple[float, ...]:
    """Pixels a frame that each object of a scene does not exceed: elastic collisions may leave all of their energy to
    one that is light, and keys kick what is light away."""
    motions = [MOTIONS[item.motion] for item in spec.objects]
    speed = max(world.stage.speeds.values()) * (1.0 + world.stage.speed_jitter)
    speed *= 1.0 + 0.5 * max(motion.lift for motion in motions)
    energy = speed**2  # by the mass, twice
    if any(motion.falls for motion in motions):
        energy += 2.0 * world.gravity  # by the height of the room
    masses = [_masses(world, item) for item in spec.objects]
    meeting = [number for number, motion in enumerate(motions) if motion.contact]
    found = []
    for number, (least, _) in enumerate(masses):
        most = energy
        if number in meeting:
            most += energy * sum(masses[other][1] for other in meeting if other != number) / least
        if world.keys:  # which do not tire
            most = max(most, _HIT**2 * energy)
        kick = PUSH * masses[0][1] / least if "push" in world.keys and number else 0.0
        found.append((sqrt(most) + kick) * world.height / world.fps)
    return tuple(found)


def _masses(world: World, item: ObjectSpec) -> tuple[float, float]:
    """The least and the most that an object of these words weighs."""
    stage, material = world.stage, item.material
    radii = list(stage.sizes.values()) if item.size == ANY else [stage.sizes[item.size]]
    densities = list(MATERIALS.values()) if material == ANY else [MATERIALS[material]]
    least = min(densities) * pi * (min(radii) * (1.0 - stage.size_jitter)) ** 2
    return least, max(densities) * pi * (max(radii) * (1.0 + stage.size_jitter)) ** 2
