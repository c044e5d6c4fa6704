"""Signals of the operating system while a run trains: noted at once, acted upon between two steps."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

log = logging.getLogger(__name__)

INTERRUPTS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGUSR1)
ONE_KEYSTROKE = 1.0  # seconds; a Ctrl-C that a wrapper hands on to its child arrives twice


class Interrupts:
    """Context manager. Inside, one of `INTERRUPTS` sets `received` and does nothing else, so that no work is cut off.

    Further signals change nothing: schedulers send several. Only a second Ctrl-C ends the process at once, or, while a
    file is being written (`writing`), as soon as that file is complete. A signal that was ignored when the process
    started, as SIGHUP under nohup, stays ignored.

    Attributes:
        received: number of the first signal; None until then.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._since = 0.0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python does not let handlers be set
            listened = [number for number in INTERRUPTS if signal.getsignal(number) != signal.SIG_IGN]
            self._previous = {number: signal.signal(number, self._handle) for number in listened}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received, self._since = number, time.monotonic()
            again = " (Ctrl-C once more: leave at once)" if number == signal.SIGINT else ""
            log.warning("%s: saving after this step, then leaving%s", signal.Signals(number).name, again)
        elif number == signal.SIGINT and time.monotonic() - self._since > ONE_KEYSTROKE:
            if _Writing.depth:
                _Writing.then_leave = True
            else:
                _leave()


class _Writing:
    """State of `writing`: how many blocks are open, and whether the process is to end when the last one closes."""

    depth = 0
    then_leave = False


@contextmanager
def writing() -> Iterator[None]:
    """Inside this block a second Ctrl-C ends the process only at the end of the block."""
    _Writing.depth += 1
    try:
        yield
    finally:
        _Writing.depth -= 1
        if _Writing.then_leave and not _Writing.depth:
            _leave()


def _leave() -> None:
    """Ends this process at once. Not by an exception: whatever catches it might take long."""
    log.warning("left at once; the same command goes on from the last checkpoint")
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    os._exit(128 + signal.SIGINT)
