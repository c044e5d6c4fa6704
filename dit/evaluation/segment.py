"""Finds the object in every frame of a video from its pixels alone: contrast, colour, place, area, pieces."""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Value = TypeVar("Value", np.bool_, np.int64)

# All distances between colours are Euclidean in 8-bit RGB, so the largest one is 441.
MIN_CONTRAST = 60.0  # an object stands out from the background at least this much; noise of 8 levels stays below 45
DEAD_ZONE = 0.15  # coverage below this is noise or the tail of a blur and counts as background
SOLID = 0.5  # coverage above this belongs to a piece
FAINT = 0.3  # coverage above this is still seen by the eye: beside the object it counts as stray
MAX_FILL = 0.5  # share of the frame: a larger piece is not an object, but a background gone wrong or noise
CORE = 0.85  # coverage above this shows the object's own colour, not a mix with the background


def to_levels(video: torch.Tensor) -> Floats:
    """`(3, F, H, W)` in [-1, 1] or uint8, as `(F, H, W, 3)` float64 levels from 0 to 255.

    Values outside are clamped; NaN and infinities stay, so that the reader can refuse them.
    """
    if video.ndim != 4 or video.shape[0] != 3:
        raise ValueError(f"a video is (3, F, H, W), not {tuple(video.shape)}")
    pixels = video.detach().cpu().permute(1, 2, 3, 0)
    if pixels.dtype == torch.uint8:
        return pixels.numpy().astype(np.float64)
    levels = (pixels.double().numpy() + 1.0) * 127.5
    return np.where(np.isfinite(levels), np.clip(levels, 0.0, 255.0), levels)


@dataclass(frozen=True)
class Track:
    """One object through F frames.

    Where `present` is false the other entries of that frame are NaN or zero.
    """

    present: Bools  # (F,)
    colours: Floats  # (F, 3) levels of the object's core
    spreads: Floats  # (F,) median distance of the core's pixels from that colour, levels
    centroids: Floats  # (F, 2) x, y in pixels; the centre of the top left pixel is (0.5, 0.5)
    areas: Floats  # (F,) soft area, pixels
    stray: Floats  # (F,) soft area of everything visible beside the object, pixels
    masks: Floats  # (F, H, W) soft coverage of the object alone


def coverage(levels: Floats, background: tuple[float, float, float]) -> Floats:
    """How far each pixel is from the background towards the object: `(F, H, W)` in [0, 1]; 0 when nothing stands out.

    The object's distance from the background is one value for the whole clip, so that an object that fades loses area.
    """
    distance = np.sqrt(((levels - np.asarray(background, np.float64)) ** 2).sum(-1))
    contrasts = []
    for frame in distance:
        # The fourth largest is no outlier; what is above half of it is mostly object, and its median the object's own.
        peak = np.sort(frame, axis=None)[-min(4, frame.size)]
        contrasts.append(float(np.median(frame[frame >= max(0.5 * peak, 1e-9)])) if peak >= MIN_CONTRAST else 0.0)
    seen = [value for value in contrasts if value > 0.0]
    if not seen:
        return np.zeros(distance.shape)
    soft = np.clip(distance / np.median(seen), 0.0, 1.0)
    return np.where(soft < DEAD_ZONE, 0.0, soft)


def label(solid: Bools) -> NDArray[np.int64]:
    """Numbers the 8-connected pieces of every frame of `(F, H, W)`; 0 is no piece. Numbers are arbitrary."""
    labels = np.where(solid, np.arange(1, solid.size + 1).reshape(solid.shape), 0)
    while True:
        spread = np.where(solid, grown(labels), 0)
        if np.array_equal(spread, labels):
            return labels
        labels = spread


def grown(values: NDArray[Value]) -> NDArray[Value]:
    """The largest of each pixel's 3x3 neighbourhood (..., H, W); of a mask, whether there is one in it."""
    rows = values.copy()
    np.maximum(rows[..., 1:, :], values[..., :-1, :], out=rows[..., 1:, :])
    np.maximum(rows[..., :-1, :], values[..., 1:, :], out=rows[..., :-1, :])
    both = rows.copy()
    np.maximum(both[..., 1:], rows[..., :-1], out=both[..., 1:])
    np.maximum(both[..., :-1], rows[..., 1:], out=both[..., :-1])
    return both


def track(levels: Floats, soft: Floats) -> Track:
    """Follows the largest solid piece of every frame; one that fills the frame is none.

    The object is that piece with its soft rim (two pixels); what can be seen beyond is `stray`.
    """
    frames, height, width = soft.shape
    solid = soft > SOLID
    labels = label(solid)
    masks = np.zeros(soft.shape)
    stray = np.zeros(frames)
    for frame in range(frames):
        numbers, counts = np.unique(labels[frame][solid[frame]], return_counts=True)
        if len(numbers) and counts.max() <= MAX_FILL * height * width:
            body = labels[frame] == numbers[np.argmax(counts)]
            masks[frame] = soft[frame] * grown(grown(body))
        stray[frame] = soft[frame][(soft[frame] > FAINT) & (masks[frame] == 0.0)].sum()
    areas = masks.sum((1, 2))
    present = areas > 0.0
    weights = masks / np.where(present, areas, np.nan)[:, None, None]
    x, y = np.arange(width) + 0.5, np.arange(height) + 0.5
    centroids = np.stack([(weights.sum(1) * x).sum(-1), (weights.sum(2) * y).sum(-1)], axis=-1)
    colours, spreads = np.full((frames, 3), np.nan), np.full(frames, np.nan)
    for frame in np.flatnonzero(present).tolist():
        core = levels[frame][masks[frame] >= min(CORE, float(masks[frame].max()))]
        colours[frame] = np.median(core, axis=0)
        spreads[frame] = np.median(np.linalg.norm(core - colours[frame], axis=1))
    return Track(present, colours, spreads, centroids, areas, stray, masks)
