"""A folder of clips as a table: every video and image in it and below, with the captions beside them."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from data import images
from data.captions import captions_beside, rights_beside
from data.columns import RIGHTS

log = logging.getLogger(__name__)

VIDEOS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".webm")
OTHER_VIDEOS = (".3gp", ".flv", ".gif", ".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".wmv")  # only if a manifest names them


def read_folder(root: Path) -> pa.Table:
    """Columns `path`, relative to `root`, and `caption`, a list of texts, in order of their paths; and `licence` and
    `source` where a file beside one of the clips says them.

    Sub-folders that are links are followed, each folder once. What begins with a dot is left out, and so is an image
    that has the name of a video beside it: it is the video's thumbnail.
    """
    found = sorted(_files(root), key=lambda file: file.relative_to(root).as_posix())
    files = [file for file in found if file.is_file()]
    of_videos = {file.with_suffix("") for file in files if file.suffix.lower() in VIDEOS}
    clips, left_out = [], {"thumbnails of videos": 0, "videos of other kinds, which a manifest may name": 0}
    left_out["named pipes, devices or links to nothing"] = len(found) - len(files)
    for file in files:
        ending = file.suffix.lower()
        if ending in VIDEOS or (ending in images.EXTENSIONS and file.with_suffix("") not in of_videos):
            clips.append(file)
        elif ending in images.EXTENSIONS:
            left_out["thumbnails of videos"] += 1
        elif ending in OTHER_VIDEOS:
            left_out["videos of other kinds, which a manifest may name"] += 1
    for what, count in left_out.items():
        if count:
            log.warning("%s: %d files are left out: %s", root, count, what)
    rights = [rights_beside(file) for file in clips]
    said = {name: pa.array([each[name] for each in rights], pa.string()) for name in RIGHTS}
    return pa.table(
        {
            "path": pa.array([file.relative_to(root).as_posix() for file in clips], pa.string()),
            "caption": pa.array([list(captions_beside(file)) for file in clips], pa.list_(pa.string())),
            **{name: texts for name, texts in said.items() if any(each[name] for each in rights)},
        }
    )


def _files(root: Path) -> Iterator[Path]:
    seen: set[tuple[int, int]] = set()
    for folder, folders, files in os.walk(root, followlinks=True, onerror=_raise):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:  # a link back to where we have been
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in files:
            file = Path(folder, name)
            if name.startswith(".") or (not file.is_file() and file.suffix.lower() not in VIDEOS):
                continue
            try:
                os.fspath(file).encode()
            except UnicodeEncodeError:
                raise ValueError(f"{os.fspath(file)!r}: the name is not UTF-8; rename the file") from None
            yield file


def _raise(error: OSError) -> None:
    raise error
