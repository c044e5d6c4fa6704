"""Locks of folders, so that no two processes work in one at a time. The system frees them when a process dies, however
it dies."""

from __future__ import annotations

import errno
import fcntl
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

log = logging.getLogger(__name__)

LOCK = ".lock"
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)  # errors of file systems without locks


@contextmanager
def lock(folder: Path, held_by: str) -> Iterator[None]:
    """Holds the lock of a folder, which is made where it is not there. ValueError where another process holds it:
    `held_by` is what the folder is then, and what to do."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / LOCK
    if file.is_dir():
        raise ValueError(f"{file} is a folder, where a lock is to be; remove it")
    with file.open("w") as held:
        _take(held, folder, held_by)
        yield


def _take(held: IO[str], folder: Path, held_by: str) -> None:
    """Locks an open file. Waits a little: a killed process takes a moment to die, and its loader's workers another."""
    for wait in (0.1, 0.4, 1.5, None):
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if wait is None:
                raise ValueError(f"{folder} is {held_by}") from None
            time.sleep(wait)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            reason = error.strerror
            log.warning("%s cannot be locked here (%s): never let two commands work in it at a time", folder, reason)
            return


def is_locked(folder: Path) -> bool:
    """Whether another process holds the lock of a folder; False where it is not there, or cannot be locked."""
    try:
        with (folder / LOCK).open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
