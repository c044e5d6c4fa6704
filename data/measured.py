"""Sizes of clips whose list does not say them, read from the files: so that a folder of few clips can be trained on in
several shapes without a check before. Of many clips `scripts/validate_data.py` writes them down once."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data.columns import NUMBER
from data.decode import BadClip, Ladder, Timeline
from data.extents import extents
from data.images import open_image
from data.manifest import Manifest, Row

log = logging.getLogger(__name__)

MOST = 1000  # clips that are looked at
SIZES = ("height", "width", "frames", "fps")


def measured(clips: Manifest, decoder: Ladder) -> Manifest:
    """With the columns `SIZES` of clips that lack them, where these are at most `MOST`; of one that cannot be read they
    stay empty, with a line in the log."""
    found = extents(clips, fps=1.0)
    lacking = (found.heights <= 0) | (found.widths <= 0) | (~found.images & (found.frames < 0))
    rows = np.flatnonzero(lacking)
    if not 0 < len(rows) <= MOST:
        return clips
    log.info("reading the sizes of %d clips, which no list says", len(rows))
    there: dict[Path, Sequence[float | None]] = {}
    read = [clips[index] for index in rows.tolist()]
    for row in read:
        if row.path not in there:
            there[row.path] = _sizes(row, decoder)
    table, mask = clips.table, pa.array(lacking)
    for place, name in enumerate(SIZES):
        if name not in table.column_names:
            table = table.append_column(name, pa.nulls(len(clips), NUMBER))
        values = pa.array([there[row.path][place] for row in read], NUMBER)
        column = pc.replace_with_mask(table.column(name), mask, values)
        table = table.set_column(table.column_names.index(name), name, column)
    return replace(clips, table=table)


def _sizes(row: Row, decoder: Ladder) -> Sequence[float | None]:
    """`SIZES` of a file."""
    told: list[Timeline] = []

    def first(timeline: Timeline) -> list[int]:
        told.append(timeline)
        return [0]

    try:
        with row.opened() as path:
            if row.is_image:
                width, height = open_image(path).size
                return height, width, None, None
            height, width = decoder.read(path, first).shape[1:3]
        return height, width, len(told[0].times), told[0].fps
    except BadClip as error:
        log.warning("%s: %s", row.id, error.why)
        return [None] * len(SIZES)
