"""Checks clips before a run, each in a process of its own that can be killed: a damaged file may hang its decoder for
ever, crash it, or eat the memory, and none of that may stop the check.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from data.checks import Checks, Finding, check_clip
from data.decode import Ladder
from data.manifest import Row
from data.processes import end_with_parent


@dataclass(frozen=True)
class Limits:
    """Of the check of one clip.

    Attributes:
        seconds: it may take.
        memory_gb: it may take beyond what this process has; None sets no limit.
        jobs: clips that are checked at a time.
    """

    seconds: float
    memory_gb: float | None
    jobs: int


@dataclass
class _Job:
    process: Any  # a multiprocessing.Process; contexts have their own classes
    number: int
    answer: Connection
    deadline: float = field(default=0.0)


def check_clips(
    rows: Iterable[tuple[int, Row]], decoder: Ladder, checks: Checks, limits: Limits
) -> Iterator[tuple[int, Finding]]:
    """Findings as they are made, in any order, each with the number of its row."""
    # fork starts in milliseconds and is safe here: this process opens no file with a decoder.
    forks = "fork" in multiprocessing.get_all_start_methods()
    context: Any = multiprocessing.get_context("fork" if forks else "spawn")
    waiting = iter(rows)
    running: list[_Job] = []
    try:
        while True:
            while len(running) < limits.jobs and (each := next(waiting, None)) is not None:
                number, row = each
                receive, send = context.Pipe(duplex=False)
                arguments = (send, row, decoder, checks, limits.memory_gb)
                process = context.Process(target=_check_and_send, args=arguments, daemon=True)
                process.start()
                send.close()
                running.append(_Job(process, number, receive, time.monotonic() + limits.seconds))
            if not running:
                return
            wait([job.answer for job in running], max(0.0, min(job.deadline for job in running) - time.monotonic()))
            for job in list(running):
                if job.answer.poll():
                    yield job.number, _received(job)
                elif time.monotonic() >= job.deadline:
                    why = f"no answer within {limits.seconds:g} s: its decoder hangs"
                    yield job.number, Finding("hangs", why)
                else:
                    continue
                _end(job)
                running.remove(job)
    finally:
        for job in running:
            _end(job)


def _check_and_send(send: Connection, row: Row, decoder: Ladder, checks: Checks, memory_gb: float | None) -> None:
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends this one
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libraries say there what is in the finding already
    if memory_gb is not None:
        _limit_memory(memory_gb)
    try:
        finding = check_clip(row, decoder, checks)
    except Exception as error:  # whatever a library does on a damaged file: one row, and the check goes on
        finding = Finding("unreadable", " ".join(f"{type(error).__name__}: {error}".split())[:200])
    send.send(finding)


def _limit_memory(gigabytes: float) -> None:
    """Lets this process take so much address space more than it has. Linux alone says how much that is."""
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + int(gigabytes * 2**30)
        resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))
    except (ImportError, OSError, ValueError):
        return  # without a limit, as elsewhere


def _received(job: _Job) -> Finding:
    try:
        finding: Finding = job.answer.recv()
        return finding
    except EOFError:  # the pipe was closed by a process that died
        job.process.join()
        return Finding("crashes", f"its decoder crashed (exit code {job.process.exitcode})")


def _end(job: _Job) -> None:
    job.process.kill()
    job.process.join()
    job.answer.close()
