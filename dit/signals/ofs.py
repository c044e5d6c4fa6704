"""The number by which CogVideoX 1.5 knows that it makes a video of an image."""

from __future__ import annotations

from typing import Any

import torch

from data.batch import Batch, Values
from dit.signals.base import Around, Asked, Clip, Entry, Number


class Ofs(Number):
    """`ofs` (B,): the same number for every clip (CogVideoX 1.5 image-to-video). It is always said.

    Args:
        value: 2 in the published model and its pipeline, which do not say what it stands for.
    """

    entries = {"ofs": Entry((), torch.float32)}
    example = 2.0
    asked = ("ofs",)

    def __init__(self, around: Around, *, value: float) -> None:
        super().__init__(around)
        self.value = value

    def of_batch(self, batch: Batch) -> Values:
        return torch.full((len(batch),), float(self.value), device=batch.device)

    def of_request(self, asked: Asked, clip: Clip) -> Any:
        said = super().of_request(asked, clip)
        return float(self.value) if said is None else said
