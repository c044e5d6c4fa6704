"""Which class each clip of a list has: from a column of its manifest, or from the folder that it lies in."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

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
        files = clips.files()
        parts = pc.split_pattern(files, "/", max_splits=1)
        names = pc.if_else(pc.equal(pc.list_value_length(parts), 2), pc.list_element(parts, 0), "")
    elif labels != COLUMN:
        raise ValueError(f"data.labels={labels} is none of: {COLUMN}, {FOLDER}, null")
    elif "label" not in clips.table.column_names:
        raise ValueError(
            f"data.labels={COLUMN}, but {source} has no column label; data.labels={FOLDER} takes the folders' names"
        )
    else:
        names = pc.fill_null(pc.utf8_trim_whitespace(clips.table.column("label")), "")
    different = pc.unique(names)
    known = sorted(set(different.to_pylist()) - {""})
    if not known:
        why = "all files lie in the root itself" if labels == FOLDER else "the column label is empty"
        raise ValueError(f"data.labels={labels}, but no clip of {source} has a class: {why}")
    numbers = {"": NO_CLASS, **{name: number for number, name in enumerate(known)}}
    if all(name.isdecimal() for name in known):
        numbers |= {name: int(name) for name in known}
        known = [str(number) for number in range(max(map(int, known)) + 1)]
    of_names = pa.array([numbers[name] for name in different.to_pylist()], pa.int64())
    return clips.with_column(CLASS, pc.take(of_names, pc.index_in(names, value_set=different))), known
