"""Processes: how many a machine has cores for, and how they end with the one that started them."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

PR_SET_PDEATHSIG = 1  # linux/prctl.h
QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of a container: microseconds of processor time, and of how many


def cores() -> float:
    """Cores that this process may use, a part of one too where its container has no more."""
    found = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    with suppress(OSError, ValueError):
        quota, period = QUOTA.read_text().split()
        found = min(found, int(quota) / int(period))  # ValueError where it is "max"
    return found


def give_memory_back() -> None:
    """Has the C library give free memory back to the system (glibc; elsewhere nothing happens).

    It keeps what it has cut up for clips of one size when the next are of another, and the pages between blocks that
    stay: a worker grew by 7 to 12 % in 2,000 clips. Blocks that are always given back (a fixed mmap threshold) cost a
    quarter more processor time a frame.
    """
    with suppress(AttributeError, OSError, TypeError):  # no C library of that kind
        ctypes.CDLL(None).malloc_trim(0)


def end_with_parent() -> None:
    """Has the system end this process where its parent is killed (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():  # it died before this was said
        os._exit(1)


GUARD = """
import os, sys
for line in [*sys.stdin]:  # until the pipe is closed, which the system does, too
    pid, name = line.split()
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            if name.encode() in file.read():  # and not another process that has its number by now
                os.kill(int(pid), 9)
    except OSError:
        pass
"""


class Guard:
    """Ends other programs that this process has started, however this one ends: a process that waits for it (Linux)."""

    def __init__(self) -> None:
        command = [sys.executable, "-S", "-c", GUARD]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, text=True, start_new_session=True)

    def watch(self, name: str) -> None:
        """Children of this process that run now, with `name` in their command, are ended with it."""
        assert self.process.stdin is not None
        for pid in children():
            self.process.stdin.write(f"{pid} {name}\n")
        self.process.stdin.flush()


def children() -> list[int]:
    """Processes that this one has started and that are there (Linux; elsewhere none is known)."""
    found = []
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(file.read_text().rpartition(")")[2].split()[1]) == os.getpid():
                found.append(int(file.parent.name))
        except (OSError, ValueError, IndexError):
            continue  # it has gone
    return found
