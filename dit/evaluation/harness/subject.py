"""A checkpoint that is measured, and which checkpoints a user names."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from glob import glob
from pathlib import Path
from typing import Any

from dit.checkpoint import files
from dit.checkpoint.opened import in_run
from dit.runfiles import natural, runs_in, short_names
from dit.sampling.checkpoint import Checkpoint
from dit.sampling.guidance import Guidance
from dit.sampling.pipeline import Pipeline
from dit.sampling.schedule import Schedule
from dit.sampling.solvers import Solver


@dataclass(frozen=True)
class Sampler:
    """With which weights a checkpoint is measured, and how it is sampled. None: as it was trained and previewed.

    folders: of published parts, and of codecs that were trained, that lie elsewhere now: `text`, `codec` -> folder.
    """

    weights: str
    device: str
    batch_size: int
    schedule: Schedule | None
    solver: Solver | None
    guidance: Guidance | None
    num_steps: int | None
    trusted: Sequence[str]
    folders: Mapping[str, str]


class Subject:
    """A checkpoint that is measured.

    Attributes:
        path: a run directory or checkpoint file, as named.
        name: short, another one for each of those that are measured together.
        sampler: how it is asked.
    """

    def __init__(self, path: Path, name: str, sampler: Sampler) -> None:
        self.path, self.name, self.sampler = path, name, sampler

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """Config and weights; read when first asked for. Errors are `Checkpoint.load`'s."""
        return Checkpoint.load(self.path).moved(self.sampler.folders)

    @cached_property
    def pipeline(self) -> Pipeline:
        """What samples it, on its device; built when first asked for. Errors are `Pipeline.from_checkpoint`'s."""
        return self.sampled_with()

    def sampled_with(self, **changes: Any) -> Pipeline:
        """Another pipeline of the same weights. changes: `Pipeline.from_checkpoint`'s, as `num_frames=16`."""
        return Pipeline.from_checkpoint(self.path, **vars(self.sampler), **changes)

    @property
    def about(self) -> dict[str, Any]:
        """Of the weights: `file`, `step`, and which they are (`weights`)."""
        file = self.checkpoint
        return {"file": str(file.file), "step": file.step, "weights": self.pipeline.origin.weights}


def subjects(ckpt: str, sampler: Sampler) -> list[Subject]:
    """The checkpoints that `ckpt` names: a run or a file; a list of them, `[runs/a,runs/b]`; a pattern, `runs/demo-*`;
    or a folder that holds runs, as that of a sweep.

    Raises FileNotFoundError, in one line, for a pattern or a folder in which there is none. Whether a single one can be
    read turns out when it is.
    """
    paths = list(dict.fromkeys(_named(ckpt)))
    names = short_names([Path(*(part for part in path.parts if part != files.FOLDER)) for path in paths])
    return [Subject(path, name, sampler) for path, name in zip(paths, names, strict=True)]


def _named(text: str) -> list[Path]:
    path = Path(text)
    if path.is_dir() and in_run(path) is None and (inside := runs_in(path)):
        return inside
    if path.exists():
        return [path]
    if text.startswith("[") and text.endswith("]"):
        named = [each for part in _listed(text) for each in _named(part)]
        if not named:
            raise FileNotFoundError(f"ckpt={text} names no checkpoint: ckpt=[runs/a,runs/b]")
        return named
    if any(sign in text for sign in "*?"):
        found = sorted(map(Path, glob(text)), key=lambda path: [natural(Path(part)) for part in path.parts])
        if not found:
            raise FileNotFoundError(f"ckpt={text} matches nothing that is there")
        return [each for one in found for each in _named(str(one))]
    return [path]


def _listed(text: str) -> list[str]:
    """`[a,b]`, or a JSON list of texts, for paths with commas."""
    try:
        listed = json.loads(text)
    except ValueError:
        listed = text[1:-1].split(",")
    return [str(each).strip() for each in listed if str(each).strip()]
