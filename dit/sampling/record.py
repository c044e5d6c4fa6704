"""How a sample was made, as plain values that stand beside it (the facts), and the way back: `read`.

Facts come from anyone, so parts are built from them as from a checkpoint's config, and files are known by their hash.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dit.checkpoint.files import FOLDER, step_name
from dit.checkpoint.opened import missing
from dit.encoders import fingerprint as of_files
from dit.folders import PIPELINE, sha256
from dit.foreign import Kind, build
from dit.sampling.checkpoint import KINDS
from dit.sampling.request import Request
from dit.sampling.settings import SHAPE
from dit.sampling.tasks import Task

OWN = ("prompt", "negative_prompt", "seed", "label", "signals")  # facts of one sample alone: a `Request`
PARTS = {
    **{name: KINDS[f"sampling.{name}"] for name in ("schedule", "solver", "guidance")},
    "task": Kind(Task, "dit.sampling"),  # with how an image is fitted, `dit.sampling.fit`
}
SETTINGS = ("weights", *SHAPE, "num_steps", "context_level", "precision")
NEEDED = (*OWN[:4], *SETTINGS, "batch", "checkpoint", "files")


def as_config(thing: Any) -> Any:
    """A part of the sampler as the config that builds it: `_target_` and its arguments. A tensor or image is named by
    its shape and a hash of its values: it cannot be built again from that, only recognised."""
    if is_dataclass(thing) and not isinstance(thing, type):
        kind = type(thing)
        arguments = {field.name: as_config(getattr(thing, field.name)) for field in fields(thing)}
        return {"_target_": f"{kind.__module__}.{kind.__qualname__}", **arguments}
    if isinstance(thing, Tensor):
        values = thing.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        return {"shape": list(thing.shape), "sha256": hashlib.sha256(values).hexdigest()}
    if isinstance(thing, (np.ndarray, Image.Image)):
        return as_config(torch.from_numpy(np.array(thing)))
    if isinstance(thing, Mapping):
        return {str(key): as_config(value) for key, value in thing.items()}
    if isinstance(thing, (list, tuple)):
        return [as_config(value) for value in thing]
    return os.fspath(thing) if isinstance(thing, os.PathLike) else thing


def fingerprint(file: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's content; of a published model's folder that of its files, of large ones in samples."""
    if Path(file).is_dir():
        return of_files(sorted(each for each in Path(file).rglob("*") if each.is_file()))
    return sha256(Path(file))


def files_of(task: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """The files that a task's config names: argument (`image`, `conditions.0.image`) -> path and fingerprint."""
    there = {name: Path(text) for name, text in _texts(task) if Path(text).is_file()}
    return {name: {"path": str(path), "sha256": fingerprint(path)} for name, path in there.items()}


def _texts(value: Any, *keys: str) -> Iterator[tuple[str, str]]:
    """All texts within a config, with their place."""
    if isinstance(value, str):
        yield ".".join(keys), value
    held = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for key, each in held:
        yield from _texts(each, *keys, str(key))


def _with_files(task: Any, files: Mapping[str, str]) -> Any:
    """A task's config with these in the places of its files."""
    made = copy.deepcopy(task)
    for name, file in files.items():
        *path, last = name.split(".")
        node = made
        for key in path:
            node = node[int(key)] if isinstance(node, list) else node[key]
        node[int(last) if isinstance(node, list) else last] = file
    return made


def facts(common: Mapping[str, Any], batches: Sequence[Sequence[Request]]) -> list[dict[str, Any]]:
    """The facts of each sample.

    common: what all samples share. A sample's facts hold its whole batch, with the sample's position in it: products of
    another size would round otherwise, and its last bits would be others.
    """
    made = []
    for batch in batches:
        listed = [[as_config(getattr(each, name)) for name in OWN] for each in batch]
        for position, row in enumerate(listed):
            own = dict(zip(OWN, row, strict=True))
            made.append({**own, **common, "batch": {"position": position, "samples": listed}})
    return made


@dataclass(frozen=True)
class Again:
    """A sample that is to be made once more: the batch that it was in, its position there, the parts and settings.

    low_noise_ckpt, boundary: of a second network for the low noise levels, if there was one.
    """

    batch: list[Request]
    position: int
    parts: dict[str, Any]
    settings: dict[str, Any]
    checkpoint: Path
    facts: dict[str, Any]
    low_noise_ckpt: Path | None = None
    boundary: float | None = None


def read(file: str, trusted: Sequence[str] = ()) -> Again:
    """What the JSON beside a sample says.

    Raises:
        FileNotFoundError: the JSON, the checkpoint or a file of the task is not there any more.
        ValueError: not facts of a sample, or a file is another one by now.
    """
    path = Path(file)
    if not path.is_file():
        raise missing(path, "again=")
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise ValueError(
            f"again={file} is not JSON; give the file beside a sample, such as samples/001/x.json"
        ) from None
    if not isinstance(said, dict) or (lacking := [name for name in (*NEEDED, *PARTS) if name not in said]):
        what = f"it has no {lacking[0]}" if isinstance(said, dict) else "it is no mapping"
        raise ValueError(f"again={file} does not say how a sample was made: {what}")
    if said.get("noise") is not None:
        raise ValueError(f"again={file} began with noise that was passed, which no file holds: pass it once more")
    try:
        task = _with_files(said["task"], {name: _same(each, path) for name, each in said["files"].items()})
        parts = {
            name: build(task if name == "task" else said[name], kind, name, trusted) for name, kind in PARTS.items()
        }
        batch = [_request(*row) for row in said["batch"]["samples"]]
        position = said["batch"]["position"]
        batch[position]
        checkpoint = Path(_same(said["checkpoint"], path))
        low, boundary = said.get("low_noise_ckpt"), said.get("boundary")
        low = None if low is None else Path(_same(low, path))
    except (TypeError, KeyError, IndexError, AttributeError) as error:
        raise ValueError(f"again={file} does not say how a sample was made ({error})") from None
    if boundary is not None and type(boundary) not in (int, float):
        raise ValueError(f"again={file} does not say how a sample was made (boundary={boundary!r} is no number)")
    return Again(batch, position, parts, {name: said[name] for name in SETTINGS}, checkpoint, said, low, boundary)


def _request(prompt: Any, negative_prompt: Any, seed: Any, label: Any, signals: Any = None) -> Request:
    signals = {} if signals is None else signals  # as facts of before have it
    texts = type(prompt) in (str, int) and type(negative_prompt) is str and (label is None or type(label) in (str, int))
    if not texts or type(seed) is not int or type(signals) is not dict:
        raise TypeError(f"batch.samples holds {[prompt, negative_prompt, seed, label, signals]}")
    return Request(prompt, negative_prompt, seed, label, signals)


def _same(known: Mapping[str, Any], beside: Path) -> str:
    """The file that facts name, if it is still the one of that time: where it was, or beside the facts."""
    path = Path(known["path"])
    places = [path, beside.parent / path.name]
    if isinstance(
        known.get("step"), int
    ):  # last.ckpt may have moved on: the step's own checkpoint; and that of the run
        steps = path.with_name(step_name(known["step"]))
        above = list(beside.resolve().parents)
        folder = above[min(2, len(above) - 1)] / FOLDER
        places += [steps, folder / path.name, folder / steps.name]
    there = [place for place in places if place.is_file() or (place / PIPELINE).is_file()]
    if not there:
        raise missing(places[0], "file of the sample")
    for place in there:
        if fingerprint(place) == known["sha256"]:
            return str(place)
    raise ValueError(f"{there[0]} is not the file that the sample was made from: its content has changed since")
