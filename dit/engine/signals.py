"""SIGTERM, SIGHUP, SIGINT and SIGUSR1 while a run trains: noted at once, acted upon between two steps."""

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

SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGUSR1)
ONE_KEYSTROKE = 1.0  # seconds; a Ctrl-C that a wrapper hands on to its child arrives twice


class Signals:
    """Context manager inside which a signal sets `received` and does nothing else, so that nothing is left half done.

    Schedulers send the same signal again, or another: that changes nothing. A second Ctrl-C leaves at once, though not
    before a file that is being written is whole. What was ignored when the process started, as SIGHUP under nohup,
    stays ignored.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._since = 0.0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python does not let handlers be set
            listened = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
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
    """Whether a file of the run is being written, and somebody wants to leave once it is whole."""

    depth = 0
    then_leave = False


@contextmanager
def writing() -> Iterator[None]:
    """A second Ctrl-C waits for the end of this block."""
    _Writing.depth += 1
    try:
        yield
    finally:
        _Writing.depth -= 1
        if _Writing.then_leave and not _Writing.depth:
            _leave()


def _leave() -> None:
    """Ends this process here, as SIGKILL would: an exception could be caught, and what catches it may take long."""
    log.warning("left at once; the same command goes on from the last checkpoint")
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    os._exit(128 + signal.SIGINT)
