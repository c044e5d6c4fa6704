"""The guidance scale that a distilled network imitates in one pass."""

from __future__ import annotations

from typing import Any

import torch

from data.batch import Batch, Values
from dit.signals.base import Around, Asked, Clip, Entry, Number


class GuidanceScale(Number):
    """`guidance` (B,): how strongly the network is to follow the prompt (HunyuanVideo). It is always said.

    Args:
        scale: of samples that say none by `signals.guidance`.
        in_training: what it is told of clips; None: `scale`. At 1 a distilled network is asked for the clips
            themselves, not for what guidance makes of them, so published models are fine-tuned with 1.
    """

    entries = {"guidance": Entry((), torch.float32)}
    example = 6.0
    asked = ("guidance",)

    def __init__(self, around: Around, *, scale: float, in_training: float | None) -> None:
        super().__init__(around)
        self.scale = scale
        self.in_training = scale if in_training is None else in_training

    def of_batch(self, batch: Batch) -> Values:
        return torch.full((len(batch),), float(self.in_training), device=batch.device)

    def of_request(self, asked: Asked, clip: Clip) -> Any:
        said = super().of_request(asked, clip)
        return float(self.scale) if said is None else said
