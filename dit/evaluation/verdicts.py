"""What verdicts on single clips add up to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from torch import Tensor

from dit.scores import Measure
from dit.statistics import Estimate, estimate, estimate_share

Verdict = TypeVar("Verdict")
Wanted = TypeVar("Wanted")


@dataclass(frozen=True)
class Report(Generic[Verdict]):
    """The verdicts of a set of clips.

    measures: the attributes of a verdict that are added up, and what each is. A verdict in which one is None has no say
    in it.
    """

    verdicts: tuple[Verdict, ...]
    measures: Mapping[str, Measure]

    @classmethod
    def of(
        cls,
        judge: Callable[[Tensor, Wanted], Verdict],
        videos: Sequence[Tensor],
        wanted: Sequence[Wanted],
        measures: Mapping[str, Measure],
    ) -> Report[Verdict]:
        """Judges every video against what is wanted of it. ValueError where there is not one for each, or none."""
        if len(videos) != len(wanted) or not len(videos):
            raise ValueError(f"{len(videos)} videos for {len(wanted)} expectations; give one each, at least one")
        return cls(tuple(judge(video, each) for video, each in zip(videos, wanted, strict=True)), measures)

    def values(self, name: str) -> list[float | bool]:
        """Of the clips that have this measure."""
        values = (getattr(verdict, name) for verdict in self.verdicts)
        return [value for value in values if value is not None]

    def estimates(self) -> dict[str, Estimate]:
        """The mean of each measure that any clip has, with its 95 % interval over clips: of what is right or wrong
        Wilson's, of numbers Student's."""
        found = {}
        for name in self.measures:
            values = self.values(name)
            mean = estimate(values)
            if mean is not None:
                right_or_wrong = all(isinstance(value, bool) for value in values)
                found[name] = estimate_share(mean.mean, len(values)) if right_or_wrong else mean
        return found

    def metrics(self) -> dict[str, float]:
        """The means alone."""
        return {name: each.mean for name, each in self.estimates().items()}
