"""Loading processes that belong to the training process: deaf to signals, gone when it is, and replaced when they die.

torch's own workers take the SIGTERM that a scheduler sends to the whole group and die before the trainer has saved; one
that is stopped, or hangs in a decoder, keeps the trainer from leaving; one that is killed raises an exception wherever
the trainer happens to be, in the middle of an update too.
"""

from __future__ import annotations

import atexit
import logging
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar

from torch.utils.data import DataLoader

from data.processes import cores, end_with_parent

log = logging.getLogger(__name__)

TRAINERS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1}  # signals that are for the trainer alone
SHARED = Path("/dev/shm")
RESTARTS, WITHIN = 3, 100  # more deaths than that within so many batches are no accident
MOST = 8  # loading processes for each training process, where nobody says how many
DYING = 1.0  # seconds between a broken connection and the end of the process behind it
HANDING_OVER = 5.0  # seconds beyond the loader's timeout for a batch that is announced and not yet here


class TimedOut(RuntimeError):
    """No batch came in time."""


class Died(RuntimeError):
    """A worker is gone."""


def batches(loader: Callable[[int], DataLoader[Any]], needs: int) -> Iterator[Any]:
    """What `loader(0)` yields. Where a worker dies, `loader(done)` takes over behind the `done` batches yielded so far.

    Args:
        loader: `loader(first)` gives the batches from number `first` on, always the same; with
            `worker_init_fn=leave_signals_to_trainer`.
        needs: bytes of shared memory that its batches take up; for messages.

    Raises:
        TimedOut: no batch within the loader's timeout.
        ValueError: workers keep dying, or shared memory is too small for them.
    """
    done = 0
    died: list[int] = []  # in front of which batches
    while True:
        crew = _Crew(loader(done))
        try:
            for batch in crew:
                done += 1
                yield batch
            return
        except Died as error:
            died = [*(at for at in died if at > done - WITHIN), done]
            if len(died) > RESTARTS:
                raise ValueError(
                    f"loader workers keep dying ({error}), {len(died)} times within {WITHIN} batches: where the system"
                    " is short of memory, fewer data.num_workers help; with data.num_workers=0 the fault itself shows"
                ) from None
            log.warning("%s; going on at the same batch with new ones", error)
        except Exception as error:
            if says_shared_memory(str(error)):
                raise ValueError(shared_memory(needs)) from None
            raise
        finally:
            crew.kill()


class _Crew:
    """The workers of one loader, and its batches."""

    living: ClassVar[set[_Crew]] = set()
    batches: Any = None  # as long as it is not there

    def __init__(self, loader: DataLoader[Any]) -> None:
        self.timeout = loader.timeout
        self.late = False
        before = set(multiprocessing.active_children())
        # Until it runs, a new worker is as deaf: it inherits what is blocked here.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, TRAINERS)
        try:
            self.batches = iter(loader)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            self.workers: Sequence[BaseProcess] = [p for p in multiprocessing.active_children() if p not in before]
            self.living.add(self)
        if self.workers:
            self.batches._workers_done_event = _Over(self.workers)
        deaths.listen()

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        """The next batch. Raises Died, TimedOut, or what loading it raised."""
        try:
            with deaths, self._watched():
                if not any(worker.exitcode is not None for worker in self.workers):
                    return next(self.batches)
        except StopIteration:
            raise
        except Exception as error:
            if self.late:
                raise TimedOut from None
            dead = self._dead(DYING if isinstance(error, (OSError, EOFError)) else 0.0)
            if not dead:
                if "DataLoader timed out" in str(error):
                    raise TimedOut from None
                raise
        raise self._why(self._dead(0.0))

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Ends the workers where one announces a batch and hangs before handing it over: torch would wait forever.

        The loader's own timeout covers the wait for the announcement alone.
        """

        def give_up() -> None:
            self.late = True
            for worker in self.workers:
                worker.kill()

        watch = threading.Timer(self.timeout + HANDING_OVER, give_up)
        watch.daemon = True
        if self.timeout:
            watch.start()
        try:
            yield
        finally:
            watch.cancel()

    def _dead(self, patience: float) -> list[BaseProcess]:
        for worker in self.workers:
            worker.join(patience / len(self.workers))
        return [worker for worker in self.workers if worker.exitcode is not None]

    def _why(self, dead: list[BaseProcess]) -> Exception:
        code = dead[0].exitcode or 0
        if code == -signal.SIGBUS:
            return RuntimeError("bus error: shared memory")
        return Died(
            f"a loader worker was killed by {signal.Signals(-code).name}"
            if code < 0
            else f"a loader worker left with exit code {code}"
        )

    def kill(self) -> None:
        """Ends the workers, stopped or hung ones too, and closes the loader's iterator."""
        self.living.discard(self)
        _end(self.workers)
        close = getattr(self.batches, "_shutdown_workers", None)
        if close:  # else it would when it is collected, and that may be in a worker that is forked later
            close()


class _Over:
    """What the trainer holds in place of the event by which torch tells its workers to end.

    Whoever looks at that event takes its lock, and a worker that is killed while it looks keeps the lock for ever: the
    trainer would wait for it. Nobody but the trainer sets it, so it can know by itself; and then it ends the workers.
    """

    def __init__(self, workers: Sequence[BaseProcess]) -> None:
        self.workers, self.value = workers, False

    def is_set(self) -> bool:
        return self.value

    def set(self) -> None:
        self.value = True
        _end(self.workers)


def _end(workers: Sequence[BaseProcess]) -> None:
    """There is nothing in them to be lost."""
    deaths.awaited = False
    for worker in workers:
        worker.kill()
    for worker in workers:
        worker.join()


@atexit.register
def _kill_all() -> None:
    """Before multiprocessing asks its children to end, and waits: ours do not hear it."""
    for crew in list(_Crew.living):
        crew.kill()


class _Deaths:
    """torch raises in its SIGCHLD handler, wherever the trainer is; here only inside a `with` of `deaths`."""

    def __init__(self) -> None:
        self.awaited = False
        self.torchs: Any = None

    def listen(self) -> None:
        """To be called once torch has set its handler, which it does with the first workers."""
        handler = signal.getsignal(signal.SIGCHLD)
        if callable(handler) and handler != self._handle and threading.current_thread() is threading.main_thread():
            self.torchs = handler
            signal.signal(signal.SIGCHLD, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.awaited:
            self.torchs(number, frame)

    def __enter__(self) -> None:
        self.awaited = True

    def __exit__(self, *_: object) -> None:
        self.awaited = False


deaths = _Deaths()


def leave_signals_to_trainer(worker: int) -> None:
    """What a worker does first. The trainer ends it; and where the trainer is killed, the system does (Linux)."""
    for number in TRAINERS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, TRAINERS)
    end_with_parent()


def fitting(trainers: int) -> int:
    """How many loading processes suit each of so many training processes on this machine: a core is left to each of
    these, shared out are the others, from 1 to `MOST`. Where SLURM has given each cores of its own, none are shared."""
    own = os.environ.get("SLURM_CPUS_PER_TASK", "")
    each = min(cores(), int(own)) if own.isdecimal() and "SLURM_PROCID" in os.environ else cores() / trainers
    return max(1, min(MOST, int(each) - 1))


def says_shared_memory(error: str) -> bool:
    """Whether an error of torch is about room in /dev/shm."""
    return "shared memory" in error or ("</torch_" in error and "No space left on device" in error)


def shared_memory(needs: int) -> str:
    """One line about /dev/shm being too small."""
    size = "absent"
    if SHARED.is_dir():
        total, _, free = shutil.disk_usage(SHARED)
        size = f"{mebibytes(total)} with {mebibytes(free)} free"
    return (
        f"{SHARED}, through which loader workers hand over their batches, is {size}, and the batches take up to"
        f" {mebibytes(needs)}: make it larger (docker run --shm-size=8g; mount -o remount,size=8g {SHARED}), or lower"
        " data.num_workers; 0 needs none"
    )


def mebibytes(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"


def room_for(needs: int) -> bool:
    """Whether /dev/shm has room for that many bytes now; true where there is none to ask."""
    return not SHARED.is_dir() or shutil.disk_usage(SHARED).free >= needs
