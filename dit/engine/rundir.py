"""The run directory: its name and config, which settings may differ when it goes on, and what is set aside."""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from functools import reduce
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from dit.checkpoint.averages import SNAPSHOTS
from dit.checkpoint.files import FOLDER, FROZEN
from dit.config.flat import COPIES, leaves, lies_in
from dit.config.renamed import current
from dit.engine.callbacks.checkpoint import point
from dit.foreign import Refused, check_value, read_yaml
from dit.locks import LOCK, lock
from dit.runfiles import CONFIG, DETAILS, METRICS, SAMPLES

log = logging.getLogger(__name__)

RUNS = Path("runs")
ASIDE = "set_aside"
PART = f"{CONFIG}.part"  # rank 0 may be writing it, or was killed while it did

# What may differ when a run goes on: how long, on what, and how it is watched. Everything else decides what is learned.
FREE = (
    "name",
    "init_from",  # of use at the first step only, as the two that say how
    "init_weights",
    "init_strict",
    "lora_from",
    "resume_from",
    "resume_lr",
    "resume_changes",
    "show",
    "logger",
    "preview",
    "sampling",
    "schedule",
    "solver",
    "guidance",
    *(f"callbacks.{name}" for name in ("checkpoints", "metrics", "progress", "validation", "world", "after_step")),
    *("text.folder", "signals.image.folder"),  # the files are compared by their fingerprints
    *("codec.folder", "codec.encoder", "codec.decoder", "codec.ckpt"),
    *("codec.batch", "codec.frames"),
    "text_cache",
    "net.family",  # where it may be exported to
    "data.root",  # which clips they are, and in which order, the checkpoint knows
    "data.manifest",
    "data.filter",
    "data.val_filter",
    "data.made_by",
    "data.shard_cache",
    "data.cache",  # the cache itself says of which clips and codec it is
    "data.licences",
    "data.decoder",
    "data.batch_size",  # clips to a step are compared: batch, ranks and accumulated batches together,
    "data.shapes.tokens",  # or tokens, where these make a batch
    "trainer.accumulate",
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
    *COPIES,
)


# A run that goes on keeps the values that it began with. KEPT: sizes whose default may have grown since. KEPT_FOR_NULL:
# numbers of older configs whose default is null by now, which leaves them to the codec.
KEPT = (("text", "max_bytes"),)
KEPT_FOR_NULL = (("net", "position", "stride"), ("net", "position", "first"))

# What may be changed on the way where `resume_changes` names it. Anything else is another network, or other moments.
CHANGEABLE = (
    "optim",
    "lr_schedule",
    "levels",
    "weighting",
    "conditioning",
    "space",
    "caption_dropout",
    "callbacks",  # those of a researcher: they may have a part in what is learned
    "data",
    "seed",
    "trainer",
)


LONGEST_NAME = 255  # bytes


class OtherRun(ValueError):
    """The run name belongs to another config."""


def check_name(name: str) -> Path:
    """`runs/<name>`; a name may have folders in front, as the runs of an ablation have: `position/rope3d-seed.0`.

    ValueError for a name that would leave `runs/`, that Hydra could not take back in `ckpt=`, or that lies in a run."""
    bad = sorted({c for c in name if not (c.isalnum() or c in "._-+/")})
    parts = name.split("/")
    if any(not part or part.startswith(".") for part in parts):
        raise ValueError(f"name={name!r} is not a folder name; for example name=mine")
    if bad:
        raise ValueError(f"name={name} holds {' '.join(map(repr, bad))}; use letters, digits, '.', '_', '-' and '+'")
    if (longest := max(len(part.encode()) for part in parts)) > LONGEST_NAME:
        raise ValueError(f"name={name[:20]}... has {longest} bytes; a folder's name has {LONGEST_NAME} at most")
    if RUNS.exists() and not RUNS.is_dir():
        raise ValueError(f"{RUNS} is a file, and runs go into a folder of that name: move it away")
    run = RUNS / name
    for folder in (run, *run.parents[: len(parts) - 1]):
        if folder.exists() and not folder.is_dir():
            raise ValueError(
                f"{folder} is a file, and the run goes into a folder of that name: move it away, or choose another name"
            )
        if folder != run and (folder / CONFIG).is_file():
            raise ValueError(f"name={name}: {folder} is a run, and a run lies in no other; choose another name")
    return run


def as_begun(run: Path, config: dict[str, Any]) -> dict[str, Any]:
    """`config`, with the values of `KEPT` that `run` began with, whatever is asked for now; says where they differ. Of
    `KEPT_FOR_NULL` where null is asked for now."""
    file = run / CONFIG
    before = read_yaml(file) if file.is_file() else {}
    for path in (*KEPT, *KEPT_FOR_NULL):
        *groups, key = path
        old, new = (reduce(_inside, groups, each) for each in (before, config))
        if not (isinstance(old, dict) and isinstance(new, dict) and key in old and key in new) or old[key] == new[key]:
            continue
        if path in KEPT_FOR_NULL and new[key] is not None:
            continue
        try:
            check_value(old[key], ".".join(path))  # a run directory may be anyone's
        except Refused as error:
            raise Refused(f"{file}: {error}") from None
        log.warning(
            "%s keeps %s=%s, which it began with; a new run may have %s", run, ".".join(path), old[key], new[key]
        )
        config = _with(config, path, old[key])
    return config


def _inside(node: Any, key: str) -> Any:
    return node.get(key) if isinstance(node, dict) else None


def _with(config: dict[str, Any], path: Sequence[str], value: Any) -> dict[str, Any]:
    """A copy of a config with another value at a path that it has."""
    key, *rest = path
    return {**config, key: _with(config[key], rest, value) if rest else value}


def config_of(run: Path) -> dict[str, Any] | None:
    """The config that `run` was last trained with; None where nothing was.

    Raises:
        OtherRun: there is something else in the directory.
    """
    file = run / CONFIG
    if file.is_file():
        return read_yaml(file)
    if run.is_dir() and any(entry.name not in (LOCK, PART) for entry in run.iterdir()):
        raise OtherRun(f"{run} is there but holds no {CONFIG}: it is not a run of ours; choose another name=...")
    return None


def write_config(run: Path, config: Mapping[str, Any]) -> None:
    """Makes `run` the directory of `config`."""
    run.mkdir(parents=True, exist_ok=True)
    part = run / PART
    part.write_text(yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True), encoding="utf-8")
    os.replace(part, run / CONFIG)


def set_aside(run: Path, step: int) -> Path | None:
    """Moves what the run holds of later steps than `step` into a dated folder inside it, and returns that; else None.

    Checkpoints, EMA snapshots and previews go by the step in their names. `metrics.csv` and `details.csv` are copied
    there whole, since their rows up to `step` are still of use here; their writer drops the later ones.
    """
    found = re.compile(r"step-(\d+)")
    later = [
        file
        for folder in (FOLDER, SNAPSHOTS, SAMPLES)
        for file in sorted((run / folder).glob("step-*"))
        if (match := found.match(file.name)) and int(match[1]) > step
    ]
    metrics = run / METRICS
    if not later and not _has_rows_behind(metrics, step):
        return None
    aside = run / ASIDE / f"{datetime.now():%Y-%m-%dT%H-%M-%S}-behind-step-{step:08d}"
    for file in later:
        target = aside / file.relative_to(run)
        target.parent.mkdir(parents=True, exist_ok=True)
        for unfinished in file.glob(".*.part"):  # of a process that was killed while it wrote a preview
            unfinished.unlink()
        os.replace(file, target)
    beside = run / FOLDER / FROZEN
    if (aside / FOLDER).is_dir() and beside.is_file():  # without it adapters cannot be used
        point(aside / FOLDER / FROZEN, beside)
    for table in (METRICS, DETAILS):
        if (run / table).is_file():
            aside.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(run / table, aside / table)
    return aside


def _has_rows_behind(metrics: Path, step: int) -> bool:
    if not metrics.is_file():
        return False
    steps = (line.split(",", 1)[0] for line in metrics.read_text(errors="replace").splitlines()[1:])
    return any(digits.isdigit() and int(digits) > step for digits in steps)


def held(run: Path) -> AbstractContextManager[None]:
    """Holds the lock of a run, so that it is not trained twice at a time; for the first rank."""
    return lock(run, "being trained by another process; wait for it, or choose another name=...")


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(key, value before, value now) of all settings that differ and are not `FREE`, in the order of the config."""
    old, new = dict(leaves(current(before))), dict(leaves(current(now)))
    keys = [*new, *(key for key in old if key not in new)]
    # null says that a part is absent: a key that an older config did not have may be null now.
    return [
        (key, _shown(old, key), _shown(new, key))
        for key in keys
        if not lies_in(key, FREE) and old.get(key) != new.get(key)
    ]


def _shown(values: Mapping[str, Any], key: str) -> str:
    return repr(values[key]) if key in values else "absent"
