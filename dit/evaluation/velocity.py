"""How far the velocity of balls in a video is from the truth: the measure of Kang et al. 2024 (arXiv 2411.02385).

The definition is that of the authors' public script (github.com/phyworld/phyworld, id_ood_data/evaluate.py), written
anew:

- a pixel belongs to the red ball where red is above 127 and green and blue are below, to the blue one likewise; a ball
  is at the mean of its pixels, column / width * 10 units;
- frames count behind the given ones, as long as every ball is truly inside the picture as a whole;
- velocities are differences between neighbouring frames that count;
- the error of a clip is |mean over time of what is read - mean over time of the truth|, of a collision before and
  behind it apart, without the interval in which the true velocities change by more than 0.1 units/s;
- a ball of which no pixel is found stands at the right edge (the first of two at the left one), at its last height.

The script has this for x alone. Here the axes along which the balls truly move count, and are added up: x, and of a
parabola y too, without which gravity would not be measured. Two balls, and before and behind their collision, count by
halves. docs/phyworld.md holds what that reads of real clips against what the authors report.

That reading has two faults of its own, which small pictures show: a threshold, and a scale that is short by one pixel
(255 / 256 at 256 pixels: the 0.010 units/s that the authors report of real clips of uniform motion). `sharp` readings
have neither: pixels are weighed by how much of them the ball covers, and places follow the picture's own lattice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from dit.evaluation.segment import Bools, Floats, grown, to_levels
from dit.scores import SHARE, Measure

HALF = 127.0  # levels
SOLID = 0.5  # coverage above which a pixel is certainly the ball's; its neighbours belong to the rim
BOUNCE = 0.1  # units/s by which velocities change in the interval of a collision
MEASURES = {
    "velocity_error": Measure("velocity error, public reading", "units/s", False),
    "sharp_velocity_error": Measure("velocity error, sharp reading", "units/s", False),
    "error_before": Measure("velocity error before the collision", "units/s", False),
    "error_after": Measure("velocity error behind the collision", "units/s", False),
    "frame_error": Measure("velocity error frame by frame", "units/s", False),
    "position_error": Measure("position error", "units", False),
    "momentum_error": Measure("momentum error", "units^3/s", False),
    "energy_error": Measure("energy error", "units^4/s^2", False),
    "size_change": Measure("change of radius", "units", False),
    "found": Measure("balls found", SHARE, True),
}


@dataclass(frozen=True)
class Balls:
    """The truth of a clip of F frames and N balls, lengths in units, y up.

    positions: (F, N, 2). radii: (N,); masses are their squares. given: first frames that the model was shown.
    """

    positions: Floats
    radii: Floats
    fps: float
    given: int


@dataclass(frozen=True)
class Places:
    """Where the balls of a clip are seen, in units, y up; one that is not found stands at an edge."""

    positions: Floats  # (F, N, 2)
    radii: Floats  # (F, N) of a circle of the area that is seen
    found: Bools  # (F, N)


@dataclass(frozen=True)
class Verdict:
    """How far one clip is from its truth; None where it has no such measure (what a collision keeps, of one ball)."""

    velocity_error: float  # as the public script reads it
    sharp_velocity_error: float  # the others are of sharp readings, too
    error_before: float | None
    error_after: float | None
    frame_error: float  # mean of |velocity read - true| over frames, balls and the axes of their motion
    position_error: float
    momentum_error: float | None  # behind the collision, as the public script: masses are squared radii
    energy_error: float | None
    size_change: float  # largest radius minus smallest
    found: float  # share of balls and frames
    reasons: tuple[str, ...]


class Reader:
    """Reads red and blue balls on white paper.

    Args:
        world: units along each side of the picture.
        origin, pitch: column j of the picture stands for x = origin + pitch j, row i for y = world - origin - pitch i.
    """

    def __init__(self, world: float, origin: float, pitch: float) -> None:
        self.world, self.origin, self.pitch = world, origin, pitch

    def public(self, levels: Floats, balls: int) -> Places:
        """What the public script sees in (F, H, W, 3) levels from 0 to 255."""
        high = levels > HALF
        red, green, blue = (high[..., channel] for channel in range(3))
        masks = [red & ~green & ~blue, ~red & ~green & blue][:balls]
        width = levels.shape[2]
        found = self._placed([mask.astype(np.float64) for mask in masks], 0.0, self.world / width)
        # Its pictures are upside down: rows are counted from the bottom.
        found.positions[..., 1] = np.where(found.found, found.positions[..., 1] - self.world / width, np.nan)
        return self._filled(found)

    def sharp(self, levels: Floats, balls: int) -> Places:
        """The same of soft coverage, on the picture's own lattice."""
        missing = 1.0 - levels / 255.0
        red, green, blue = (missing[..., channel] for channel in range(3))
        shares = [np.clip(0.5 * (green + blue - red), 0.0, 1.0), np.clip(0.5 * (green + red - blue), 0.0, 1.0)][:balls]
        weights = [share * grown(share > SOLID) for share in shares]
        return self._filled(self._placed(weights, self.origin, self.pitch))

    def _placed(self, weights: Sequence[Floats], origin: float, pitch: float) -> Places:
        """Centroids of weights (F, H, W), NaN where there are none."""
        areas = np.stack([each.sum((1, 2)) for each in weights], axis=1)  # (F, N)
        with np.errstate(invalid="ignore", divide="ignore"):
            columns, rows = (
                np.stack([each.sum(axis) @ np.arange(each.shape[3 - axis]) for each in weights], axis=1) / areas
                for axis in (1, 2)
            )
        positions = np.stack([origin + pitch * columns, self.world - origin - pitch * rows], axis=-1)
        return Places(positions, np.sqrt(areas / np.pi) * pitch, areas > 0.0)

    def _filled(self, places: Places) -> Places:
        """A ball that is not found stands at the right edge, the first of two at the left one; at its last height, and
        in the middle before it was ever seen."""
        positions, radii = places.positions.copy(), places.radii.copy()
        for ball in range(positions.shape[1]):
            edge = 0.0 if positions.shape[1] == 2 and ball == 0 else self.world
            height, radius = 0.5 * self.world, 0.0
            for frame, found in enumerate(places.found[:, ball]):
                if found:
                    height, radius = float(positions[frame, ball, 1]), float(radii[frame, ball])
                else:
                    positions[frame, ball], radii[frame, ball] = (edge, height), radius
        return Places(positions, radii, places.found)

    def judge(self, video: torch.Tensor, truth: Balls) -> Verdict:
        """Holds a video (3, F, H, W), float in [-1, 1] or uint8, against the truth.

        Raises ValueError for a video of another length or shape.
        """
        frames, balls = truth.positions.shape[:2]
        levels = _levels(video)
        if len(levels) != frames:
            raise ValueError(f"a video of {len(levels)} frames cannot be held against the truth of {frames}")
        return self.hold(self.public(levels, balls), self.sharp(levels, balls), truth)

    def read(self, video: torch.Tensor, balls: int) -> Places:
        """Where the balls of a video (3, F, H, W) are, by the sharp reading."""
        return self.sharp(_levels(video), balls)

    def hold(self, public: Places, sharp: Places, truth: Balls) -> Verdict:
        """Holds places, read in both ways, against the truth."""
        asked = counted(truth, self.world)
        measured = _Motion(sharp, truth, asked)
        before, after = measured.of_runs if len(measured.of_runs) == 2 else (None, None)
        momentum, energy = measured.kept()
        reasons = [
            f"frame {frame}: no {('red', 'blue')[ball]} ball"
            for frame in asked.tolist()
            for ball in np.flatnonzero(~sharp.found[frame]).tolist()
        ]
        return Verdict(
            velocity_error=_Motion(public, truth, asked).error,
            sharp_velocity_error=measured.error,
            error_before=before,
            error_after=after,
            frame_error=float(np.abs(measured.seen - measured.true)[..., measured.axes].mean()),
            position_error=float(np.linalg.norm((sharp.positions - truth.positions)[asked], axis=-1).mean()),
            momentum_error=momentum,
            energy_error=energy,
            size_change=float(np.ptp(sharp.radii[asked], axis=0).max()),
            found=float(sharp.found[asked].mean()),
            reasons=tuple(reasons),
        )


def _levels(video: torch.Tensor) -> Floats:
    """(3, F, S, S) -> (F, S, S, 3) from 0 to 255; what is no number shows no ball."""
    levels = to_levels(video)
    if levels.shape[1] != levels.shape[2]:
        raise ValueError(f"a picture of {levels.shape[1]}x{levels.shape[2]} is none of a square world")
    return np.nan_to_num(levels, nan=255.0, posinf=255.0, neginf=255.0)


def counted(truth: Balls, world: float) -> np.ndarray:
    """Numbers of the frames that count: behind the given ones, every ball inside as a whole. ValueError for fewer than
    two."""
    reach = truth.radii[None, :, None]
    inside: Bools = np.all((truth.positions >= reach) & (truth.positions <= world - reach), axis=(1, 2))
    asked = np.flatnonzero(inside & (np.arange(len(inside)) >= truth.given))
    if len(asked) < 2:
        raise ValueError(
            f"{len(asked)} frames behind the {truth.given} given ones show every ball: a velocity needs at least 2"
        )
    return asked


class _Motion:
    """Velocities (T, N, 2) that are seen, and true ones, between the frames that count."""

    def __init__(self, places: Places, truth: Balls, asked: np.ndarray) -> None:
        self.seen = np.diff(places.positions[asked], axis=0) * truth.fps
        self.true = np.diff(truth.positions[asked], axis=0) * truth.fps
        self.axes = np.ptp(truth.positions, axis=0).max(0) > 1e-6  # (2,), along which balls move
        self.masses = truth.radii**2
        self.runs = self._runs()
        self.of_runs = [self._along(run) for run in self.runs]

    def _runs(self) -> list[slice]:
        """The intervals without a collision in them."""
        last = len(self.true) - 1
        if self.true.shape[1] == 1:
            return [slice(0, last + 1)]
        jumps = np.abs(np.diff(self.true[..., 0], axis=0)).max(1) > BOUNCE
        at = 1 + int(jumps.argmax()) if jumps.any() else last
        return [slice(0, at), slice(at + 1, last + 1)]

    def _along(self, run: slice) -> float | None:
        """|mean velocity seen - true|, the mean over the balls and the sum over the axes; None of an empty run."""
        if not len(self.true[run]):
            return None
        away = np.abs(self.seen[run].mean(0) - self.true[run].mean(0))[:, self.axes]  # (N, axes)
        return float(away.mean(0).sum())

    @property
    def error(self) -> float:
        """The mean over the runs that are not empty."""
        return float(np.mean([each for each in self.of_runs if each is not None]))

    def kept(self) -> tuple[float, float] | tuple[None, None]:
        """Mean |momentum - true| and |energy - true| along x behind the collision; None where there is none."""
        if len(self.runs) == 1 or not len(self.true[self.runs[1]]):
            return None, None
        seen, true = self.seen[self.runs[1], :, 0], self.true[self.runs[1], :, 0]
        momentum = (self.masses * (seen - true)).sum(1)
        energy = (0.5 * self.masses * (seen**2 - true**2)).sum(1)
        return float(np.abs(momentum).mean()), float(np.abs(energy).mean())
