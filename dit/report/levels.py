"""The error of x0 by noise level and latent frame together, as a run's details.csv has it."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dit.runfiles import DETAILS, read_details

# `val/x0_error_level_0.1_frame_00`, and behind it `_shape_8x64x64` where clips have several.
_NAME = re.compile(r"(val|val_raw)/x0_error_level_([\d.eE+-]+)_frame_(\d+)(?:_shape_(.+))?")
WEIGHTS = {"val": "averaged weights", "val_raw": "raw weights"}
SHADES = 10  # from the least to the greatest error of a page


@dataclass(frozen=True)
class LevelTable:
    """The errors of one set of weights on clips of one shape, at one step.

    weights: in words. shape: frames x height x width in pixels; "" for all clips together.
    levels: shares of noise, growing. frames: numbers of latent frames. errors: by level and frame; None: not measured.
    """

    step: int
    weights: str
    shape: str
    levels: list[float]
    frames: list[int]
    errors: list[list[float | None]]


def tables_in(run: Path) -> tuple[LevelTable, ...]:
    """Those of the last step at which each set of weights and shape was measured: averaged weights first, all clips
    before single shapes. Nothing where the run has none.

    Raises:
        OSError: the file is there and cannot be read.
    """
    file = run / DETAILS
    if not file.is_file():
        return ()
    found: dict[tuple[str, str], dict[int, dict[tuple[float, int], float]]] = {}
    for step, name, text in read_details(file.read_text(encoding="utf-8", errors="replace")):
        match = _NAME.fullmatch(name)
        if match is not None and math.isfinite(value := float(text)):
            group, level, frame, shape = match.groups()
            of_step = found.setdefault((group, shape or ""), {}).setdefault(step, {})
            of_step[float(level), int(frame)] = value
    order = sorted(found, key=lambda key: (list(WEIGHTS).index(key[0]), bool(key[1])))  # shapes in the file's order
    return tuple(_table(WEIGHTS[key[0]], key[1], max(found[key]), found[key][max(found[key])]) for key in order)


def _table(weights: str, shape: str, step: int, values: dict[tuple[float, int], float]) -> LevelTable:
    levels = sorted({level for level, _ in values})
    frames = sorted({frame for _, frame in values})
    errors = [[values.get((level, frame)) for frame in frames] for level in levels]
    return LevelTable(step, weights, shape, levels, frames, errors)


def span(tables: Sequence[LevelTable]) -> tuple[float, float]:
    """The least and the greatest error above 0 of some tables; (1, 1) where there is none."""
    values = [each for table in tables for row in table.errors for each in row if each]
    return (min(values), max(values)) if values else (1.0, 1.0)


def shade(error: float, least: float, most: float) -> int:
    """0 for the least error to `SHADES` - 1 for the greatest, evenly on a logarithmic scale."""
    if error <= least or most <= least:
        return 0
    return min(SHADES - 1, int(SHADES * math.log(error / least) / math.log(most / least)))
