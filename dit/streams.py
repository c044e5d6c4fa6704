"""What a run prints must not end it: a terminal that is closed, a pipe whose reader left, a log on a full disk."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, NoReturn, TextIO, cast


def reopen() -> None:
    """Opens closed standard streams (`>&-`) on the null device. To be called before any file is opened: that file would
    get the number of the closed stream, and what is printed would be written into it."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w", closefd=False))  # noqa: SIM115


UNHEARD = 141  # what shells say of a command whose reader left: `sample.py ... | head`


def leave_unheard() -> NoReturn:
    """Ends a command whose reader has left (BrokenPipeError), without a message."""
    # Python would complain once more when it flushes at its end.
    for stream in (sys.stdout, sys.stderr):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    raise SystemExit(UNHEARD)


def drop_unheard_lines() -> None:
    """Log lines whose reader has left are dropped, where `logging` would print a traceback for each."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.handleError = partial(_unless_unheard, handler.handleError)  # type: ignore[method-assign]


def _unless_unheard(otherwise: Callable[[logging.LogRecord], None], record: logging.LogRecord) -> None:
    if not isinstance(sys.exc_info()[1], BrokenPipeError):
        otherwise(record)


@contextmanager
def steady() -> Iterator[None]:
    """Inside the block what cannot be written to stdout or stderr is dropped, log lines as well."""
    before = sys.stdout, sys.stderr
    now = tuple(Steady(stream) for stream in before)
    sys.stdout, sys.stderr = (cast(TextIO, stream) for stream in now)
    logging_to = [
        (handler, stream, stand_in)
        for handler in logging.getLogger().handlers
        if isinstance(handler, logging.StreamHandler)
        for stream, stand_in in zip(before, now, strict=True)
        if handler.stream is stream
    ]
    for handler, _, stand_in in logging_to:
        handler.stream = stand_in
    try:
        yield
    finally:
        for handler, stream, _ in logging_to:
            handler.stream = stream
        sys.stdout, sys.stderr = before
        for stand_in in now:
            stand_in.settle()


class Steady:
    """A text stream that ignores it when writing fails."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._failed = False

    def write(self, text: str) -> int:
        with self._whatever_happens():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._whatever_happens():
            self._stream.flush()

    def isatty(self) -> bool:
        return not self._stream.closed and self._stream.isatty()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @contextmanager
    def _whatever_happens(self) -> Iterator[None]:
        try:
            yield
        except ValueError:  # it is closed
            pass
        except OSError:
            self._failed = True

    def settle(self) -> None:
        """Redirects a stream that cannot be written to the null device, or Python complains when it flushes at exit."""
        try:
            self._stream.flush()
            if self._failed:
                os.write(self._stream.fileno(), b"\n")  # a disk may have room again; nothing else does
        except ValueError:
            pass
        except OSError:
            with suppress(OSError, ValueError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._stream.fileno())
                os.close(nowhere)
                self._stream.flush()
