"""Locks of folders, so that no two processes work in one at a time. The system frees them when a process dies, however
it dies."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

log = logging.getLogger(__name__)

LOCK = ".lock"
AS_IT_IS = os.O_RDWR | os.O_NOFOLLOW  # a folder may be a stranger's: no link is followed, nothing is cut off
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)  # errors of file systems without locks


@contextmanager
def lock(folder: Path, held_by: str) -> Iterator[None]:
    """Holds the lock of a folder, which is made where it is not there. ValueError where another process holds it:
    `held_by` is what the folder is then, and what to do."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / LOCK
    for wrong, kind in ((file.is_symlink(), "link"), (file.is_dir(), "folder")):
        if wrong:
            raise ValueError(f"{file} is a {kind}, where a lock is to be; remove it")
    number = os.open(file, AS_IT_IS | os.O_CREAT, 0o666)
    try:
        _take(number, folder, held_by)
        yield
    finally:
        os.close(number)


def _take(held: int, folder: Path, held_by: str) -> None:
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
        number = os.open(folder / LOCK, AS_IT_IS)
    except OSError:
        return False
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(number)
    return False
