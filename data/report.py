"""What a check of clips has found, in numbers and in lines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from data.columns import FAULTS, OK
from data.manifest import Manifest, values
from data.rights import ledger

SHOWN = 5  # clips that are named with each kind of note
LISTED = 200  # faults that are printed; all of them are in the list that is written


def summary(clips: Manifest, out: Path, max_bytes: int | None) -> dict[str, Any]:
    """Counts by status, notes, captions, and what is left by licence and source: plain values."""
    status = clips.table.column("status")
    counts = {each["values"]: each["counts"] for each in pc.value_counts(status).to_pylist()}
    good = clips.taken(pc.equal(status, OK))
    return {
        "written": str(out),
        "rows": len(clips),
        "good": len(good),
        "by_status": {name: counts[name] for name in (OK, *FAULTS) if name in counts},
        "by_reason": _by_reason(clips),
        "faults": list(_faults(clips)),
        "notes": _notes(good),
        "captions": about_captions(good, max_bytes),
        "rights": ledger(good),
    }


def lines(report: dict[str, Any]) -> Iterator[str]:
    """The report as it is printed."""
    for fault in report["faults"][:LISTED]:
        yield f"bad: {fault['clip']}: {fault['status']}: {fault['reason']}"
    if (more := len(report["faults"]) - LISTED) > 0:
        yield f"bad: {more} more, in {report['written']}"
    for note, about in sorted(report["notes"].items()):
        more = about["clips"] - len(about["such_as"])
        yield f"note: {note}: {', '.join(about['such_as'])}{f' and {more} more' * (more > 0)}"
    for line in report["captions"]:
        yield f"note: {line}"
    for name, count in report["by_status"].items():
        if name != OK:
            yield f"{count} {name} ({FAULTS[name]})"
    for row in report["rights"]:
        without = row["clips_without_duration"]
        of_time = f", {row['hours']:.2f} hours" if row["hours"] or not row["images"] else ""
        unknown = f" (without {without} clips of unknown length)" if without else ""
        yield f"licence {row['licence']}, source {row['source']}: {row['clips']} clips{of_time}{unknown}"
    yield f"{report['good']} of {report['rows']} clips are good; written: {report['written']}"


def about_captions(clips: Manifest, max_bytes: int | None) -> list[str]:
    """What to know of the captions before a run reads them."""
    empty = pc.sum(clips.uncaptioned()).as_py() or 0
    said = [f"{empty} clips have no caption"] if empty else []
    if max_bytes is None:
        return said
    lengths = [len(caption.encode("utf-8", errors="replace")) for caption in clips.captions()]
    if long := sum(length > max_bytes for length in lengths):
        said.append(
            f"{long} captions are longer than text.max_bytes={max_bytes}, and only their beginning is read; the "
            f"longest has {max(lengths)} bytes"
        )
    return said


def _by_reason(clips: Manifest) -> dict[str, int]:
    """The most frequent reasons of faults in words."""
    wrong = pc.not_equal(clips.table.column("status"), OK)
    counts = pc.value_counts(clips.table.column("reason").filter(wrong)).to_pylist()
    counts.sort(key=lambda each: (-each["counts"], each["values"]))
    return {each["values"]: each["counts"] for each in counts[:LISTED]}


def _faults(clips: Manifest) -> Iterator[dict[str, str]]:
    wrong = clips.taken(pc.not_equal(clips.table.column("status"), OK))
    rows = sorted((wrong[index].id, index) for index in range(min(len(wrong), 10 * LISTED)))
    for id, index in rows:
        status, reason = (wrong.table.column(name)[index].as_py() for name in ("status", "reason"))
        yield {"clip": id, "status": status, "reason": reason}


def _notes(clips: Manifest) -> dict[str, dict[str, Any]]:
    """note -> how many clips have it, and some of them."""
    counts = Counter[str]()
    such: dict[str, list[str]] = {}
    ids = clips.table.column("path")
    texts: pa.ChunkedArray = pc.fill_null(clips.table.column("notes"), "")
    for path, text in zip(values(ids), values(texts), strict=True):
        for note in filter(None, text.split("; ")):
            counts[note] += 1
            such.setdefault(note, []).append(path)
            such[note] = sorted(such[note])[:SHOWN]
    return {note: {"clips": count, "such_as": such[note]} for note, count in counts.most_common(LISTED)}
