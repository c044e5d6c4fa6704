"""Whether a video of several objects shows what its prompt says: read from pixels, held against the words.

Everything is measured in the room, through the camera that the prompt names: a steady object under a camera that pans
stands still. A check that a prompt or a clip leaves no way to ask is None, and counts neither way: a speed that no word
says, the velocity of what meets something at once. A clip that cannot be read is wrong in every check that is asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import hypot
from typing import Any

import numpy as np
import torch

from dit.evaluation.fit import accelerated, fitted, off_line
from dit.evaluation.objects.layers import Layers, Palette, Piece, Setting, nearest_setting, take_apart
from dit.evaluation.objects.tracks import Thing, Track, follow
from dit.evaluation.segment import Floats, to_levels
from dit.evaluation.shape import Templates
from dit.scores import SHARE, Measure

LEAST_AREA = 0.3  # of the smallest object that a world shows: a piece below it is none
LEAST_SCORE = 0.6  # soft IoU below which a piece is no shape at all
SIZE_RANGE = (0.86, 1.16)  # measured over promised radius; neighbouring size words are 1.2 apart or more
AREA_RANGE = (0.68, 1.45)  # area of a whole object over its usual one
MAX_ANGLE = 30.0  # degrees between measured and promised direction
SPEED_RANGE = 0.12  # share of the promised speed by which the measured one may be off, and
SPEED_LEAST = 0.25  # pixels a frame
MAX_STRAY = 0.45  # radii by which a straight object may be off its line, and a quarter of a pixel
MAX_JUMP = 0.6  # radii by which an object may go farther in a frame than anything in its world does, and a pixel
MAX_UNLIKE = 0.02  # share of the pixels that may be neither background nor anything else that was named
FEWEST = 4  # frames of free motion that a velocity needs,
FEWEST_FALL = 6  # and an acceleration
CHECKS = (
    "presence", "count", "colour", "shape", "size", "direction", "speed", "permanence", "identity", "background",
)  # fmt: skip
MEASURES = {
    **{name: Measure(name, SHARE, True) for name in (*CHECKS, "all")},
    "size_error": Measure("error of the radius", SHARE, False),
    "speed_error": Measure("velocity error", "px/frame", False),
    "gravity_error": Measure("error of gravity", SHARE, False),
}


@dataclass(frozen=True)
class Promise:
    """What a prompt says of a clip.

    things: its objects. settings: what may be behind them; one where the prompt says it. fastest: pixels a frame that
    each does not exceed. slack: share by which speeds and sizes vary around their words.
    """

    things: tuple[Thing, ...]
    settings: tuple[Setting, ...]
    fastest: tuple[float, ...]
    slack: float = 0.0


@dataclass(frozen=True)
class Verdict:
    """What is right in one clip; None where it is not asked. Errors are means over objects. `reasons` says in words
    what is wrong."""

    presence: bool
    count: bool
    colour: bool
    shape: bool | None
    size: bool | None
    direction: bool | None
    speed: bool | None
    permanence: bool
    identity: bool
    background: bool
    size_error: float | None  # |measured radius / promised - 1|
    speed_error: float | None  # |measured velocity - promised|, pixels a frame
    gravity_error: float | None  # |measured acceleration - gravity| / gravity
    reasons: tuple[str, ...]

    @property
    def all(self) -> bool:
        """Every check that is asked is right."""
        return all(getattr(self, check) is not False for check in CHECKS)


@dataclass(frozen=True)
class Scene:
    """What a clip shows: a track for each promised object, and all else."""

    tracks: tuple[Track, ...]
    strangers: tuple[tuple[Piece, ...], ...]  # of each frame, pieces that were not promised
    layers: Layers
    setting: Setting


class Reader:
    """Reads clips of several objects.

    Args:
        palette: the colours of the world.
        outlines: shape -> corners, see `Templates`.
        smallest: the least radius of an object in the world, pixels of the picture.
    """

    def __init__(self, palette: Palette, outlines: Mapping[str, Sequence[Sequence[float]]], smallest: float) -> None:
        self.palette, self.templates = palette, Templates(outlines)
        self.reaches = {name: float(np.linalg.norm(np.asarray(each), axis=1).max()) for name, each in outlines.items()}
        self.least_area = LEAST_AREA * np.pi * smallest * smallest

    def read(self, video: torch.Tensor, promise: Promise) -> Scene:
        """Reads `(3, F, H, W)`, float in [-1, 1] or uint8. ValueError for one of another size than its setting."""
        levels = to_levels(video)
        setting = promise.settings[0]
        if levels.shape != setting.plate.shape:
            raise ValueError(
                f"a video of {tuple(levels.shape[:3])} frames, rows and columns cannot be held against one of "
                f"{tuple(setting.plate.shape[:3])}"
            )
        levels = np.nan_to_num(levels, nan=0.0, posinf=255.0, neginf=0.0)
        setting = promise.settings[nearest_setting(levels, promise.settings)]
        layers = take_apart(levels, setting, self.palette, self.least_area)
        tracks, strangers = follow(layers, promise.things, setting, self.templates)
        return Scene(tuple(tracks), tuple(map(tuple, strangers)), layers, setting)

    def judge(self, video: torch.Tensor, promise: Promise) -> Verdict:
        """Holds what a clip shows against what its prompt says."""
        return self.hold(self.read(video, promise), promise)

    def hold(self, scene: Scene, promise: Promise) -> Verdict:
        """Holds what was read of a clip against what its prompt says."""
        things = promise.things
        names = [f"{thing.colour} {thing.shape or 'object'}" for thing in things]
        reasons: list[str] = []

        def check(right: bool, reason: str) -> bool:
            if not right:
                reasons.append(reason)
            return right

        missing = [name for name, track in zip(names, scene.tracks, strict=True) if not _there(track)]
        presence = check(not missing, f"no {', no '.join(missing)}")
        known = np.stack([track.seen | track.hidden for track in scene.tracks]).sum(0)
        numbers = known + np.array([len(each) for each in scene.strangers])
        count = check(int(np.median(numbers)) == len(things), f"{int(np.median(numbers))} objects")
        colours = _colours(scene)
        wanted = {thing.colour for thing, track in zip(things, scene.tracks, strict=True) if not track.unseen}
        colour = check(colours == wanted, f"colours {', '.join(sorted(colours)) or 'none'}")

        shapes = [track.shapes(scene.setting, self.templates, LEAST_SCORE) for track in scene.tracks]
        shape: bool | None = None
        shown = [track.whole.any() or not _there(track) for track in scene.tracks]  # of others too little is seen
        asked = [number for number, thing in enumerate(things) if thing.shape is not None and shown[number]]
        if asked:
            wrong = [
                f"{names[number]}: {_words(shapes[number])}"
                for number in asked
                if set(shapes[number]) != {things[number].shape}
            ]
            shape = check(not wrong, "shape of " + "; ".join(wrong))
        sizes = {
            name: track.radius / thing.radius
            for name, thing, track, clear in zip(names, things, scene.tracks, shown, strict=True)
            if thing.radius is not None and clear
        }
        low, high = SIZE_RANGE[0] - promise.slack, SIZE_RANGE[1] + promise.slack
        off = [f"{name}: {share:.2f} of its radius" for name, share in sizes.items() if not low <= share <= high]
        size = check(not off, "; ".join(off)) if sizes else None
        moved = self._motion(scene, promise, names, check)
        flaws = _flaws(scene, promise, names)
        permanence = check(not flaws, "; ".join(flaws[:4]))
        changes = _changes(scene, promise, names, shapes)
        identity = check(not changes, "; ".join(changes[:4]))
        unlike = scene.layers.unlike
        background = check(unlike <= MAX_UNLIKE, f"{unlike:.0%} of the picture is neither background nor named")
        return Verdict(
            presence=presence,
            count=count,
            colour=colour,
            shape=shape,
            size=size,
            permanence=permanence,
            identity=identity,
            background=background,
            size_error=float(np.mean([abs(share - 1.0) for share in sizes.values()])) if sizes else None,
            reasons=tuple(reasons),
            **moved,
        )

    def _motion(self, scene: Scene, promise: Promise, names: Sequence[str], check: Any) -> dict[str, Any]:
        """Direction, speed and their errors."""
        turned: list[str] = []
        slow: list[str] = []
        speed_errors: list[float] = []
        falls: list[float] = []
        directions = speeds = 0
        for number, (name, thing) in enumerate(zip(names, promise.things, strict=True)):
            if thing.velocity is None:
                continue
            track = scene.tracks[number]
            wanted = np.array(thing.velocity)
            pace = hypot(*thing.velocity)
            free = self.free(scene, promise, number)
            if _there(track) and len(free) < FEWEST:
                continue  # it meets something at once
            speeds += thing.paced
            directions += pace > 0.0
            if not _there(track) or len(free) < FEWEST:
                speed_errors += [pace] if thing.paced else []
                turned += [f"{name} is not there"] if pace > 0.0 else []
                slow += [f"{name} is not there"] if thing.paced else []
                continue
            velocity = fitted(free, track.places[free], thing.gravity)[1]
            found = hypot(*velocity)
            if pace > 0.0:
                along = float(velocity @ wanted) / max(found * pace, 1e-12)
                if found < 0.25 * pace or along < np.cos(np.radians(MAX_ANGLE)):
                    turned.append(f"{name} moves ({velocity[0]:.2f}, {velocity[1]:.2f}) px/frame")
            if thing.paced:
                speed_errors.append(float(np.linalg.norm(velocity - wanted)))
            if thing.paced and abs(found - pace) > (SPEED_RANGE + promise.slack) * pace + SPEED_LEAST:
                slow.append(f"{name} moves {found:.2f} px/frame, not {pace:.2f}")
            if thing.gravity and len(free) >= FEWEST_FALL:
                falls.append(abs(accelerated(free, track.places[free])[1] / thing.gravity - 1.0))
        return {
            "direction": check(not turned, "; ".join(turned)) if directions else None,
            "speed": check(not slow, "; ".join(slow)) if speeds else None,
            "speed_error": float(np.mean(speed_errors)) if speed_errors else None,
            "gravity_error": float(np.mean(falls)) if falls else None,
        }

    def free(self, scene: Scene, promise: Promise, number: int) -> np.ndarray:
        """The frames from the first on in which an object is whole and has not met anything yet."""
        thing, track = promise.things[number], scene.tracks[number]
        whole = track.seen & track.whole
        if thing.straight or not track.usual:
            return np.flatnonzero(whole)
        reach = track.radius * self.reaches.get(thing.shape or "", max(self.reaches.values()))
        height, width = scene.layers.walls.shape[1:]
        steps = self._steps(track, thing)
        for frame, (place, step) in enumerate(zip(track.predicted, steps, strict=True)):
            gaps = [float(np.min([*place, width - place[0], height - place[1]])) - reach]
            if len(scene.layers.sides):
                # Sides are centres of pixels that are more than half theirs: they may begin a pixel nearer.
                gaps.append(float(np.abs(scene.layers.sides - place).max(1).min()) - reach - 1.0)
            for other, each in enumerate(scene.tracks):
                if other != number and not promise.things[other].straight and each.usual:
                    far = float(np.linalg.norm(each.predicted[frame] - place))
                    gaps.append(far - reach - each.radius * max(self.reaches.values()))
                    gaps[-1] -= float(self._steps(each, promise.things[other])[frame])
            if min(gaps) <= step + 0.5:
                whole[frame + 1 :] = False
                break
        return np.flatnonzero(whole)

    @staticmethod
    def _steps(track: Track, thing: Thing) -> Floats:
        """How far an object goes from each frame to the next (F,), or would if it met nothing; pixels."""
        steps = np.linalg.norm(np.diff(track.predicted, axis=0, append=track.predicted[-1:]), axis=1)
        return np.maximum(steps, hypot(*thing.velocity) if thing.velocity is not None else 0.0)


def _there(track: Track) -> bool:
    """Whether an object is seen, and in more than half of the frames that do not hide it."""
    return track.unseen or bool(track.seen.any()) and int(track.seen.sum()) * 2 > int((~track.hidden).sum())


def _words(found: Sequence[str | None]) -> str:
    return "/".join(dict.fromkeys(word or "unreadable" for word in found)) or "not seen"


def _colours(scene: Scene) -> set[str]:
    """Those of pieces that were not cut off from another, in two frames or more (or in all, of fewer)."""
    counts: dict[str, int] = {}
    for frame, strangers in enumerate(scene.strangers):
        shown = [track.pieces[frame] for track in scene.tracks]
        for colour in {piece.colour for piece in (*shown, *strangers) if piece is not None}:
            counts[colour] = counts.get(colour, 0) + 1
    return {colour for colour, count in counts.items() if count >= min(2, len(scene.strangers))}


def _flaws(scene: Scene, promise: Promise, names: Sequence[str]) -> list[str]:
    """What speaks against objects that are there all the time, and against nothing else."""
    flaws = []
    for frame, strangers in enumerate(scene.strangers):
        flaws += [f"frame {frame}: a {piece.colour} piece of {piece.area:.0f} px" for piece in strangers]
    for name, thing, track, fastest in zip(names, promise.things, scene.tracks, promise.fastest, strict=True):
        gone = np.flatnonzero(~track.seen & ~track.hidden)
        flaws += [f"frame {frame}: no {name}" for frame in gone.tolist()]
        flaws += [f"frame {frame}: the {name} jumps by {far:.1f} px" for frame, far, _ in _jumps(track, fastest)]
        frames = np.flatnonzero(track.seen & track.whole)
        if thing.straight and len(frames) > 2:
            away = off_line(frames, track.places[frames], fitted(frames, track.places[frames]))
            limit = MAX_STRAY * track.radius + 0.25
            flaws += [
                f"frame {frame}: the {name} is {far:.1f} px off its line"
                for frame, far in zip(frames.tolist(), away, strict=True)
                if far > limit
            ]
    return flaws


def _jumps(track: Track, fastest: float) -> list[tuple[int, float, int]]:
    """Frames to which an object came from too far, how far it went, and since which frame."""
    frames, found = np.flatnonzero(track.seen & track.whole).tolist(), []  # what is cut off is seen elsewhere
    for before, frame in zip(frames, frames[1:], strict=False):
        far = float(np.linalg.norm(track.places[frame] - track.places[before]))
        if far > fastest * (frame - before) + MAX_JUMP * track.radius + 1.0:
            found.append((frame, far, before))
    return found


def _changes(
    scene: Scene, promise: Promise, names: Sequence[str], shapes: Sequence[tuple[str | None, ...]]
) -> list[str]:
    """What speaks against objects that stay what they are: colour, shape, size, and which is where."""
    changes = []
    for number, (name, track, fastest) in enumerate(zip(names, scene.tracks, promise.fastest, strict=True)):
        if len(set(shapes[number])) > 1:
            changes.append(f"the {name} changes shape")
        for frame in np.flatnonzero(track.seen & track.whole).tolist():
            share = track.areas[frame] / track.usual
            if not AREA_RANGE[0] <= share <= AREA_RANGE[1]:
                changes.append(f"frame {frame}: the {name} has {share:.2f} of its usual area")
        if not track.usual:
            continue
        for frame in np.flatnonzero(~track.seen & ~track.hidden).tolist():
            for piece in scene.strangers[frame]:
                near = np.linalg.norm(scene.setting.room(piece.centroid, frame) - track.predicted[frame])
                if piece.colour != promise.things[number].colour and near <= track.radius + fastest:
                    changes.append(f"frame {frame}: the {name} is {piece.colour}")
        for frame, _, before in _jumps(track, fastest):
            for other, each in enumerate(scene.tracks):
                reach = each.radius + fastest * (frame - before)
                if other != number and each.usual:
                    far = np.linalg.norm(track.places[frame] - each.predicted[before])
                    if far <= reach:
                        changes.append(f"frame {frame}: the {name} takes the place of the {names[other]}")
    return changes
