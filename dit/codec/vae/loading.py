"""An autoencoder out of the checkpoint of the run that trained it. Nothing in the file runs, as in any of a stranger's
(docs/security.md)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dit.checkpoint import entries
from dit.checkpoint.opened import check_weights, choose, find, read, under
from dit.codec.vae.network import Autoencoder
from dit.foreign import Kind, Refused, build, check_counts, check_plain, shown

KIND = Kind(Autoencoder, "dit.codec.vae")


def load(run_or_file: str, weights: str) -> tuple[Autoencoder, str]:
    """The autoencoder, in evaluation mode, and a fingerprint of its settings and weights. Within `torch.device("meta")`
    it has no values.

    run_or_file: a run directory (its last checkpoint) or a checkpoint file. weights: `ema` (the profile that previews
    used), `raw`, a profile's name, or `ema@0.1`.

    Raises FileNotFoundError or ValueError, in one line that begins with the key: nothing there, damaged, the run of
    something else, or weights that do not fit.
    """
    try:
        return _load(find(run_or_file), weights)
    except (FileNotFoundError, ValueError) as error:
        raise type(error)(f"codec.ckpt={run_or_file}: {error}") from None


def _load(file: Path, weights: str) -> tuple[Autoencoder, str]:
    content = read(file, (entries.WEIGHTS, entries.CONFIG), "take another one of the run, or copy it again")
    config, raw, averages = entries.CONFIG.of(content), entries.WEIGHTS.of(content), entries.AVERAGES.of(content)
    for name, held in ((entries.CONFIG.name, config), (entries.AVERAGES.name, averages)):
        if not isinstance(held, dict):
            raise ValueError(f"{file} is not a checkpoint of this project: its {name} is no mapping")
    node: Any = config.get("net")
    target = node.get("_target_") if isinstance(node, dict) else None
    if target != f"{Autoencoder.__module__}.{Autoencoder.__qualname__}":
        raise ValueError(f"{file} is of {shown(target)}, and no autoencoder: train one with experiment=vae_world")
    check_weights(file, entries.WEIGHTS.name, raw)
    step = entries.STEP.of(content) if entries.STEP.is_in(content) else None
    averaged = choose(weights, averages, config, file, step, entries.ONLY.of(content))[1]
    check_weights(file, weights, averaged)
    state = {**under("net", raw), **under("net", averaged)}
    is_empty = torch.empty(0).is_meta
    try:
        check_plain(node, "net")  # before it is gone through
        check_counts(node, "net", len(state))
        with torch.device("meta"):
            net: Autoencoder = build(node, KIND, "net")
    except Refused as error:
        raise ValueError(f"{file}: {error}") from error.__cause__
    _check(file, net.state_dict(), state)
    if not is_empty:
        net.load_state_dict({key: value.clone() for key, value in state.items()}, strict=True, assign=True)
    return net.eval().requires_grad_(False), _fingerprint(node, state)


def _check(file: Path, own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    """Raises ValueError, naming the file, unless it holds just the weights of the network of its config."""
    for key in sorted(own.keys() ^ state.keys()):
        where = "the file" if key in own else "the network"
        raise ValueError(f"{file} does not fit its own config: {key} is not in {where}")
    for key, value in state.items():
        if value.shape != own[key].shape or value.dtype != own[key].dtype:
            raise ValueError(
                f"{file}: {key} is {value.dtype} {tuple(value.shape)}, needed {own[key].dtype} {tuple(own[key].shape)}"
            )


def _fingerprint(node: Mapping[str, object], state: Mapping[str, Tensor]) -> str:
    """A hash of settings and weights, 16 hexadecimal digits: equal for autoencoders that compute the same."""
    mark = hashlib.sha256(repr(sorted(node.items())).encode())
    for key, value in sorted(state.items()):
        mark.update(key.encode())
        mark.update(value.contiguous().view(-1).view(torch.uint8).numpy().data)
    return mark.hexdigest()[:16]
