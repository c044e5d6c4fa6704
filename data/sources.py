"""Weights by source: how often the clips of each are shown."""

from __future__ import annotations

import difflib
import logging
import math
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data.epochs import Mixture
from data.manifest import Manifest
from data.rights import texts_of

log = logging.getLogger(__name__)

SOURCE = "source"  # the column, unless another one is named


def mixture_of(clips: Manifest, weights: Mapping[str, float] | None, by: str) -> Mixture | None:
    """The sources that `weights` names, with these weights, and all others together, with a weight of 1; None where
    none is named.

    Args:
        weights: of values of the column, in capitals or not; `unknown` are clips without one.
        by: the column.

    Raises:
        ValueError: a weight that is none, a column that is not there, or a source that no clip has.
    """
    if not weights:
        return None
    for name, weight in weights.items():
        if not 0 < weight < math.inf:
            raise ValueError(f"data.weights.{name}={weight:g} must be above 0; data.filter leaves a source out")
    if by not in clips.table.column_names:
        there = ", ".join(clips.table.column_names)
        raise ValueError(f"data.weights_by={by}: the clips have no such column, so no source has a weight; {there}")
    texts = pc.utf8_lower(texts_of(clips, by))
    names = [name.strip().lower() for name in weights]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"data.weights names {twice[0]} twice; its case does not count")
    found = pc.index_in(texts, value_set=pa.array(names, pa.string()))
    source = np.asarray(pc.fill_null(found, len(names)))
    counts = np.bincount(source, minlength=len(names) + 1)
    for name, count in zip(names, counts, strict=False):
        if not count:
            values = pc.unique(texts).to_pylist()
            near = difflib.get_close_matches(name, values, 1, 0.6) or values[:6]
            raise ValueError(
                f"data.weights names {name}, which no clip has in the column {by}; there is {', '.join(near)}"
            )
    given = [*map(float, weights.values()), 1.0]
    draws = [weight * count for weight, count in zip(given, counts, strict=True)]
    said = [
        f"{name} {count} x {weight:g} ({draw / sum(draws):.1%})"
        for name, count, weight, draw in zip([*names, "all others"], counts, given, draws, strict=True)
        if count
    ]
    log.info("an epoch shows %.0f clips, by source: %s", sum(draws), ", ".join(said))
    return Mixture(given, source.astype(np.int16))


def longer(mixture: Mixture | None, num_clips: int, least: int) -> Mixture | None:
    """The same mixture, in epochs that show each clip equally often, so often that they show `least` clips; None where
    one showing of all clips alike does."""
    weights = [1.0] if mixture is None else mixture.weights
    source = np.zeros(num_clips, np.int16) if mixture is None else mixture.source
    shown = float(np.asarray(weights)[source].sum())
    times = math.ceil(least / shown) if shown else 1
    if times <= 1:
        return mixture
    log.info("%d clips are few: an epoch shows each %d times, so that batches of one shape are full", num_clips, times)
    return Mixture([times * weight for weight in weights], source)
