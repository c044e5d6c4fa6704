"""The run directory: who it belongs to, whether it can go on, and where from."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch
import yaml  # type: ignore[import-untyped]

from dit.engine.callbacks.checkpoint import FOLDER, LAST
from dit.foreign import read_yaml

log = logging.getLogger(__name__)

RUNS = Path("runs")
CONFIG = "config.yaml"
LOCK = ".lock"
PART = f"{CONFIG}.part"  # rank 0 may be writing it, or was killed while it did

NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)  # of file systems that know none

# What may differ when a run goes on: how long, on what, and how it is watched. Everything else decides what is learned.
FREE = (
    "name",
    "init_from",  # of use at the first step only, as the two that say how
    "init_weights",
    "init_strict",
    "logger",
    "preview",
    "sampling",
    "schedule",
    "solver",
    "guidance",
    "callbacks.checkpoints",
    "callbacks.metrics",
    "callbacks.progress",
    "callbacks.validation",
    "data.num_workers",
    "data.pin_memory",
    "data.timeout",
    "data.max_bad_share",
    "data.labels",  # what comes of them, the names of the classes, is compared with the checkpoint's
    "data.train.labels",
    "data.val.labels",
    "data.val_batch_size",
    "ema.use",
    "ema.snapshot_every",
    "trainer.max_steps",
    "trainer.accelerator",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.strategy",
    "trainer.precision",
    "trainer.compile_mode",
    "net.kernel",
    # The objective joins groups that are compared under their own names.
    *(f"objective.{part}" for part in ("path", "prediction", "levels", "weighting", "conditioning", "space")),
)


# Sizes of weights that say nothing about what is learned: a run keeps those that it began with. {group: key}
KEPT = {"text": "max_bytes"}


class OtherRun(ValueError):
    """The run name belongs to another config."""


def check_name(name: str) -> Path:
    """`runs/<name>`; ValueError for a name that would leave `runs/` or that Hydra could not take back in `ckpt=`."""
    bad = sorted({c for c in name if not (c.isalnum() or c in "._-+")})
    if not name or name.startswith("."):
        raise ValueError(f"name={name!r} is not a folder name; for example name=mine")
    if bad:
        raise ValueError(f"name={name} holds {' '.join(map(repr, bad))}; use letters, digits, '.', '_', '-' and '+'")
    return RUNS / name


def as_begun(run: Path, config: dict[str, Any]) -> dict[str, Any]:
    """`config`, with the values of `KEPT` that `run` began with, whatever is asked for now; says where they differ."""
    file = run / CONFIG
    before = (yaml.safe_load(file.read_text()) or {}) if file.is_file() else {}
    for group, key in KEPT.items():
        old, new = before.get(group), config.get(group)
        if not (isinstance(old, dict) and isinstance(new, dict) and key in old and key in new) or old[key] == new[key]:
            continue
        log.warning(
            "%s keeps %s.%s=%s, which it began with; a new run may have %s", run, group, key, old[key], new[key]
        )
        config = {**config, group: {**new, key: old[key]}}
    return config


def check(run: Path, config: Mapping[str, Any]) -> Path | None:
    """The checkpoint that a run of `config` in `run` goes on from, None for a fresh start. Writes nothing.

    Raises:
        OtherRun: the directory was made with a config that differs in something that decides what is learned.
    """
    file = run / CONFIG
    if file.is_file():
        differing = differences(read_yaml(file), config)
        if differing:
            shown = "; ".join(f"{key} was {before}, now {now}" for key, before, now in differing[:3])
            more = f" (and {len(differing) - 3} more)" if len(differing) > 3 else ""
            raise OtherRun(
                f"{run} belongs to another config: {shown}{more}. Choose another name=..., or delete it to start anew"
            )
    elif run.is_dir() and any(entry.name not in (LOCK, PART) for entry in run.iterdir()):
        raise OtherRun(f"{run} is there but holds no {CONFIG}: it is not a run of ours; choose another name=...")
    last = run / FOLDER / LAST
    return last if last.is_file() else None


def claim(run: Path, config: Mapping[str, Any], write: bool) -> None:
    """Makes `run` the directory of `config`, once more checked; `write` is true on the first rank only."""
    check(run, config)
    if write:
        run.mkdir(parents=True, exist_ok=True)
        part = run / PART
        part.write_text(yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True))
        os.replace(part, run / CONFIG)


@contextmanager
def lock(run: Path, write: bool) -> Iterator[None]:
    """Refuses to train one run twice at a time; `write` is true on the first rank, which holds the lock. The kernel
    frees it when the process dies, however it dies."""
    if not write:
        yield
        return
    run.mkdir(parents=True, exist_ok=True)
    file = run / LOCK
    if file.is_dir():
        raise ValueError(f"{file} is a folder, where the lock of the run is to be; remove it")
    with file.open("w") as held:
        _take(held, run)
        yield


def _take(held: IO[str], run: Path) -> None:
    """Locks an open file. Waits a little: a killed process takes a moment to die, and its loader's workers another."""
    for wait in (0.1, 0.4, 1.5, None):
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if wait is None:
                raise ValueError(
                    f"{run} is being trained by another process; wait for it, or choose another name=..."
                ) from None
            time.sleep(wait)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            reason = error.strerror
            log.warning("%s cannot be locked here (%s): never train it twice at a time", run, reason)
            return


def steps_done(checkpoint: Path) -> int:
    """Optimizer steps in a checkpoint; FileNotFoundError or ValueError in one line when it cannot be read."""
    try:
        return int(torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)["global_step"])
    except FileNotFoundError:
        raise
    except Exception as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"{checkpoint} cannot be read ({first}); point last.ckpt at an older step-*.ckpt") from None


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(key, value before, value now) of what differs outside `FREE`, in the order of the config."""
    old, new = dict(_leaves(before)), dict(_leaves(now))
    keys = [*new, *(key for key in old if key not in new)]
    # null says that a part is absent: a key that an older config did not have may be null now.
    return [
        (key, _shown(old, key), _shown(new, key)) for key in keys if not _is_free(key) and old.get(key) != new.get(key)
    ]


def _is_free(key: str) -> bool:
    return any(key == free or key.startswith(f"{free}.") for free in FREE)


def _shown(leaves: Mapping[str, Any], key: str) -> str:
    return repr(leaves[key]) if key in leaves else "absent"


def _leaves(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, Mapping) and node:
        for name, value in node.items():
            yield from _leaves(value, f"{key}.{name}" if key else str(name))
    else:
        yield key, node
