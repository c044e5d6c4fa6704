"""Weights that stand still in a part that is trained, as those beside adapters: kept once for a run.

With them each checkpoint would be hundreds of times the size of what it has to say. They lie beside the checkpoints,
which name them by a fingerprint.
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
    """Leaves what is frozen in `module` beside the checkpoints of `run`, whole or not at all, before its first step.

    first: true on the first rank only, which writes; all need the fingerprint. Raises ValueError when it cannot.
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
    """Puts the frozen weights that belong to a checkpoint into `module`. One that holds them itself, as they did once,
    leaves the fingerprint open: they are to be written beside it.

    Raises FileNotFoundError or ValueError when they are not beside it, are of another run, or do not fit.
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
    """The same for the same names and bits, on whatever device."""
    mark = 0
    for key, tensor in sorted(weights.items()):
        mark = zlib.crc32(key.encode(), mark)
        mark = zlib.crc32(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data, mark)
    return f"{mark:08x}"
