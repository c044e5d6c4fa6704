"""What a signal does while a run trains: the first, one more, and those that were ignored from the start."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator

import pytest

from dit.engine import interrupts
from dit.engine.interrupts import INTERRUPTS, Interrupts, writing


class Left(BaseException):
    pass


@pytest.fixture(autouse=True)
def leaving(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def leave(code: int) -> None:
        raise Left(code)

    monkeypatch.setattr(os, "_exit", leave)
    # A shell ignores SIGINT for what it starts in the background, these tests too.
    outside = [signal.signal(number, signal.default_int_handler) for number in INTERRUPTS]
    yield
    assert [signal.getsignal(number) for number in INTERRUPTS] == [signal.default_int_handler] * len(INTERRUPTS)
    for number, handler in zip(INTERRUPTS, outside, strict=True):
        signal.signal(number, handler)


@pytest.mark.parametrize("number", INTERRUPTS)
def test_the_first_is_noted_and_repeating_it_changes_nothing(number: int) -> None:
    with Interrupts() as told:
        assert told.received is None
        os.kill(os.getpid(), number)
        assert told.received == number
        for again in INTERRUPTS:  # at once: as when a wrapper hands it on to its child
            os.kill(os.getpid(), again)
        assert told.received == number


def test_only_a_second_ctrl_c_leaves_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupts, "ONE_KEYSTROKE", -1.0)
    with Interrupts() as told:
        os.kill(os.getpid(), signal.SIGUSR1)  # SLURM's warning, then its end of time
        os.kill(os.getpid(), signal.SIGTERM)
        assert told.received == signal.SIGUSR1
        with pytest.raises(Left, match="130"):
            os.kill(os.getpid(), signal.SIGINT)


def test_it_waits_for_a_file_to_be_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupts, "ONE_KEYSTROKE", -1.0)
    done = []
    with Interrupts(), pytest.raises(Left), writing():
        with writing():
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            done.append("inner")
        done.append("outer")
    assert done == ["inner", "outer"]
    interrupts._Writing.then_leave = False


def test_what_was_ignored_stays_ignored() -> None:
    """`nohup`, or a background job of a shell."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interrupts() as told:
            os.kill(os.getpid(), signal.SIGHUP)
            assert told.received is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_elsewhere_than_in_the_main_thread() -> None:
    import threading

    found = []
    thread = threading.Thread(target=lambda: found.append(Interrupts().__enter__().received))
    thread.start()
    thread.join()
    assert found == [None] and sys.is_finalizing() is False
