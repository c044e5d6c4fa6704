"""The history of a run, in its directory: `history.jsonl` with a line for each start and end, and `train.log`, the log.
Both are for people: no run reads them, and it goes on where they cannot be written. `dit.report` shows the former.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from dit.runfiles import HISTORY

log = logging.getLogger(__name__)
LOG = "train.log"
ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("torch", "lightning", "numpy", "xformers", "triton", "hydra-core", "av", "decord2", "peft")
SECONDS = 20  # that git may take

progress = logging.getLogger(f"{__name__}.progress")
"""For lines that the terminal has already: they go into `train.log` alone."""
progress.propagate = False
progress.setLevel(logging.INFO)


@contextmanager
def recorded(run: Path, about: Mapping[str, Any], step: Callable[[], int]) -> Iterator[None]:
    """Records that a session starts, how it ends, and what is logged in between. For the first rank.

    Args:
        run: the run directory, which exists.
        about: what the line of the start says beside time, command, code, versions and machine.
        step: says at the end how many steps are done.

    A `SystemExit` is an end, any other exception a failure; they pass. A session without an end was killed.
    """
    handler = _LogFile(run / LOG)
    handler.setFormatter(logging.Formatter("[%(asctime)s] %(message)s", "%Y-%m-%d %H:%M:%S"))
    loggers = (logging.getLogger(), progress)
    for logger in loggers:
        logger.addHandler(handler)
    _append(run, {"event": "start", **about, **surroundings()})
    end: dict[str, Any] = {"event": "finished"}
    try:
        yield
    except SystemExit as error:
        end = {"event": "stopped", "exit_code": error.code}  # 128 and the signal's number
        raise
    except BaseException as error:
        said = " ".join(str(error).split()) or type(error).__name__
        end = {"event": "failed", "why": f"{type(error).__name__}: {said}"}
        handler.note(end["why"])
        raise
    finally:
        _append(run, {**end, "step": step()})
        for logger in loggers:
            logger.removeHandler(handler)
        handler.close()


def surroundings() -> dict[str, Any]:
    """Command, code, versions and machine of this process, as plain values."""
    return {
        "command": command(),
        "commit": _git("rev-parse", "HEAD"),
        "changed_files": _changed_files(),
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := _version(name)) is not None},
        "device": _device(),
        "host": platform.node(),
        "pid": os.getpid(),
    }


def command() -> str:
    """The command line of this process, as one could type it again."""
    return shlex.join(["python", *sys.argv])


def _changed_files() -> int | None:
    """Files that differ from the commit, new ones included; None where git does not say."""
    listed = _git("status", "--porcelain")
    return None if listed is None else len(listed.splitlines())


def _git(*arguments: str) -> str | None:
    """What git says of this code; None where it is no checkout of its own, or there is no git."""
    if not (ROOT / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, timeout=SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _device() -> str:
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    model = platform.processor() or platform.machine()
    with suppress(OSError):  # Linux says it in more words
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return f"{model}, {torch.get_num_threads()} threads"


def _append(run: Path, event: Mapping[str, Any]) -> None:
    line = json.dumps({"time": _now(), **event}, ensure_ascii=False, default=str)
    try:
        with (run / HISTORY).open("a", encoding="utf-8") as file:
            file.write(line + "\n")
    except OSError as error:
        log.warning("%s: %s; this event is not recorded", run / HISTORY, error.strerror or error)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


class _LogFile(logging.Handler):
    """Appends lines to a file that is opened for each, so that a disk which is full for a while costs those lines
    alone."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(Exception):  # whatever is wrong with the file or the message: it was said elsewhere
            self._write(self.format(record))

    def note(self, line: str) -> None:
        with suppress(OSError):
            self._write(line)

    def _write(self, line: str) -> None:
        with self.path.open("a", encoding="utf-8", errors="replace") as file:
            file.write(line + "\n")
