"""Frozen weights, as those that adapters adapt: saved once for a run, in a file beside its checkpoints.

Each checkpoint would be many times larger with them. It names the file by a fingerprint of the weights.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dit.checkpoint import entries, files
from dit.engine.callbacks.checkpoint import write_whole
from dit.engine.module import VideoDiffusion
from dit.sampling.checkpoint import Checkpoint


def write(module: VideoDiffusion, run: Path, first: bool) -> None:
    """Writes the frozen weights of `module` into the file beside the checkpoints of `run`, whole or not at all.

    first: true on the first rank, which writes; the others need the fingerprint alone. Raises ValueError when the file
    cannot be written.
    """
    if not module.frozen:
        return
    weights = {key: tensor for key, tensor in module.state_dict().items() if key in module.frozen}
    module.frozen_mark = fingerprint(weights)
    if first:
        content: dict[str, Any] = {}
        entries.WEIGHTS.put(content, weights)
        entries.FINGERPRINT.put(content, module.frozen_mark)
        write_whole(content, run / files.FOLDER / files.FROZEN)


def restore(module: VideoDiffusion, last: Path) -> None:
    """Copies the frozen weights that belong to the checkpoint `last` into `module`.

    Older checkpoints hold these weights themselves. Then `module.frozen_mark` is None afterwards, and `write` has to
    write the file. Raises FileNotFoundError or ValueError where the weights are not beside the checkpoint, are of
    another run, or do not fit.
    """
    if not module.frozen:
        return
    saved = Checkpoint.load(last)
    own = module.state_dict()
    for key in sorted(module.frozen):
        if key not in saved.weights or saved.weights[key].shape != own[key].shape:
            shape = tuple(own[key].shape)
            raise ValueError(
                f"{last} has no {key} of shape {shape}; delete the run to start anew, or choose another name=..."
            )
        own[key].copy_(saved.weights[key])
    module.frozen_mark = saved.frozen


def fingerprint(weights: Mapping[str, Tensor]) -> str:
    """CRC-32 of names and bits, 8 hexadecimal digits; the same on every device."""
    mark = 0
    for key, tensor in sorted(weights.items()):
        mark = zlib.crc32(key.encode(), mark)
        mark = zlib.crc32(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data, mark)
    return f"{mark:08x}"
