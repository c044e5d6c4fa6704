"""A user's mistake in one line and exit code 2; a bug of ours keeps its traceback."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from pathlib import Path
from types import TracebackType

from hydra.errors import HydraException, InstantiationException
from omegaconf.errors import OmegaConfBaseException

from dit.entry import hints
from dit.entry.paths import ROOT
from dit.streams import leave_unheard

MISTAKE_EXIT_CODE = 2
INCOMPLETE_EXIT_CODE = 1
# What is the machine's, or a path's that the user gave, whoever asks for the file.
OUTSIDE = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EIO),
)


class one_line_errors:
    """Context manager: a user's mistake leaves as `error: <one line>` on stderr and exit code 2; see `speaker`.

    What the user got wrong (a key that does not exist, a file that is not there, a frame count that the codec cannot
    take) is what our own code raises as ValueError, FileNotFoundError or FileExistsError, and what Hydra says of the
    command line. `DIT_TRACEBACK=1` shows the traceback of these as well. A reader of stdout that has left ends the
    command in silence.
    """

    def __init__(self, config_name: str | None = None) -> None:
        self.config_name = config_name

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            sys.stdout.flush()
        except BrokenPipeError as broken:
            error = error if isinstance(error, Exception) else broken
        if isinstance(error, BrokenPipeError):
            leave_unheard()
        if not isinstance(error, Exception) or os.environ.get("DIT_TRACEBACK"):
            return
        message = explain(error, self.config_name)
        if message is not None:
            said_by = speaker()
            if said_by is not None:
                sys.stdout.flush()
                print(f"error: {said_by}{message}", file=sys.stderr)
            raise Mistake(message)


class Mistake(SystemExit):
    """A mistake of the user's that has been said; `message` is its line."""

    def __init__(self, message: str) -> None:
        super().__init__(MISTAKE_EXIT_CODE)
        self.message = message


class Incomplete(Mistake):
    """Part of what was asked for could not be done, which has been said; the exit code is 1, or 2 where nothing was."""

    def __init__(self, message: str, some_done: bool) -> None:
        super().__init__(message)
        self.code = INCOMPLETE_EXIT_CODE if some_done else MISTAKE_EXIT_CODE


def note(line: str) -> None:
    """Says on stderr what cannot be done while the rest is."""
    if (said_by := speaker()) is not None:
        sys.stdout.flush()
        print(f"note: {said_by}{line}", file=sys.stderr, flush=True)


def speaker() -> str | None:
    """What this process prints in front of an error message; None: it prints no message.

    Under torchrun, SLURM or Lightning's launcher all ranks check the same config, so one of them, the first of a node,
    speaks for all. Once they work together each has data of its own, and may be the only one that fails.
    """
    rank = next((os.environ[name] for name in ("LOCAL_RANK", "SLURM_LOCALID") if name in os.environ), "0")
    if rank == "0":
        return ""
    distributed = sys.modules.get("torch.distributed")  # not imported for this
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return None
    return f"rank {distributed.get_rank()}: "


def explain(error: Exception, config_name: str | None = None) -> str | None:
    """One line for a user's mistake, or None when `error` is a bug whose traceback must be seen."""
    while isinstance(error, InstantiationException) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    if isinstance(error, (HydraException, OmegaConfBaseException)):
        return hints.composing(error, config_name)
    if _in_defaults_list(error):
        return hints.no_option(sys.argv[1:])
    if isinstance(error, (ValueError, FileNotFoundError, FileExistsError)) and _raised_by_us(error):
        return hints.one_line(str(error))
    if isinstance(error, OSError) and error.errno in OUTSIDE:
        what = error.filename or "a file cannot be written"
        return f"{what}: {error.strerror}; see to that and give the same command again"
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return "there is not enough memory for this; make the network, the clips or data.batch_size smaller"
    return None


def _in_defaults_list(error: Exception) -> bool:
    """Whether Hydra stumbled over the option of a group, for which it has no error of its own."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and frames[-1].filename.endswith("defaults_list.py")


def _raised_by_us(error: Exception) -> bool:
    """True when the innermost frame is a `raise` in this repository: a message meant for the user, not a surprise."""
    frames = traceback.extract_tb(error.__traceback__)
    return (
        bool(frames) and Path(frames[-1].filename).is_relative_to(ROOT) and "site-packages" not in frames[-1].filename
    )
