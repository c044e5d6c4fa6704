"""A network of ours as a folder: its config in net.yaml, and its weights, under our names, in net.safetensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml  # type: ignore[import-untyped]
from torch import Tensor

from dit import folders
from dit.config.renamed import current
from dit.foreign import Refused, check_counts, read_yaml
from dit.interop import files

CONFIG = "net.yaml"
WEIGHTS = "net.safetensors"
HEAD = "# Its weights are in net.safetensors; `python train.py init_from=FOLDER` starts from this folder.\n"


@dataclass(frozen=True)
class Native:
    """An opened folder of ours. config: of the network. weights: each is read when it is asked for."""

    folder: Path
    config: dict[str, Any]
    weights: folders.Weights

    @property
    def shapes(self) -> dict[str, torch.Size]:
        return {key: tensor.shape for key, tensor in self.weights.empty().items()}


def is_folder(folder: Path) -> bool:
    return (folder / CONFIG).is_file()


def open_folder(folder: Path) -> Native:
    """Opens a folder of ours. Raises ValueError or FileNotFoundError, naming the file, when it is damaged."""
    config = current(read_yaml(folder / CONFIG))
    if "_target_" not in config:
        raise ValueError(f"{folder / CONFIG} is no config of a network: it has no _target_")
    weights = folders.Weights(folder, WEIGHTS)
    try:
        check_counts(config, "", len(weights))
    except Refused as error:
        raise ValueError(f"{folder / CONFIG}: {error}") from None
    return Native(folder, config, weights)


def write(
    folder: str | Path,
    config: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    shard_bytes: int = files.SHARD_BYTES,
) -> None:
    """Writes a network's resolved config and weights. Raises FileExistsError when the folder holds anything."""
    text = HEAD + yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
    plain = {key: tensor.contiguous() for key, tensor in weights.items()}
    files.write_folder(folder, {CONFIG: text}, plain, WEIGHTS, {"format": "pt"}, shard_bytes)
