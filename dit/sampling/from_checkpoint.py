"""The parts of a pipeline out of a checkpoint, or of two that share the noise levels."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dit.diffusion.experts import ByLevel
from dit.onednn import accelerate
from dit.sampling.checkpoint import Checkpoint
from dit.sampling.experts import pair
from dit.sampling.origin import Origin, Trained
from dit.sampling.runtime import pick_device
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
    changes: Mapping[str, Any],
) -> dict[str, Any]:
    """What `Pipeline` is made of. Arguments and errors are those of `Pipeline.from_checkpoint`."""
    file = Checkpoint.load(run_or_file).moved(folders)
    label, averaged = file.choose(weights)
    where = pick_device(device)
    net, codec, text = file.network(trusted), *(file.part(name, trusted=trusted) for name in ("codec", "text"))
    file.fill({"net": net, "codec": codec, "text": text}, averaged)
    signals = file.signals(net, text, trusted)
    low = None if low_noise_ckpt is None else Checkpoint.load(low_noise_ckpt)
    if low is not None:
        net = pair(file, low, net, weights, boundary, trusted)
    elif boundary is not None:
        raise ValueError(f"boundary={boundary} lies between two networks, and here is one: give low_noise_ckpt=RUN")
    trained = Trained(
        Shape(**file.clip()),
        file.part("sampling", "schedule", trusted=trusted),
        file.saw_given(),
        file.interval(trusted) if low is None else (0.0, 1.0),
    )
    origin = Origin(label, _source(file), {} if low is None else _source(low), trained, file.per_frame(trusted))
    log.info("%s weights of %s on %s", label, file.file, where)
    return {**assembled(file, net, codec, text, where, trusted, changes), "signals": signals, "origin": origin}


def assembled(
    file: Checkpoint,
    net: Any,
    codec: Any,
    text: nn.Module | None,
    where: torch.device,
    trusted: Sequence[str],
    changes: Mapping[str, Any],
) -> dict[str, Any]:
    """Parts with weights on their device, the parts of the sampler that a config names, and what changes in them."""
    accelerate(net)
    own = {name: file.part("sampling", name, trusted=trusted) for name in ("schedule", "solver", "guidance")}
    settings, shape = changed(
        Settings(**own, num_steps=file.number("sampling", "num_steps"), offload_text=True),
        Shape(**file.clip()),
        changes,
    )
    return {
        "net": placed(net, where, settings.offload_experts),
        "codec": placed(codec, where),
        "text": placed(text, where),
        "path": file.part("path", trusted=trusted),
        "prediction": file.part("prediction", trusted=trusted),
        "settings": settings,
        "shape": shape,
    }


def placed(module: nn.Module | None, where: torch.device, take_turns: bool = False) -> nn.Module | None:
    """A module that is not trained, on a device. take_turns: of two networks only one is there at a time."""
    if module is None:
        return None
    module.requires_grad_(False)
    if take_turns and isinstance(module, ByLevel):
        return module.take_turns(where)
    return module.to(where)


def _source(file: Checkpoint) -> dict[str, Any]:
    return {"path": str(file.file), "step": file.step}
