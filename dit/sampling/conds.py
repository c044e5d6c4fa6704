"""The conditioning of samples, and what guidance leads away from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dit.sampling.canvas import Canvas
from dit.sampling.request import Request
from dit.signals.base import Signal, cond_of_requests


class CondPair(NamedTuple):
    """The conditioning of a batch, and what guidance leads it away from."""

    cond: dict[str, Tensor]
    uncond: dict[str, Tensor]


@dataclass(frozen=True)
class Conds:
    """Makes the conditioning of samples.

    Args:
        signals: what the network is told, by name.
        text: the encoder that they ask, which is moved to `device` first.
        dtype: of entries that come in float64: an encoder may be more precise than the network.
    """

    signals: Mapping[str, Signal]
    text: nn.Module | None
    device: torch.device
    dtype: torch.dtype

    def of(self, wanted: Sequence[Request], canvas: Canvas, away: bool = False) -> dict[str, Tensor]:
        """The conditioning of samples, or what guidance leads `away` from."""
        if self.text is not None:
            self.text.to(self.device)
        cond = cond_of_requests(self.signals, wanted, canvas, self.device, away)
        return {key: value.to(self.dtype) if value.dtype is torch.float64 else value for key, value in cond.items()}

    def pairs(self, wanted: Sequence[Request], canvas: Canvas, begins: Sequence[int]) -> list[CondPair]:
        """Both for each clip of a chain. begins: the first frame of each."""
        pair = CondPair(self.of(wanted, canvas), self.of(wanted, canvas, away=True))
        for signal in self.signals.values():
            pair = pair._replace(uncond=signal.paired(*pair))
        by_frame = replace(self, signals={name: each for name, each in self.signals.items() if each.by_frame})
        if not by_frame.signals:
            return [pair] * len(begins)
        clips = [replace(canvas, begin=begin) for begin in begins]
        return [
            CondPair(pair.cond | by_frame.of(wanted, clip), pair.uncond | by_frame.of(wanted, clip, away=True))
            for clip in clips
        ]
