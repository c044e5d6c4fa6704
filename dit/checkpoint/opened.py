"""A checkpoint that is named by a user: which file, what it holds, and which of its weights."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from dit.checkpoint import archive, exported, files
from dit.checkpoint.averages import of_width
from dit.checkpoint.entries import Entry

LAST = Path(files.FOLDER) / files.LAST
WIDTH = "ema@"  # in front of the width of an average


def find(run_or_file: str | Path) -> Path:
    """The checkpoint file that a run directory or a file's path names. FileNotFoundError says what is near."""
    path = Path(run_or_file)
    if path.is_file():
        return path
    if not path.exists():
        raise missing(path, "checkpoint or run")
    if (last := in_run(path)) is not None:
        return last
    there = sorted(file.relative_to(path).as_posix() for file in path.rglob("*.ckpt"))
    listed = f"checkpoints there: {', '.join(there[-3:])}" if there else "it holds no checkpoint at all"
    raise FileNotFoundError(f"{path} has no {LAST.as_posix()}; {listed}")


def in_run(folder: Path) -> Path | None:
    """The checkpoint that a directory stands for: the last one of a run, or that of a folder to pass on."""
    return next((file for file in (folder / LAST, folder / exported.FILE) if file.is_file()), None)


def missing(path: Path, what: str) -> FileNotFoundError:
    """The error for a path that is not there, naming what lies near it."""
    folder = path.parent
    while not folder.is_dir():
        folder = folder.parent
    wanted = path.relative_to(folder).parts[0]
    there = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    near = difflib.get_close_matches(wanted, there, n=3, cutoff=0.5) or there[:3]
    hint = f"; in {folder}: {', '.join(near)}" if near else f"; {folder} is empty"
    return FileNotFoundError(f"{what} {path} is not there{hint}")


def read(file: Path, wanted: Sequence[Entry[Any]], instead: str) -> dict[str, Any]:
    """The entries of a file; ValueError, which ends with what to do `instead`, when it is damaged, or has none of those
    names."""
    try:
        content = exported.read(file) if file.suffix == Path(exported.FILE).suffix else archive.load(file)
    except archive.Damaged as error:
        raise ValueError(
            f"{file} cannot be read as a checkpoint ({error}); it may be cut short, damaged, or none at all: {instead}"
        ) from None
    absent = [each.name for each in wanted if not isinstance(content, dict) or not each.is_in(content)]
    if absent:
        raise ValueError(f"{file} is not a checkpoint of this project: it has no {' and no '.join(absent)}")
    return content


def check_weights(file: Path, name: str, weights: Any) -> None:
    """Raises ValueError for anything but tensors under their names."""
    if not isinstance(weights, dict):
        raise ValueError(f"{file} is not a checkpoint of this project: its {name} is no mapping")
    for key, value in weights.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise ValueError(f"{file} is not a checkpoint of this project: {key!r:.60} of its {name} is no tensor")


def choose(
    weights: str,
    averages: Mapping[str, dict[str, Tensor]],
    config: Mapping[str, Any],
    file: Path,
    step: int | None,
    only: str | None = None,
) -> tuple[str, dict[str, Tensor]]:
    """(label, averaged weights) for `raw`, for `ema` (the profile that previews used), for a profile's name, or for
    `ema@0.1`, the average of another width (`averages.py`).

    The label says which weights they are: `raw`, `ema:<profile>` or `ema@<width>`. For `raw` nothing is averaged.
    only: of a file with one set of weights its label; nothing stands beside them.
    Raises ValueError for weights that are not there, and cannot be rebuilt.
    """
    if only is not None:
        if weights in (only, only.removeprefix("ema:")) or (weights == "ema" and only.startswith("ema")):
            return only, {}
        raise ValueError(f"weights={weights} is not in {file}, which holds {only} alone")
    if weights == "raw":
        return "raw", {}
    if weights.startswith(WIDTH):
        try:
            width = float(weights.removeprefix(WIDTH))
        except ValueError:
            raise ValueError(f"weights={weights} is no width of an average: weights={WIDTH}0.1") from None
        return f"{WIDTH}{width:g}", of_width(width, step, averages, config, file)
    name = weights.removeprefix("ema:")
    if weights == "ema" and averages:
        own = config.get("ema")
        used = own.get("use") if isinstance(own, dict) else None
        name = used if isinstance(used, str) and used in averages else next(iter(averages))
    if name not in averages:
        there = ", ".join(["raw", *(["ema"] if averages else []), *averages])
        raise ValueError(f"weights={weights} is not in {file}; there are: {there}")
    return f"ema:{name}", averages[name]


def under(name: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of one part, under its own names."""
    prefix = f"{name}."
    return {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
