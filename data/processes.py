"""Processes that do not outlive the one that started them."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
from contextlib import suppress

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def give_memory_back() -> None:
    """Has the C library give free memory back to the system (glibc; elsewhere nothing happens).

    It keeps what it has cut up for clips of one size when the next are of another, so that a worker grows over
    thousands of clips of many sizes.
    """
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


def end_with_parent() -> None:
    """Has the system end this process where its parent is killed (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():  # it died before this was said
        os._exit(1)
