"""How far a video's objects are from where the exact state says they should be: for given frames and several objects.

For videos that go on from given frames (or that restate a known clip), physics fixes everything: walls, gravity,
collisions. Objects are told apart by colour, and those of one colour by which is nearest to its true place.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from dit.evaluation.segment import DEAD_ZONE, SOLID, Bools, Floats, label, to_levels

MAX_OFF_COLOUR = 60.0  # levels between a pixel and the nearest mix of object and background; noise of 8 gives 14
MIN_AREA = 0.3  # of the object's true area: a smaller blob is not it
LOST = 4.0  # radii that an object which is not found counts as off
MIN_VISIBLE = 0.9  # where the truth itself is covered or outside the frame, nothing is asked


@dataclass(frozen=True)
class Truth:
    """N objects over F frames, in pixels."""

    colours: Sequence[Sequence[float]]  # N (red, green, blue)
    radii: Floats  # (N,) of the circle of equal area
    positions: Floats  # (F, N, 2) x, y; the centre of the top left pixel is (0.5, 0.5)
    visibility: Floats  # (F, N) share that is inside the frame and not covered

    @property
    def asked(self) -> Bools:
        """Which objects in which frames count: `(F, N)`."""
        return np.asarray(self.visibility >= MIN_VISIBLE)


@dataclass(frozen=True)
class Paths:
    """Where the objects were found, and what that says."""

    truth: Truth
    centroids: Floats  # (F, N, 2), NaN where an object was not found

    @property
    def errors(self) -> Floats:
        """Distance from the truth `(F, N)`, pixels: `LOST` radii for a lost object, NaN where nothing is asked."""
        away = np.linalg.norm(self.centroids - self.truth.positions, axis=-1)
        away = np.where(np.isnan(away), LOST * self.truth.radii, away)
        return np.where(self.truth.asked, away, np.nan)

    @property
    def found(self) -> float:
        """Share of the asked objects and frames in which the object was found."""
        lost = np.isnan(self.centroids[..., 0])
        return 1.0 - float(lost[self.truth.asked].mean())

    @property
    def horizon(self) -> int:
        """Frames until the first object is a radius or more away from the truth (F when that never happens)."""
        off = np.nan_to_num(self.errors, nan=0.0) >= self.truth.radii
        return int(np.argmax(off.any(1))) if off.any() else len(off)

    def acceleration(self, item: int, frames: slice) -> tuple[float, float] | None:
        """Least-squares acceleration (x, y) of one object over some frames, pixels per frame squared.

        None when it was found in fewer than four of them. Choose frames without contacts.
        """
        times = np.arange(len(self.centroids))[frames].astype(np.float64)
        places = self.centroids[frames, item]
        seen = ~np.isnan(places[:, 0])
        if seen.sum() < 4:
            return None
        times = times[seen] - times[seen].mean()
        design = np.stack([np.ones(len(times)), times, 0.5 * times * times], axis=1)
        solved, *_ = np.linalg.lstsq(design, places[seen], rcond=None)
        return float(solved[2, 0]), float(solved[2, 1])


def follow(video: torch.Tensor, truth: Truth, background: Sequence[float]) -> Paths:
    """Finds every object of `truth` in `(3, F, H, W)`, float in [-1, 1] or uint8.

    An object that is not there, or a frame with values that are not finite, leaves NaN.
    """
    levels = to_levels(video)
    frames, count = truth.visibility.shape
    if len(levels) != frames:
        raise ValueError(f"a video of {len(levels)} frames cannot be held against the truth of {frames}")
    centroids = np.full((frames, count, 2), np.nan)
    for item in range(count):
        soft = _coverage(levels, np.asarray(truth.colours[item], np.float64), np.asarray(background, np.float64))
        labels = label(soft > SOLID)
        for frame in range(frames):
            blobs = _blobs(soft[frame], labels[frame], MIN_AREA * np.pi * float(truth.radii[item]) ** 2)
            if blobs:
                places = np.array(blobs)
                away = np.linalg.norm(places - truth.positions[frame, item], axis=1)
                centroids[frame, item] = places[away.argmin()]
    return Paths(truth, centroids)


def _coverage(levels: Floats, colour: Floats, background: Floats) -> Floats:
    """How much of each pixel this colour covers, 0 where the pixel is no mix of colour and background: `(F, H, W)`."""
    axis = colour - background
    with np.errstate(invalid="ignore"):
        share = np.clip((levels - background) @ axis / (axis @ axis), 0.0, 1.0)
        off = np.linalg.norm(levels - background - share[..., None] * axis, axis=-1)
        return np.where((off <= MAX_OFF_COLOUR) & (share >= DEAD_ZONE), share, 0.0)


def _blobs(soft: Floats, labels: np.ndarray, min_area: float) -> list[tuple[float, float]]:
    """Centroids (x, y) of the pieces of at least `min_area`, soft rims of one pixel included."""
    found = []
    for number in np.unique(labels[labels > 0]).tolist():
        rows, columns = np.nonzero(labels == number)
        window = (
            slice(max(int(rows.min()) - 1, 0), int(rows.max()) + 2),
            slice(max(int(columns.min()) - 1, 0), int(columns.max()) + 2),
        )
        # A neighbour's pixels inside the window are not ours.
        weights = np.where((labels[window] == number) | (labels[window] == 0), soft[window], 0.0)
        if weights.sum() >= min_area:
            y, x = (np.arange(size)[part] + 0.5 for size, part in zip(soft.shape, window, strict=True))
            down, across = weights.sum(1), weights.sum(0)
            found.append((float(across @ x / across.sum()), float(down @ y / down.sum())))
    return found
