"""The parts of a pipeline out of a checkpoint, or of two that share the noise levels."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dit.checkpoint import entries
from dit.diffusion.experts import ByLevel
from dit.onednn import accelerate
from dit.sampling.checkpoint import Checkpoint
from dit.sampling.experts import pair
from dit.sampling.origin import Origin, Trained
from dit.sampling.parts import Parts, net_dtype, plain
from dit.sampling.parts import changed as with_parts
from dit.sampling.placement import Tensors, Unread, can_be_read
from dit.sampling.runtime import own_precision, pick_device, warn_of_precision
from dit.sampling.settings import Settings, Shape, changed

log = logging.getLogger(__name__)


def parts_of_checkpoint(
    run_or_file: str | Path,
    weights: str,
    device: str,
    low_noise_ckpt: str | Path | None,
    boundary: float | None,
    trusted: Sequence[str],
    folders: Mapping[str, str],
    parts: Parts,
    changes: Mapping[str, Any],
) -> dict[str, Any]:
    """What `Pipeline` is made of. Arguments and errors are those of `Pipeline.from_checkpoint`."""
    parts = plain(parts)
    file = with_parts(Checkpoint.load(run_or_file).moved(folders), parts)
    label, averaged = file.choose(weights)
    where = pick_device(device)
    codec, text = (file.part(name, trusted=trusted) for name in ("codec", "text"))
    file.fill({"codec": codec, "text": text}, averaged)
    waits = hasattr(text, "remember") and changes.get("offload_text") is not False
    networks = _Networks(trusted, waits, net_dtype(parts))
    net = networks.of(file, averaged)
    signals = file.signals(net, text, trusted)
    low = None if low_noise_ckpt is None else with_parts(Checkpoint.load(low_noise_ckpt).moved(folders), parts)
    if low is not None:
        net = pair(file, low, net, weights, boundary, trusted, networks.of)
    elif boundary is not None:
        raise ValueError(f"boundary={boundary} lies between two networks, and here is one: give low_noise_ckpt=RUN")
    trained = Trained(
        Shape(**file.clip()),
        file.part("sampling", "schedule", trusted=trusted),
        file.saw_given(),
        file.interval(trusted) if low is None else (0.0, 1.0),
    )
    origin = Origin(label, _source(file), {} if low is None else _source(low), trained, file.per_frame(trusted), parts)
    log.info("%s weights of %s on %s", label, file.file, where)
    unread = Unread(where, networks.unread, networks.dtype) if networks.unread else None
    made = assembled(file, net, codec, text, where, trusted, changes, unread)
    return {**made, "signals": signals, "origin": origin}


class _Networks:
    """Networks of checkpoints, with weights in `dtype` (None: as they were saved).

    waits: whether a large text encoder comes before them: their weights are then read later (`unread`), but for those
    of a network that the user's own classes make, or that holds more than it saves.
    """

    def __init__(self, trusted: Sequence[str], waits: bool, dtype: torch.dtype | None) -> None:
        self.trusted, self.waits, self.dtype = trusted, waits and not trusted, dtype
        self.unread: dict[nn.Module, Tensors] = {}

    def of(self, file: Checkpoint, averaged: Mapping[str, Tensor]) -> nn.Module:
        """That of a file, whose weights and averages fit it."""
        if self.waits:
            with torch.device("meta"):
                net: nn.Module = file.network()
            if can_be_read(net):
                self.unread[net] = file.weights_of("net", net, averaged).items
                return net if self.dtype is None else net.to(self.dtype)
        net = file.network(self.trusted)
        file.fill({"net": net}, averaged)
        return net if self.dtype is None else net.to(self.dtype)


def assembled(
    file: Checkpoint,
    net: Any,
    codec: Any,
    text: nn.Module | None,
    where: torch.device,
    trusted: Sequence[str],
    changes: Mapping[str, Any],
    unread: Unread | None = None,
) -> dict[str, Any]:
    """Parts with weights on their device, the parts of the sampler that a config names, and what changes in them.

    unread: what brings weights of the network that are not there yet.
    """
    accelerate(net)
    own = {name: file.part("sampling", name, trusted=trusted) for name in ("schedule", "solver", "guidance")}
    settings, shape = changed(
        Settings(**own, num_steps=file.number("sampling", "num_steps"), offload_text=True),
        Shape(**file.clip()),
        changes,
    )
    warn_of_precision(settings.precision or own_precision(net), where)
    return {
        "net": placed(net, where, settings.offload_experts, unread),
        "unread": unread,
        "codec": placed(codec, where),
        "text": placed(text, where),
        "path": file.part("path", trusted=trusted),
        "prediction": file.part("prediction", trusted=trusted),
        "given": file.given(trusted),
        "settings": settings,
        "shape": shape,
    }


def placed(
    module: nn.Module | None, where: torch.device, take_turns: bool = False, unread: Unread | None = None
) -> nn.Module | None:
    """A module that is not trained, on a device. take_turns: of two networks only one is there at a time.

    unread: what brings its weights there later.
    """
    if module is None:
        return None
    module.requires_grad_(False)
    if isinstance(module, ByLevel):
        module.read = unread.read if unread and all(net in unread.tensors for net in module.networks) else None
        if take_turns:
            return module.take_turns(where)
        if unread is not None:
            return module.at_home(where)
    return module if unread is not None else module.to(where)


def _source(file: Checkpoint) -> dict[str, Any]:
    cards = {entries.DATA_CARDS.name: list(file.data_cards)} if file.data_cards else {}
    return {"path": str(file.file), "step": file.step, **cards}
