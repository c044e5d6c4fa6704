"""Measures that give each clip numbers of its own: kept by clip, averaged with an interval over clips."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dit.evaluation.video.clips import Shape, one_shape
from dit.evaluation.video.protocol import Protocol, Score
from dit.evaluation.video.ranks import Ranks
from dit.scores import SHARE
from dit.statistics import estimate, estimate_share


@dataclass(frozen=True)
class Measure:
    """What a number of a clip is.

    Attributes:
        name: of the score.
        unit: `share` (of 1), any other, or "".
        larger_is_better: None where neither is.
        network, sha256: the network that it asks, "" where there is none.
    """

    name: str
    unit: str
    larger_is_better: bool | None
    network: str = ""
    sha256: str = ""


class PerClip:
    """Numbers of clips, which may come in any order and from several ranks.

    A clip for which a measure says nothing has NaN there; it is left out of that mean, and the score says of how many
    clips it is.
    """

    def __init__(self, measures: Sequence[Measure], settings: Mapping[str, str | float | int]) -> None:
        self.measures, self.settings = list(measures), dict(settings)
        self.values: dict[int, dict[str, float]] = {}
        self.shape: Shape | None = None

    def keep(self, index: int, values: dict[str, float], shape: Sequence[int]) -> dict[str, float]:
        """Keeps what clip `index` gave, of `shape` (frames, height, width). ValueError, in one line, where those of the
        clips before differ."""
        self.shape = one_shape(self.shape, shape, f"clip {index}")
        self.values[index] = values
        return values

    def gather(self, ranks: Ranks) -> None:
        """Afterwards all ranks have the numbers of all clips."""
        parts: list[Any] = ranks.gather((self.shape, self.values))
        shapes = {shape for shape, _ in parts if shape is not None}
        if len(shapes) > 1:
            raise ValueError(f"clips differ in shape: {sorted(shapes)}")
        self.shape = next(iter(shapes), None)
        self.values = {index: values for _, each in parts for index, values in each.items()}

    def scores(self, split: str, fps: float | None) -> list[Score]:
        """The means over clips, each with its 95 % interval: Student's, of shares Wilson's. ValueError of no clip."""
        if self.shape is None:
            raise ValueError("no clip was scored")
        found = []
        for measure in self.measures:
            values = [self.values[index][measure.name] for index in sorted(self.values)]
            said = [value for value in values if not math.isnan(value)]
            mean = estimate(said)
            if mean is None:
                continue
            if measure.unit == SHARE:
                mean = estimate_share(mean.mean, len(said))
            note = (
                "" if len(said) == len(values) else f"of {len(said)} of {len(values)} clips: it says nothing of others"
            )
            protocol = Protocol(
                split, len(values), 0, *self.shape, fps, "", measure.network, measure.sha256,
                tuple(sorted(self.settings.items())),
            )  # fmt: skip
            better = measure.larger_is_better
            found.append(Score(measure.name, mean.mean, mean.low, mean.high, protocol, better, measure.unit, note))
        return found
