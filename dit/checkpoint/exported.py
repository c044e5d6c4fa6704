"""A checkpoint to pass on: one set of weights in safetensors, whose header holds the config and all else that sampling
needs.

`model.safetensors` stands in a folder as `checkpoints/last.ckpt` stands in a run, and is read in its place. It cannot
train on (no optimizer, no data order), holds no code (docs/security.md), and takes a third of a checkpoint or less. The
header is YAML: JSON would turn the whole numbers that are keys of a config into texts.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml  # type: ignore[import-untyped]
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dit.checkpoint import entries
from dit.folders import read_file
from dit.foreign import plain_yaml
from dit.writing import write_weights

FILE = "model.safetensors"
HEADER = "dit_checkpoint"  # the key of the header's own text; files of others have none
SAID = (entries.ONLY, entries.STEP, entries.CLASSES, entries.DATA_CARDS, entries.CONFIG)


def is_exported(file: Path) -> bool:
    """Whether a file is one of these; its weights are not read."""
    if file.suffix != Path(FILE).suffix or not file.is_file():
        return False
    try:
        with safe_open(file, framework="pt") as opened:
            return HEADER in (opened.metadata() or {})
    except (SafetensorError, OSError):
        return False


def read(file: Path) -> dict[str, Any]:
    """The entries of a file. Raises ValueError, naming it, for one that is damaged or of somebody else."""
    weights, metadata = read_file(file)
    if HEADER not in metadata:
        raise ValueError(
            f"{file} is not a checkpoint of this project: its header has no {HEADER}; of another project's weights"
            " python scripts/convert_weights.py makes a folder that init_from= takes"
        )
    content = plain_yaml(metadata[HEADER], str(file))
    if not isinstance(entries.ONLY.of(content), str):
        raise ValueError(f"{file} is not a checkpoint of this project: it does not say which weights it holds")
    entries.WEIGHTS.put(content, weights)
    return content


def write(file: Path, weights: Mapping[str, Tensor], said: Mapping[str, Any], dtype: torch.dtype) -> None:
    """Writes weights, floats among them in `dtype`, and the entries of `SAID`.

    Raises ValueError for weights that `dtype` cannot hold.
    """
    held = {key: _held(key, value, dtype) for key, value in weights.items()}
    text = yaml.safe_dump({each.name: said[each.name] for each in SAID}, sort_keys=False, allow_unicode=True)
    write_weights(held, file, {"format": "pt", HEADER: text})


def _held(key: str, value: Tensor, dtype: torch.dtype) -> Tensor:
    made = value.detach().to(dtype) if value.is_floating_point() else value.detach()
    if made.is_floating_point() and not torch.equal(made.isfinite(), value.isfinite()):
        raise ValueError(f"{key} holds values up to {value.abs().max():.3g}, beyond {dtype}: take --dtype bfloat16")
    return made.clone(memory_format=torch.contiguous_format)  # safetensors refuses tensors that share memory
