"""Whether objects that a video goes on with move as physics says: held against the exact course of a known scene.

For clips that continue given frames (or restate a known scene), all that follows is fixed. When objects touch is known
from the course; how fast they are before and behind is read from pixels, by least squares over `WINDOW` frames on
either side in which nothing else is touched. Masses are the world's, so that what a collision keeps can be added up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dit.evaluation.fit import accelerated, fitted
from dit.evaluation.objects.judge import Promise, Scene
from dit.evaluation.segment import Bools, Floats
from dit.evaluation.shape import Templates
from dit.scores import SHARE, Measure

WINDOW = 3  # frames on either side of a contact that a velocity is read from
FLIGHT = 6  # frames without a contact that an acceleration is read from, at least
LEAST_VISIBLE = 0.9  # share of an object that has to be seen in truth, for its place to be asked
LOST = 4.0  # radii that an object counts as off which is not seen, or farther off
REACH = 2.0  # radii around the place of an object that hold all of it, whatever its shape
LEAST_SPEED = 0.5  # pixels a frame below which a bounce has no angle
MEASURES = {
    "trajectory_error": Measure("distance from the true place", "px", False),
    "acceleration_error": Measure("distance from the true acceleration", "px/frame^2", False),
    "momentum_error": Measure("momentum lost or gained by a collision", SHARE, False),
    "energy_error": Measure("energy lost or gained by a collision", SHARE, False),
    "bounce_error": Measure("angle of a bounce", "degrees", False),
    "penetration": Measure("overlap of what cannot overlap", SHARE, False),
}


@dataclass(frozen=True)
class Course:
    """The true course of N objects over F frames; lengths in pixels of the room, times in frames, y down.

    positions: (F, N, 2). visibility: (F, N) share that is seen. contacts: (F, N, N + 4 + S), whether an object touched
    object j, the left, right, top or bottom wall, or another slab since the frame before. radii, masses, restitution:
    (N,). steered: (N,), what keys move: a force from outside, which keeps no momentum.
    given: first frames that the video was given, which do not count.
    """

    positions: Floats
    visibility: Floats
    contacts: Bools
    radii: Floats
    masses: Floats
    restitution: Floats
    steered: Bools
    given: int


@dataclass(frozen=True)
class Physics:
    """How far one clip is from its course; None where nothing of the kind happens behind the given frames."""

    trajectory_error: float | None  # mean over objects and frames, pixels
    acceleration_error: float | None  # mean over objects and flights between contacts, pixels a frame squared
    momentum_error: float | None  # |sum of m (v behind - v before)| / sum of m |v before|, mean over collisions
    energy_error: float | None  # |energy behind / energy before - 1|, of elastic collisions
    bounce_error: float | None  # degrees between the velocity behind a wall and the reflected one, mean over bounces
    penetration: float | None  # largest area that two objects share, over the smaller one's


def hold(scene: Scene, promise: Promise, course: Course, templates: Templates) -> Physics:
    """Holds the tracks of a clip against the course of its scene. ValueError where they differ in size."""
    frames, count = course.visibility.shape
    if (frames, count) != (len(scene.layers.pieces), len(scene.tracks)):
        raise ValueError(
            f"a course of {frames} frames and {count} objects is none of a clip of {len(scene.layers.pieces)} frames "
            f"and {len(scene.tracks)} objects"
        )
    momentum, energy = _collisions(scene, promise, course)
    return Physics(
        trajectory_error=_trajectory(scene, course),
        acceleration_error=_mean(_accelerations(scene, course)),
        momentum_error=_mean(momentum),
        energy_error=_mean(energy),
        bounce_error=_mean(_bounces(scene, promise, course)),
        penetration=_penetration(scene, promise, course, templates),
    )


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if len(values) else None


def _trajectory(scene: Scene, course: Course) -> float | None:
    errors = []
    for item, track in enumerate(scene.tracks):
        lost = LOST * float(course.radii[item])
        for frame in range(course.given, len(course.positions)):
            if course.visibility[frame, item] < LEAST_VISIBLE:
                continue
            seen = bool(track.seen[frame])
            away = float(np.linalg.norm(track.places[frame] - course.positions[frame, item])) if seen else lost
            errors.append(min(away, lost))
    return _mean(errors)


def _accelerations(scene: Scene, course: Course) -> list[float]:
    """How far the acceleration of each object is from the true one in each of its flights: the least-squares parabola
    through the places that are seen, less that through the true places of the same frames."""
    errors = []
    for item, track in enumerate(scene.tracks):
        touched = np.flatnonzero(course.contacts[:, item].any(1))
        for flight in np.split(np.arange(len(course.positions)), touched):
            frames = flight[(flight >= course.given) & (track.seen & track.whole)[flight]]
            if len(frames) >= FLIGHT:
                off = accelerated(frames, track.places[frames] - course.positions[frames, item])
                errors.append(float(np.linalg.norm(off)))
    return errors


def velocity(scene: Scene, promise: Promise, course: Course, item: int, frame: int, *, before: bool) -> Floats | None:
    """The velocity (x, y) of an object at the contact between a frame and the one before, pixels a frame.

    None where it touches something else within `WINDOW` frames, or is not wholly seen in all of them.
    """
    frames = np.arange(frame - WINDOW, frame) if before else np.arange(frame, frame + WINDOW)
    if frames[0] < 0 or frames[-1] >= len(course.positions):
        return None
    track = scene.tracks[item]
    if course.contacts[frames[1:], item].any() or not (track.seen & track.whole)[frames].all():
        return None
    times = frames - (frame - 0.5)
    return fitted(times, track.places[frames], promise.things[item].gravity)[1]


def _collisions(scene: Scene, promise: Promise, course: Course) -> tuple[list[float], list[float]]:
    """Shares of momentum, and of energy where it is elastic, that collisions lose or gain."""
    count = len(scene.tracks)
    momentum: list[float] = []
    energy: list[float] = []
    for frame, one, other in np.argwhere(course.contacts[:, :, :count]).tolist():
        if one >= other or frame < max(course.given, 1):
            continue
        pair = [one, other]
        if course.contacts[frame, pair].sum() > 2 or course.steered[pair].any():  # somebody else is in it, a wall, keys
            continue
        ways = [
            [velocity(scene, promise, course, item, frame, before=first) for item in pair] for first in (True, False)
        ]
        if any(each is None for way in ways for each in way):
            continue
        before, behind = (np.array(way, np.float64) for way in ways)
        masses = course.masses[pair]
        moved = float(masses @ np.linalg.norm(before, axis=1))
        if moved <= 0.0:
            continue
        momentum.append(float(np.linalg.norm(masses @ (behind - before))) / moved)
        if (course.restitution[pair] == 1.0).all():
            energy.append(abs(float(masses @ (behind**2).sum(1)) / float(masses @ (before**2).sum(1)) - 1.0))
    return momentum, energy


def _bounces(scene: Scene, promise: Promise, course: Course) -> list[float]:
    """Degrees by which objects leave the room's four walls in another direction than they should."""
    count, errors = len(scene.tracks), []
    for frame, item, wall in np.argwhere(course.contacts[:, :, count : count + 4]).tolist():
        alone = course.contacts[frame, item].sum() == 1
        if frame < max(course.given, 1) or not alone or course.restitution[item] == 0.0:
            continue
        before = velocity(scene, promise, course, item, frame, before=True)
        behind = velocity(scene, promise, course, item, frame, before=False)
        if before is None or behind is None or np.linalg.norm(before) < LEAST_SPEED:
            continue
        axis = 0 if wall < 2 else 1
        wanted = before.copy()
        wanted[axis] *= -course.restitution[item]
        lengths = float(np.linalg.norm(wanted) * np.linalg.norm(behind))
        along = float(wanted @ behind) / lengths if lengths > 1e-9 else 0.0
        errors.append(float(np.degrees(np.arccos(np.clip(along, -1.0, 1.0)))))
    return errors


def _penetration(scene: Scene, promise: Promise, course: Course, templates: Templates) -> float | None:
    """Shapes are drawn where objects are seen; those of one colour, which may be one piece, are left out."""
    solid = [
        item
        for item, (thing, track) in enumerate(zip(promise.things, scene.tracks, strict=True))
        if not thing.straight and thing.shape in templates.names and track.usual
    ]
    worst, size = [], scene.layers.walls.shape[:0:-1]  # width, height
    for place, one in enumerate(solid):
        for other in solid[place + 1 :]:
            if promise.things[one].colour == promise.things[other].colour:
                continue
            for frame in range(course.given, len(course.positions)):
                pair = [scene.tracks[one], scene.tracks[other]]
                if not all(track.seen[frame] for track in pair):
                    continue
                apart = float(np.linalg.norm(pair[0].places[frame] - pair[1].places[frame]))
                if apart > 2.0 * (pair[0].radius + pair[1].radius):
                    worst.append(0.0)
                    continue
                centres = [scene.setting.picture(track.places[frame], frame) for track in pair]
                radii = [track.radius * float(scene.setting.scale[frame]) for track in pair]
                reach = REACH * max(radii)  # beyond it nothing of the two is drawn
                first = np.maximum(np.floor(np.min(centres, axis=0) - reach), 0).astype(np.int64)
                width, height = np.minimum(np.ceil(np.max(centres, axis=0) + reach).astype(np.int64), size) - first
                drawn = []
                for item, centre, radius in zip((one, other), centres, radii, strict=True):
                    name = templates.names.index(promise.things[item].shape or "")
                    drawn.append(templates.draw(centre - first, radius, int(height), int(width))[name])
                worst.append(float(np.minimum(*drawn).sum() / max(min(each.sum() for each in drawn), 1e-9)))
    return max(worst) if worst else None
