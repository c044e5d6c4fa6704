"""The list of clips in a latent cache: all that a run knows of its clips beside their pixels travels with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet

from data.latents.reading import CLIPS, read_about
from data.latents.shards import written
from data.manifest import CLASS, Manifest, read_manifest

LEFT_OUT, CHOSEN_BY = "left_out", "chosen_by"


def write_list(folder: Path, sets: Sequence[Manifest]) -> None:
    """Writes the clips of all sets as one manifest: captions, classes, rights and columns, paths from their root."""
    tables = []
    for clips in sets:
        names = [name for name in clips.table.column_names if name not in (CLASS, "path")]
        tables.append(clips.table.select(names).add_column(0, "path", clips.files()))
    table = pa.concat_tables(tables, promote_options="default").combine_chunks().replace_schema_metadata(None)
    with written(folder / CLIPS) as file:
        pa.parquet.write_table(table, file)


def read_list(folder: Path, columns: Sequence[str], also: Sequence[str], frame_columns: Sequence[str]) -> Manifest:
    """The list of a cache, as `read_manifest` reads one. What was left out when it was made is counted as there.

    Raises FileNotFoundError or ValueError, in one line, for a folder that is no cache, or one of clips without a list.
    """
    about = read_about(folder)
    if not (folder / CLIPS).is_file():
        raise FileNotFoundError(
            f"data.cache={folder} has no list of clips ({CLIPS}): it was made of clips that are generated, or making it"
            " was not begun; data.root or data.manifest says which clips are meant"
        )
    clips = read_manifest(None, folder / CLIPS, columns, also, opened=False, frame_columns=frame_columns)
    return replace(clips, left_out=about.get(LEFT_OUT, {}), chosen_by=about.get(CHOSEN_BY, {}))
