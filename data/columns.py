"""Columns of a manifest that mean something here; any other may be there too, and be read by name.

`STATES`, `RIGHTS`, `PLACES` and `FOUND` together are all of them. Only what states what is trained on counts when a run
goes on: a licence that is written down later, or a check by `scripts/validate_data.py`, does not make the clips others.
"""

from __future__ import annotations

from collections.abc import Collection

import pyarrow as pa

TEXT, NUMBER = pa.string(), pa.float64()
TEXTS, NUMBERS = pa.list_(TEXT), pa.list_(NUMBER)

STATES: dict[str, pa.DataType] = {
    "path": TEXT,
    "caption": TEXTS,  # several: another one at each showing
    "start": NUMBER,  # seconds, where only a part of the file is meant
    "end": NUMBER,
    "label": TEXT,  # a class
}
RIGHTS: dict[str, pa.DataType] = {"licence": TEXT, "source": TEXT}
FOUND: dict[str, pa.DataType] = {  # by scripts/validate_data.py
    "status": TEXT,  # OK, or the kind of fault: a key of `FAULTS`
    "reason": TEXT,  # the fault in words
    "decoders": TEXT,  # those that can read the file, best first
    "frames": NUMBER,  # of the whole file
    "fps": NUMBER,
    "duration": NUMBER,  # seconds, of the part that is meant
    "height": NUMBER,  # upright
    "width": NUMBER,
    "rotation": NUMBER,  # degrees counter-clockwise that players turn the picture by
    "codec": TEXT,
    "hash": TEXT,  # SHA-256 of the file
    "brightness": NUMBER,  # mean grey level, 0 to 255
    "motion": NUMBER,  # grey levels by which pictures an eighth of a second apart differ
    "looks": TEXT,  # perceptual hash, 256 bits in hex; empty for an image without any detail
    "scenes": NUMBER,  # 1 has no cut
    "cuts": NUMBERS,  # seconds from the start of the file
    "duplicate_of": TEXT,  # the row that stays
    "notes": TEXT,  # what a run makes of it
}
PLACES: dict[str, pa.DataType] = {"offset": NUMBER, "bytes": NUMBER}  # of a clip in a shard (`shards.py`)
TYPES = {**STATES, **RIGHTS, **PLACES, **FOUND}
PLANNED = ("status", "frames", "fps", "duration", "height", "width")  # read by every run, where they are there
LENIENT = (*PLANNED, *PLACES)  # may be another thing of that name
ALWAYS = (*STATES, *RIGHTS, *LENIENT)
NEEDED = ("path",)
KIND = "kind"  # "video" or "image": a filter may ask for it where a manifest has no such column

OK = "ok"
FAULTS = {
    "missing": "there is no such file",
    "not_a_file": "a folder, a named pipe, a device",
    "no_permission": "may not be read",
    "unreadable": "no decoder can read it, or not all of it",
    "no_frames": "none between start and end",
    "too_short": "for what was asked",
    "decoders_differ": "decoders see different frames in it",
    "hangs": "its decoder does not come back",
    "crashes": "its decoder ends the process",
    "too_much_memory": "its decoder wants more than it may have",
    "licence": "not on the list of those allowed",
    "duplicate": "looks as another clip does, or is the same file",
    "filtered": "the filter leaves it out",
}

OTHER_NAMES = {"captions": "caption", "license": "licence"}
_SPELLINGS = {**OTHER_NAMES, **{own: other for other, own in OTHER_NAMES.items()}}


def spelt(name: str, there: Collection[str]) -> str | None:
    """The column that `name` means among those that are there: itself, or its other name; None without either."""
    return next((each for each in (name, _SPELLINGS.get(name)) if each in there), None)


def doubled(there: Collection[str]) -> str | None:
    """A message where one column is there under both of its names; None where none is."""
    for other, own in OTHER_NAMES.items():
        if other in there and own in there:
            return f"columns {own} and {other} are the same; keep one of them"
    return None
