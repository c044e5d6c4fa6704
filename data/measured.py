"""Sizes of clips whose list does not say them, read from the files: so that a folder of few clips can be trained on in
several shapes without a check before. Of many clips `scripts/validate_data.py` writes them down once."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

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
    there: dict[str, Sequence[float | None]] = {}
    for row in (clips[index] for index in rows.tolist()):
        if row.path.as_posix() not in there:
            there[row.path.as_posix()] = _sizes(row, decoder)
    table = clips.table
    for place, name in enumerate(SIZES):
        values: NDArray[np.object_] = np.full(len(clips), None, object)
        if name in table.column_names:
            values[:] = table.column(name).to_pylist()
            table = table.drop_columns([name])
        values[rows] = [there[clips[index].path.as_posix()][place] for index in rows.tolist()]
        table = table.append_column(name, pa.array(values.tolist(), NUMBER))
    return Manifest(clips.root, table, clips.columns, clips.left_out, clips.chosen_by)


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
