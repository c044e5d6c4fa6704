"""First weights of a new run from another run's checkpoint (`init_from=runs/other`)."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch import nn

from dit.engine.callbacks.checkpoint import FOLDER, LAST

log = logging.getLogger(__name__)


def load(module: nn.Module, source: str, weights: str) -> None:
    """Copies a checkpoint's weights into `module`, all of them or none.

    Args:
        source: a run directory or a checkpoint file.
        weights: `raw`, or the name of an EMA profile in that checkpoint.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: no such weights, or keys or shapes that do not match; the first one is named.
    """
    path = find(source)
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch raises several kinds for what is cut off or no checkpoint at all
        raise ValueError(f"init_from={source}: {path} is damaged or no checkpoint; give another one") from error
    found = dict(checkpoint["state_dict"])  # buffers and frozen parameters are here only
    if weights != "raw":
        if weights not in checkpoint["ema"]:
            raise ValueError(f"init_weights={weights} is not in {path}; it has raw, {', '.join(checkpoint['ema'])}")
        found |= checkpoint["ema"][weights]
    own = module.state_dict()
    missing = sorted(key for key in own if key not in found and _trained(module, key))
    unknown = sorted(key for key in found if key not in own)
    wrong = sorted(key for key in found if key in own and found[key].shape != own[key].shape)
    if missing or unknown:
        key, where = (missing[0], path) if missing else (unknown[0], "this network")
        raise ValueError(
            f"init_from={source} does not fit: {key} is not in {where} ({len(missing + unknown)} keys differ)"
        )
    if wrong:
        key = wrong[0]
        raise ValueError(
            f"init_from={source} does not fit: {key} is {tuple(found[key].shape)} there, {tuple(own[key].shape)} here"
        )
    module.load_state_dict(found, strict=False)
    log.info("first weights: %s of %s, step %d", weights, path, checkpoint["global_step"])


def find(source: str) -> Path:
    """The checkpoint file of a run directory, or the file itself."""
    path = Path(source)
    candidate = path / FOLDER / LAST if path.is_dir() else path
    if not candidate.is_file():
        raise FileNotFoundError(f"no checkpoint at {candidate}; give a run directory or a .ckpt file")
    return candidate


def _trained(module: nn.Module, key: str) -> bool:
    return any(p.requires_grad for p in getattr(module, key.split(".")[0]).parameters())
