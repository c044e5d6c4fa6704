"""Sums over validation clips, of each shape and of all ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from data.batch import Batch, Shape
from dit.engine.ranks import sum_over_ranks


class ByShape:
    """Collects a vector of sums for each clip.

    Ranks take equally many clips; those that fill up the last turn are others' and count there.

    Args:
        shapes: all that there are, the same on all ranks.
    """

    def __init__(self, shapes: Sequence[Shape]) -> None:
        self.sums: dict[Shape, list[Tensor]] = {shape: [] for shape in shapes}

    def add(self, batch: Batch, sums: Sequence[Tensor]) -> None:
        """The sums of a batch's clips, all of one shape and in their order."""
        own = len(batch) - batch.fillers
        self.sums[batch.shapes[0]] += [each * (place < own) for place, each in enumerate(sums)]

    def over_ranks(self) -> dict[Shape, Tensor]:
        """The sums of each shape over all clips of all ranks; nothing where there is no clip."""
        first = next((each[0] for each in self.sums.values() if each), None)
        if first is None:
            return {}
        nothing = torch.zeros_like(first)
        table = torch.stack([torch.stack(each or [nothing]).sum(0) for each in self.sums.values()])
        return dict(zip(self.sums, sum_over_ranks(table), strict=True))


def with_shapes(of_all: Mapping[str, float], of_shapes: Mapping[Shape, Mapping[str, float]]) -> dict[str, float]:
    """Columns of all clips, and where there are several shapes, those of each as `<name>_shape_<shape>`."""
    several = of_shapes if len(of_shapes) > 1 else {}
    return {**of_all, **{f"{name}_shape_{shape}": value for shape, of in several.items() for name, value in of.items()}}
