"""The frame rate of a clip."""

from __future__ import annotations

import torch

from data.batch import Batch, Values
from dit.signals.base import Asked, Clip, Entry, Number


class FPS(Number):
    """`fps` (B,) float, frames a second. It is always said: a clip without one would be no video."""

    entries = {"fps": Entry((), torch.float32)}
    example = 1.0

    def of_batch(self, batch: Batch) -> Values:
        return batch.values["fps"]

    def of_request(self, asked: Asked, clip: Clip) -> float:
        return float(clip.fps)
