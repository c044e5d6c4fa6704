"""Whose the clips are: which licences are allowed, and how much of what is under which."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from data.columns import NUMBER, TEXT
from data.manifest import Manifest

log = logging.getLogger(__name__)

UNKNOWN = "unknown"  # the licence of a clip that states none


def licences_of(clips: Manifest) -> pa.ChunkedArray:
    """The licence of each row as it is written, `UNKNOWN` where there is none: text (rows,)."""
    return texts_of(clips, "licence")


def is_allowed(clips: Manifest, licences: Sequence[str]) -> pa.ChunkedArray:
    """For each row whether its licence is among these, whatever the case of its letters: bool (rows,). A clip that
    states none has the licence `unknown`, which must be named to be allowed."""
    wanted = pa.array([licence.strip().lower() for licence in licences], TEXT)
    return pc.is_in(pc.utf8_lower(licences_of(clips)), value_set=wanted)


def allowed(clips: Manifest, licences: Sequence[str] | None) -> Manifest:
    """The rows with one of these licences; None allows all.

    Raises:
        ValueError: none is left, naming the licences that there are.
    """
    if licences is None:
        return clips
    there = licences_of(clips)
    fits = is_allowed(clips, licences)
    counts = pc.value_counts(there.filter(pc.invert(fits))).to_pylist()
    counts.sort(key=lambda each: (-each["counts"], each["values"]))
    refused = ", ".join(f"{each['counts']} of {each['values']}" for each in counts[:8])
    different = [*dict.fromkeys(pc.unique(there).to_pylist())]
    for licence in licences:
        if licence.strip().lower() not in {each.lower() for each in different}:
            near = difflib.get_close_matches(licence, different, 1, 0.75)
            log.warning("data.licences names %s, which no clip has%s", licence, f"; {near[0]} is there" if near else "")
    left = clips.taken(fits, "licence")
    if len(left) == 0:
        raise ValueError(
            f"data.licences=[{', '.join(licences)}] allows none of {len(clips)} clips: {refused}; a clip that states no"
            f" licence is allowed by the name {UNKNOWN}"
        )
    left = replace(left, chosen_by={**left.chosen_by, "licences": [*licences]})
    if counts:
        log.warning("data.licences refuses %d of %d clips: %s", len(clips) - len(left), len(clips), refused)
    return left


def ledger(clips: Manifest) -> list[dict[str, Any]]:
    """Clips and hours by licence and source, the most clips first: plain values `licence source clips images hours`,
    and `clips_without_duration`, which `hours` does not count. An image takes no time."""
    images = clips.images
    hours = pc.divide(durations(clips), 3600.0)
    unknown = pc.and_(pc.invert(images), pc.is_null(hours))
    table = pa.table(
        {
            "licence": licences_of(clips),
            "source": texts_of(clips, "source"),
            "images": images.cast(pa.int64()),
            "hours": hours,
            "clips_without_duration": unknown.cast(pa.int64()),
        }
    )
    sums = [(name, "sum") for name in ("images", "hours", "clips_without_duration")]
    rows = table.group_by(["licence", "source"], use_threads=False).aggregate([([], "count_all"), *sums]).to_pylist()
    rows.sort(key=lambda row: (-row["count_all"], row["licence"], row["source"]))
    return [
        {
            "licence": row["licence"],
            "source": row["source"],
            "clips": row["count_all"],
            "images": row["images_sum"],
            "hours": round(row["hours_sum"] or 0.0, 6),
            "clips_without_duration": row["clips_without_duration_sum"],
        }
        for row in rows
    ]


def durations(clips: Manifest) -> pa.ChunkedArray:
    """Seconds of each clip, as a check has found them, or by its start and end; null where neither says it, and for
    images: float64 (rows,)."""
    there = clips.table.column_names
    nothing = pa.chunked_array([pa.nulls(len(clips), NUMBER)])
    found = clips.table.column("duration") if "duration" in there else nothing
    ends = clips.table.column("end") if "end" in there else nothing
    starts = pc.fill_null(clips.table.column("start"), 0.0) if "start" in there else 0.0
    seconds = pc.coalesce(found, pc.subtract(ends, starts))
    seconds = pc.if_else(pc.greater(seconds, 0.0), seconds, pa.scalar(None, NUMBER))
    return pc.if_else(clips.images, pa.scalar(None, NUMBER), seconds)


def texts_of(clips: Manifest, name: str) -> pa.ChunkedArray:
    """A column as texts (rows,), `UNKNOWN` where nothing is said."""
    if name not in clips.table.column_names:
        return pa.chunked_array([pa.repeat(UNKNOWN, len(clips))])
    said = pc.fill_null(pc.utf8_trim_whitespace(clips.table.column(name).cast(TEXT)), "")
    return pc.if_else(pc.equal(said, ""), UNKNOWN, said)
