"""Which class each clip of a list has: from a column of its manifest, or from the folder that it lies in."""

from __future__ import annotations

from pathlib import PurePath

import pyarrow as pa

from data.batch import NO_CLASS
from data.manifest import CLASS, Manifest

COLUMN, FOLDER = "column", "folder"


def classify(clips: Manifest, labels: str | None, source: str) -> tuple[Manifest, list[str]]:
    """The list with a class number for each clip, and the classes' names in the order of the numbers.

    Names are sorted. Where all of them are whole numbers they are the class numbers themselves, as ImageNet's are, and
    the names count up to the largest.

    Args:
        labels: `column` takes the column `label`, where "" is no class; `folder` the first folder of each path, as
            ImageFolder does, and a file that lies in none has no class; None: no clip has a class.
        source: of the list, for messages.

    Raises:
        ValueError: another value of `labels`, no such column, or no clip with a class.
    """
    if labels is None:
        return clips, []
    if labels == FOLDER:
        parts = [PurePath(path).parts for path in clips.table.column("path").to_pylist()]
        names = [each[0] if len(each) > 1 else "" for each in parts]
    elif labels != COLUMN:
        raise ValueError(f"data.labels={labels} is none of: {COLUMN}, {FOLDER}, null")
    elif "label" not in clips.table.column_names:
        raise ValueError(
            f"data.labels={COLUMN}, but {source} has no column label; data.labels={FOLDER} takes the folders' names"
        )
    else:
        names = [(name or "").strip() for name in clips.table.column("label").to_pylist()]
    known = sorted(set(names) - {""})
    if not known:
        why = "all files lie in the root itself" if labels == FOLDER else "the column label is empty"
        raise ValueError(f"data.labels={labels}, but no clip of {source} has a class: {why}")
    if all(name.isdecimal() for name in known):
        names = [str(int(name)) if name else "" for name in names]
        known = [str(number) for number in range(max(map(int, known)) + 1)]
    numbers = {"": NO_CLASS, **{name: number for number, name in enumerate(known)}}
    column = pa.array([numbers[name] for name in names], pa.int64())
    return Manifest(clips.root, clips.table.append_column(CLASS, column)), known
