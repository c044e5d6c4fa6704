"""Whether a video shows what its prompt says: read from pixels alone, held against the truth of the world.

Nothing here knows how the world is built: colours, outlines and the expected motion come in as plain values, and a real
clip of the world goes through the same reader as a generated one (that row of the table is the ceiling).
The thresholds below were fixed on real clips, clean, blurred (up to 1 pixel) and noisy (up to 8 levels), and on spoiled
ones; no model's output had a part in it. A reading that fails counts as wrong in every column.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import hypot

import numpy as np
import torch

from dit.evaluation.fit import fitted, off_line
from dit.evaluation.outline import Outline
from dit.evaluation.segment import MIN_CONTRAST, Floats, Track, coverage, to_levels, track
from dit.evaluation.shape import Templates
from dit.scores import SHARE, Measure

MIN_SCORE = 0.6  # soft IoU below which a blob is no shape at all; real clips, blurred and noisy too, stay above 0.8
MAX_COLOUR = 100.0  # levels between an object and the colour that it is taken for; neighbours are 108 apart or more
MAX_SPREAD = 60.0  # levels within an object's core beyond which it has no one colour; noise of 8 levels gives 13
MAX_ANGLE = 45.0  # degrees between measured and prompted direction
MOVING = 0.25  # share of the prompted speed below which an object stands still
AREA_RANGE = (0.75, 1.33)  # area of a frame over the clip's median
MAX_STRAY = 0.05  # solid area beside the object, over the object's
MAX_JUMP = 0.35  # distance of a centroid from the fitted line, over the radius: beyond it the object has teleported
SIZE_RANGE = (0.88, 1.14)  # measured over prompted radius: half-way between neighbouring size words
COLUMNS = ("colour", "shape", "size", "direction", "permanence")
MEASURES = {
    **{name: Measure(name, SHARE, True) for name in (*COLUMNS, "all")},
    # What still ranks clips that are right.
    "speed_error": Measure("speed error", "px/frame", False),
    "outline_error": Measure("outline error", "px", False),
    "outline_worst": Measure("outline error in the worst frame", "px", False),
}


@dataclass(frozen=True)
class Expectation:
    """What the prompt says about the one object, in pixels and frames."""

    colour: str
    shape: str
    radius: float  # of the circle of equal area
    velocity: tuple[float, float]  # pixels a frame, x to the right, y down


@dataclass(frozen=True)
class Verdict:
    """What was right in one clip, and by how much it is off. `reasons` says in words what was not right."""

    colour: bool
    shape: bool
    size: bool
    direction: bool
    permanence: bool
    speed_error: float  # | |fitted velocity| - |prompted velocity| |, pixels a frame
    outline_error: float  # mean over the frames of `Outline.error` of the prompted shape and size, pixels
    outline_worst: float  # the largest of the frames
    reasons: tuple[str, ...]

    @property
    def all(self) -> bool:
        """Every column right."""
        return all(getattr(self, column) for column in COLUMNS)


@dataclass(frozen=True)
class Reading:
    """What a clip shows. Unreadable entries are None."""

    colours: tuple[str | None, ...]  # of the frames with an object in them
    shapes: tuple[str | None, ...]  # of the first and of the second half of the frames, where there is an object
    radius: float  # median over the frames, 0 when there is no object
    velocity: tuple[float, float] | None  # least-squares line through the centroids, pixels a frame
    flaws: tuple[str, ...]  # what speaks against one whole, steady, present object
    track: Track | None


class Reader:
    """Reads clips of one object.

    Args:
        colours: name -> (red, green, blue), 0 to 255.
        outlines: name -> corners, see `Templates`.
        background: (red, green, blue).
    """

    def __init__(
        self,
        colours: Mapping[str, Sequence[float]],
        outlines: Mapping[str, Sequence[Sequence[float]]],
        background: Sequence[float],
    ) -> None:
        red, green, blue = background
        self.background = (float(red), float(green), float(blue))
        self.colours = dict(colours)
        self._palette = np.array([*colours.values(), self.background], np.float64)
        self.templates = Templates(outlines)
        self.outlines = {name: Outline(corners) for name, corners in outlines.items()}
        nearest = min(float(np.linalg.norm(entry - self._palette[-1])) for entry in self._palette[:-1])
        if nearest < MIN_CONTRAST:
            raise ValueError(
                f"a colour lies {nearest:.0f} from the background; at least {MIN_CONTRAST:.0f} can be read"
            )

    def read(self, video: torch.Tensor) -> Reading:
        """Reads `(3, F, H, W)`, float in [-1, 1] or uint8."""
        levels = to_levels(video)
        if not np.isfinite(levels).all():
            return Reading((None,), (None,), 0.0, None, ("values that are not finite",), None)
        found = track(levels, coverage(levels, self.background))
        if 2 * found.present.sum() < len(levels):
            return Reading((None,), (None,), 0.0, None, ("no object in more than half of the frames",), found)
        radius = float(np.sqrt(np.median(found.areas[found.present]) / np.pi))
        frames = np.flatnonzero(found.present)
        line = fitted(frames, found.centroids[frames])
        return Reading(
            colours=tuple(self._colour(found, frame) for frame in np.flatnonzero(found.present).tolist()),
            shapes=self._shapes(found),
            radius=radius,
            velocity=(float(line[1, 0]), float(line[1, 1])),
            flaws=tuple(_flaws(found, line, radius)),
            track=found,
        )

    def _colour(self, found: Track, frame: int) -> str | None:
        away = np.linalg.norm(self._palette - found.colours[frame], axis=1)
        if found.spreads[frame] > MAX_SPREAD or away.min() > MAX_COLOUR:
            return None
        return [*self.colours, None][int(away.argmin())]

    def _shapes(self, found: Track) -> tuple[str | None, ...]:
        """Halves are read apart, so that a shape that turns into another is noticed."""
        middle = (len(found.present) + 1) // 2
        halves = []
        for half in (range(middle), range(len(found.present) - middle, len(found.present))):
            scores = [
                self.templates.scores(found.masks[frame], found.centroids[frame], float(found.areas[frame]))
                for frame in half
                if found.present[frame]
            ]
            if not scores:
                continue
            mean = np.mean(scores, axis=0)
            halves.append(self.templates.names[int(mean.argmax())] if mean.max() >= MIN_SCORE else None)
        return tuple(halves)

    def judge(self, video: torch.Tensor, expected: Expectation) -> Verdict:
        """Holds what a clip shows against what its prompt says."""
        reading = self.read(video)
        wanted = hypot(*expected.velocity)
        moved = (0.0, 0.0) if reading.velocity is None else reading.velocity
        speed = hypot(*moved)
        along = (moved[0] * expected.velocity[0] + moved[1] * expected.velocity[1]) / max(speed * wanted, 1e-12)
        moving = speed >= MOVING * wanted
        outline = self.outline_errors(reading.track, expected, video.shape[1])
        checks = {
            "colour": (set(reading.colours) == {expected.colour}, f"colour {_words(reading.colours)}"),
            "shape": (set(reading.shapes) == {expected.shape}, f"shape {_words(reading.shapes)}"),
            "size": (
                SIZE_RANGE[0] <= reading.radius / expected.radius <= SIZE_RANGE[1],
                f"radius {reading.radius:.2f} px, not {expected.radius:.2f}",
            ),
            "direction": (
                moving and along > np.cos(np.radians(MAX_ANGLE)),
                f"moves ({moved[0]:.2f}, {moved[1]:.2f}) px/frame" if moving else "stands still",
            ),
            "permanence": (not reading.flaws, "; ".join(reading.flaws)),
        }
        # What cannot be read has speed 0, so that its error is the whole prompted speed.
        return Verdict(
            **{column: bool(right) for column, (right, _) in checks.items()},
            speed_error=abs(speed - wanted),
            outline_error=float(outline.mean()),
            outline_worst=float(outline.max()),
            reasons=tuple(reason for right, reason in checks.values() if not right),
        )

    def outline_errors(self, found: Track | None, expected: Expectation, frames: int) -> Floats:
        """`Outline.error` of every frame `(F,)`, pixels; where there is no object, all of it is missing."""
        if expected.shape not in self.outlines:
            raise ValueError(f"shape {expected.shape} has no outline; there are {', '.join(self.outlines)}")
        outline = self.outlines[expected.shape]
        errors = np.full(frames, outline.missing(expected.radius))
        if found is None:
            return errors
        for frame in np.flatnonzero(found.present).tolist():
            errors[frame] = outline.error(found.masks[frame], found.centroids[frame], expected.radius)
        return errors


def _words(found: Sequence[str | None]) -> str:
    return "/".join(dict.fromkeys(word or "unreadable" for word in found))


def _flaws(found: Track, line: Floats, radius: float) -> list[str]:
    flaws = []
    for frame, (present, area, stray) in enumerate(zip(found.present, found.areas, found.stray, strict=True)):
        typical = np.pi * radius * radius
        if not present:
            flaws.append(f"frame {frame}: no object")
        elif not AREA_RANGE[0] <= area / typical <= AREA_RANGE[1]:
            flaws.append(f"frame {frame}: area {area / typical:.2f} of the usual")
        if stray > MAX_STRAY * typical and stray >= 1.0:
            flaws.append(f"frame {frame}: a second piece of {stray:.1f} px")
    away = off_line(np.arange(len(found.present)), found.centroids, line)
    limit = MAX_JUMP * radius + 0.25
    flaws += [f"frame {frame}: {away[frame]:.1f} px off its line" for frame in np.flatnonzero(away > limit)]
    return flaws
