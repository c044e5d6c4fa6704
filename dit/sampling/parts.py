"""What sampling may change in the parts that a model brings: how precisely they compute, how a codec cuts clips and
decodes them, and the noise on given frames.

A sample's bytes depend on it, so its facts hold what was changed, and `again=` hears it from there.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from dit.foreign import shown
from dit.sampling.checkpoint import Checkpoint
from dit.sampling.record import as_config

OWN = "own"  # as the run or the folder has it
KEYS = {
    "net": ("dtype",),
    "codec": ("dtype", "batch", "tiling", "decode_timestep", "decode_noise_scale"),
    "text": ("dtype",),
    "given": ("fresh",),
}
DTYPES = ("float32", "bfloat16", "float16", "float64")  # of weights; None: a text encoder's as they were saved
Parts = Mapping[str, Mapping[str, Any]]  # part -> key -> value


def asked(config: Mapping[str, Any]) -> Parts:
    """Those keys of configs/sample.yaml that are not `own`."""
    said = {part: {key: value for key, value in config[part].items() if value != OWN} for part in KEYS}
    return {part: values for part, values in said.items() if values}


def plain(parts: Any) -> dict[str, dict[str, Any]]:
    """The values as facts and configs hold them: an object is the node that builds it. Raises ValueError, in one line,
    for what is not of `KEYS`, and for a dtype that is none of `DTYPES`."""
    there = ", ".join(f"{part}.{key}" for part, keys in KEYS.items() for key in keys)
    for part, values in parts.items() if isinstance(parts, Mapping) else [(str(parts), None)]:
        if part not in KEYS or not isinstance(values, Mapping):
            raise ValueError(f"{shown(part)} is no part of which sampling changes values; there are {there}")
        for key, value in values.items():
            if key not in KEYS[part]:
                raise ValueError(f"{part}.{shown(key)[1:-1]} is not changed by sampling; there are {there}")
            if key == "dtype" and value not in DTYPES and (value, part) != (None, "text"):
                raise ValueError(f"{part}.dtype={shown(value)} is not one of {', '.join(DTYPES)}")
    return {part: {key: as_config(value) for key, value in values.items()} for part, values in parts.items()}


def changed(file: Checkpoint, parts: Parts) -> Checkpoint:
    """A checkpoint with these values in the config of its parts. Raises ValueError, in one line, for
    one that has no such value."""
    config = copy.deepcopy(file.config) if parts else file.config
    for name, values in parts.items():
        part = config.get(name)
        for key, value in values.items() if name != "net" else ():
            if not isinstance(part, dict) or key not in part:
                kind = shown(str(part.get("_target_")).rpartition(".")[2])[1:-1] if isinstance(part, dict) else "none"
                raise ValueError(
                    f"{name}.{key}={shown(value)} has nothing to change: the {name} of {file.file} is {kind}, which has"
                    f" no {key}; leave it out"
                )
            part[key] = value
    return replace(file, config=config)


def net_dtype(parts: Parts) -> torch.dtype | None:
    """That of the network's weights; None: as they are."""
    name = parts.get("net", {}).get("dtype")
    return None if name is None else getattr(torch, name)
