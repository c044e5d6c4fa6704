"""Makes a set in a folder: its clips, a manifest with a row for each, and a README. Killed at whatever moment, it
goes on.

Rows are kept in `manifest.jsonl.part` as clips are made, which becomes `manifest.jsonl` when all are there: a list is
never of half a set. What the clips depend on stands in `set.json`; a folder goes on with the same alone.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.enrich import write_text
from data.processes import end_with_parent
from data.sets.base import ClipSet, Made, versions

SETTINGS, README = "set.json", "README.md"
CLIPS = "clips"  # the folder of the files
FOLDER = 1000  # clips of one folder in it
PART = ".part"  # behind the name of what is not whole yet
AHEAD = 4  # clips for each process that are given out before they are wanted

Row = dict[str, Any]
Write = Callable[[Path, Made, ClipSet], None]
"""Writes a clip to a path, whole or not at all."""


@dataclass(frozen=True)
class Maker:
    """Makes one clip. Picklable: each process has its own.

    Attributes:
        clips: the set.
        folder: where it is made.
        write: writes a file.
    """

    clips: ClipSet
    folder: Path
    write: Write

    def __call__(self, index: int) -> Row:
        made = self.clips.clip(index)
        count, height, width = made.frames.shape[:3]
        image = count == 1
        name = made.name or f"{CLIPS}/{index // FOLDER:04d}/{index:07d}"
        path = name + (".png" if image else ".mp4")
        file = self.folder / path
        self.write(file, made, self.clips)
        if self.clips.captions_beside:
            file.with_suffix(".txt").write_text(made.caption + "\n", encoding="utf-8")
        length = {} if image else {"frames": count, "fps": self.clips.fps, "duration": round(count / self.clips.fps, 6)}
        return {
            "path": path,
            "caption": made.caption,
            **length,
            "height": height,
            "width": width,
            **made.columns,
            "hash": hashlib.sha256(file.read_bytes()).hexdigest(),
        }


def make(clips: ClipSet, folder: Path, count: int, write: Write, command: str, jobs: int = 1) -> Iterator[int]:
    """Makes the clips that are not there yet; yields the number of those that are, first of all that of before.

    Args:
        count: of clips; where a folder has fewer of the same set, the others are added.
        write: writes a file.
        command: that makes this set, for its README.
        jobs: processes that make clips. The files are the same, whatever their number.

    Raises:
        ValueError: the folder holds something else, or another process is making it. Nothing is changed then.
    """
    about = {"set": clips.name, "settings": dict(clips.settings()), "packages": versions(clips.packages)}
    _check(folder, about)
    folder.mkdir(parents=True, exist_ok=True)
    manifest, part = folder / clips.manifest, folder / (clips.manifest + PART)
    with _alone(folder):
        write_text(folder / SETTINGS, json.dumps(about, indent=2, ensure_ascii=False) + "\n")
        there = _there(manifest, folder)
        if len(there) >= count:
            yield len(there)
            return
        rows = max(there, _there(part, folder), key=len)[:count]
        yield len(rows)
        write_text(part, "".join(map(_line, rows)))
        with part.open("a", encoding="utf-8") as file:
            for row in _made(Maker(clips, folder, write), range(len(rows), count), jobs):
                file.write(_line(row))
                file.flush()
                rows.append(row)
                yield len(rows)
        write_text(folder / README, f"{clips.about()}\n{_how(command, clips, rows)}")
        os.replace(part, manifest)


def _check(folder: Path, about: Mapping[str, Any]) -> None:
    """Raises ValueError for a folder that holds anything but clips of this set."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not folder.is_dir() or not (folder / SETTINGS).is_file():
        raise ValueError(f"{folder} is there and not empty; name a new folder")
    try:
        before = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    except ValueError:
        raise ValueError(f"{folder / SETTINGS} is damaged; make the set in a new folder") from None
    now = json.loads(json.dumps(about))
    for part in about:
        if before.get(part) != now[part]:
            was, is_now = (each.get(part) for each in (before, now))
            if isinstance(was, dict) and isinstance(is_now, dict):
                part = next(name for name in {**is_now, **was} if was.get(name) != is_now.get(name))
                was, is_now = was.get(part), is_now.get(part)
            raise ValueError(
                f"{folder} holds a set that was made with {part}={was}, and {part}={is_now} would make other clips;"
                " name a new folder"
            )


def _there(list_of: Path, folder: Path) -> list[Row]:
    """Rows of clips that are there, up to the first that is not; a process that was killed may leave half a line."""
    rows: list[Row] = []
    if not list_of.is_file():
        return rows
    with list_of.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            if not line.endswith("\n"):
                break
            row = json.loads(line)
            if not (folder / row["path"]).is_file():
                break
            rows.append(row)
    return rows


def _made(maker: Maker, indices: Sequence[int], jobs: int) -> Iterator[Row]:
    """Rows in their order."""
    if jobs == 1:
        yield from map(maker, indices)
        return
    # Not fork: libraries that this process has loaded keep threads, which a fork would leave without.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, initializer=_begin) as pool:
        waiting: deque[Any] = deque()
        try:
            for index in indices:
                waiting.append(pool.submit(maker, index))
                if len(waiting) >= AHEAD * jobs:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool:
            raise ValueError(
                "a process that makes clips has died; the same command goes on, with --jobs 1 where it happens again"
            ) from None
        finally:
            for each in waiting:
                each.cancel()


def _begin() -> None:
    """What a process that makes clips does first: Ctrl-C is for its parent, with which it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Raises ValueError where another process is making this set."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):  # others say that this file system knows no locks
            os.close(handle)
            raise ValueError(f"{folder} is being made by another process") from None
    try:
        yield
    finally:
        os.close(handle)


def _line(row: Row) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def _how(command: str, clips: ClipSet, rows: Sequence[Row]) -> str:
    """How to make the same again, and how to tell that it is."""
    made_by = [f"{name} {each}" for name, each in versions([*clips.packages, "av"]).items()]
    mark = hashlib.sha256("".join(map(_line, rows)).encode()).hexdigest()
    return f"""## Making it again
```
{command}
```
makes these {len(rows)} clips again, byte for byte, with {" and ".join(made_by)}. `{clips.manifest}` has a row for
each clip, in which `hash` is the SHA-256 of its file; the SHA-256 of `{clips.manifest}` is `{mark}`.
"""
