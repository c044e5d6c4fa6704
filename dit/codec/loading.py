"""An autoencoder of diffusers from a folder: its class by name, settings and weights checked before memory is taken."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dit.codec.families import FAMILIES, Family
from dit.folders import CONFIG, Weights, needed, read_config

DEPTHS = re.compile(r"layers|num_\w*blocks")  # in the names of settings that count blocks
LONGEST = 64  # entries of a list of settings, one for each stage of an autoencoder
# Attention of an earlier diffusers: its layers' names then and now.
BEFORE = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}


def load(folder: Path, key: str) -> tuple[nn.Module, Family]:
    """The autoencoder in a folder as diffusers saves it, in evaluation mode, and its family. Within
    `torch.device("meta")` it is built, but none of its weights are read.

    key: of the setting that names the folder, for messages.

    Raises ValueError or FileNotFoundError, in one line: no config.json, a class that is not known here, a pickle,
    weights that are missing or of another shape, settings of which nothing can be built, diffusers not installed.
    """
    config = read_config(folder, kind="autoencoder", name="vae")
    name = config.get("_class_name")
    family = FAMILIES.get(name) if isinstance(name, str) else None
    if family is None:
        raise ValueError(
            f"{folder / CONFIG}: _class_name={name!s:.60} is not an autoencoder that this project knows; there are"
            f" {', '.join(FAMILIES)}"
        )
    with torch.device("cpu"):  # its module is imported now, and may hold tensors (Cosmos' wavelets)
        made = getattr(needed("diffusers", key), str(name))
    weights = Weights(folder)
    with naming(folder / CONFIG):
        _check_counts(config, len(weights))
        settings = {each: config[each] for each in inspect.signature(made.__init__).parameters if each in config}
        with torch.device("meta"):
            model = made(**settings)
    stored = _stored(model, weights)
    _check(model, stored, weights)
    if torch.empty(0).is_meta:
        return model.eval(), family
    if {key for key, _ in model.named_buffers()} - set(model.state_dict()):
        model = made(**settings)  # holds what is computed when it is built, and is in no file
    model.load_state_dict({mine: weights[theirs] for mine, theirs in stored.items()}, strict=True, assign=True)
    return model.eval(), family


def _stored(model: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, str]:
    """Name in the model -> name in the file, of all that is in the file and not left out by the class itself."""
    own, ignored = set(model.state_dict()), getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ()
    found = {}
    for theirs in weights:
        mine = theirs
        if mine not in own:
            for then, now in BEFORE.items():
                mine = mine.replace(then, now)
        if mine in own or not any(re.search(pattern, theirs) for pattern in ignored):
            found[mine] = theirs
    return found


def _check(model: nn.Module, stored: Mapping[str, str], weights: Weights) -> None:
    """Raises ValueError, naming the file, unless it holds just the weights of the model."""
    shapes, own = weights.empty(), model.state_dict()
    for name in [*(each for each in own if each not in stored), *(each for each in stored if each not in own)]:
        lacks = "is missing" if name in own else "is not in this autoencoder"
        raise ValueError(f"{weights.file_of(stored.get(name, name))}: {name} {lacks}: it does not fit its {CONFIG}")
    for name, tensor in own.items():
        there = shapes[stored[name]]
        if there.shape != tensor.shape or there.is_floating_point() != tensor.is_floating_point():
            raise ValueError(
                f"{weights.file_of(stored[name])}: {name} is {there.dtype} {tuple(there.shape)}, needed"
                f" {tensor.dtype} {tuple(tensor.shape)}"
            )


def _check_counts(config: Mapping[str, Any], tensors: int) -> None:
    """Raises ValueError for more blocks than there are tensors: building them would take hours before any is missed."""
    for name, value in config.items():
        values = value if isinstance(value, list) else [value]
        if not name.startswith("latents_") and len(values) > LONGEST:
            raise ValueError(f"{name} has {len(values)} entries; {LONGEST} are the most")
        most = max((each for each in values if isinstance(each, (int, float))), default=0)
        if DEPTHS.search(name) and most > tensors:
            raise ValueError(f"{name}={most}, but the folder holds {tensors} tensors: they are of another autoencoder")


@contextmanager
def naming(file: Path) -> Iterator[None]:
    """Says of settings that cannot be why, in a ValueError of one line: the values are anyone's."""
    try:
        yield
    except Exception as error:
        said = "".join(each if each.isprintable() else "?" for each in " ".join(str(error).split())[:300])
        raise ValueError(f"{file}: nothing can be built of it ({said or type(error).__name__})") from None
