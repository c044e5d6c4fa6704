"""Predictions held against the true future: n frames are given, those behind them are compared.

Where several samples are made of each clip, the mean over them says how good one of them is, and the best of k whether
the truth is among them (Denton and Fergus 2018, arXiv 1802.07687): best on each clip, for each measure by itself. More
samples make the best one better, so k is in the name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from dit.evaluation.video.clips import check_alike, checked, unit
from dit.evaluation.video.pairs import FrameMeasure
from dit.evaluation.video.per_clip import PerClip
from dit.evaluation.video.ranks import Ranks


class Prediction(PerClip):
    """Measures of predictions as they come.

    Attributes:
        curves: measure -> index of a clip -> the mean over its samples, of each predicted frame.
    """

    def __init__(self, measures: Sequence[FrameMeasure], given: int, samples: int, parts: Sequence[range] = ()) -> None:
        """
        Args:
            measures: of frames.
            given: frames at the start of each clip, which are not compared.
            samples: of each clip.
            parts: frames of a clip, numbered from 0, that have a mean of their own beside that of all.

        Raises ValueError, in one line, for numbers below 0 and 1.
        """
        if given < 0 or samples < 1:
            raise ValueError(f"given={given} must be at least 0, and samples={samples} at least 1")
        self.of_frames, self.given, self.samples, self.parts = list(measures), given, samples, list(parts)
        self.curves: dict[str, dict[int, list[float]]] = {each.measure.name: {} for each in measures}
        names = []
        for each in measures:
            names.append(each.measure)
            if samples > 1:
                names.append(replace(each.measure, name=self._best(each.measure.name)))
            names += [replace(each.measure, name=part_of(each.measure.name, part)) for part in self.parts]
        super().__init__(names, {"given": given, "samples": samples})

    def _best(self, name: str) -> str:
        return f"{name}, best of {self.samples}"

    def add(self, index: int, true: Tensor, samples: Sequence[Tensor]) -> dict[str, float]:
        """What clip `index` gives.

        Args:
            true: the whole clip, (3, F, H, W), uint8 or float in [-1, 1].
            samples: as many as were announced, whole clips of the same shape, given frames included.

        Raises ValueError, in one line: another number of samples, other sizes, no frame to be compared, not finite.
        """
        names = [f"sample {place} of clip {index}" for place in range(len(samples))]
        compared = [
            self.compare(true, sample, (f"clip {index}", name)) for sample, name in zip(samples, names, strict=True)
        ]
        return self.put(index, compared, true.shape[1:])

    def compare(self, true: Tensor, sample: Tensor, names: tuple[str, str]) -> dict[str, list[float]]:
        """Of one sample each measure's value of each predicted frame. names: of both clips, for messages."""
        check_alike(checked(sample, names[1]), checked(true, names[0]), (names[1], names[0]))
        if true.shape[1] <= self.given:
            raise ValueError(
                f"{names[0]} has {true.shape[1]} frames, of which {self.given} are given: none is predicted"
            )
        future, predicted = (unit(clip[:, self.given :]).movedim(0, 1) for clip in (true, sample))
        return {each.measure.name: each(predicted, future).tolist() for each in self.of_frames}

    def put(self, index: int, compared: Sequence[dict[str, list[float]]], shape: Sequence[int]) -> dict[str, float]:
        """What `compare` found of each sample of clip `index`, whose frames, height and width are `shape`."""
        if len(compared) != self.samples:
            raise ValueError(f"clip {index} has {len(compared)} samples, and {self.samples} were announced")
        values: dict[str, float] = {}
        for each in self.of_frames:
            name, larger = each.measure.name, each.measure.larger_is_better
            of_each = torch.tensor([found[name] for found in compared], dtype=torch.float64)  # (samples, F - given)
            values[name] = float(of_each.mean())
            self.curves[name][index] = of_each.mean(0).tolist()
            if self.samples > 1:
                of_samples = of_each.mean(1)
                values[self._best(name)] = float(of_samples.max() if larger else of_samples.min())
            for part in self.parts:
                values[part_of(name, part)] = float(of_each[:, part.start - self.given : part.stop - self.given].mean())
        return self.keep(index, values, shape)

    def gather(self, ranks: Ranks) -> None:
        super().gather(ranks)
        parts = ranks.gather(self.curves)
        self.curves = {
            name: {index: curve for part in parts for index, curve in part[name].items()} for name in self.curves
        }

    def by_frame(self) -> dict[str, list[float]]:
        """Measure -> the mean over clips of each predicted frame: how fast predictions get worse."""
        return {
            name: torch.tensor([curves[index] for index in sorted(curves)]).mean(0).tolist()
            for name, curves in self.curves.items()
            if curves
        }


def part_of(measure: str, frames: range) -> str:
    """The name of a measure of some frames of a clip, which are counted from 1."""
    return f"{measure} of frames {frames.start + 1}-{frames.stop}"
