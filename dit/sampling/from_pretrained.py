"""The parts of a pipeline out of a published model's folder."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from dit.diffusion.experts import ByLevel
from dit.interop.diffusers import Stored
from dit.interop.presets import build_empty
from dit.interop.published import Published, open_pipeline
from dit.sampling.checkpoint import Checkpoint
from dit.sampling.from_checkpoint import assembled
from dit.sampling.origin import Origin
from dit.sampling.runtime import pick_device

log = logging.getLogger(__name__)


def parts_of_published(
    folder: str | Path,
    device: str,
    guidance_scale: float | None,
    causal_block: int | None,
    trusted: Sequence[str],
    changes: Mapping[str, Any],
) -> dict[str, Any]:
    """What `Pipeline` is made of. Arguments and errors are those of `Pipeline.from_pretrained`."""
    published = open_pipeline(folder, guidance_scale=guidance_scale, causal_block=causal_block)
    file = Checkpoint(published.folder, {}, {}, published.config, classes=published.classes)
    where = pick_device(device)
    net: nn.Module = _network(published, published.network)
    if published.low_noise is not None:
        assert published.boundary is not None
        net = ByLevel(net, _network(published, published.low_noise), published.boundary)
    codec, text = (file.part(name, trusted=trusted) for name in ("codec", "text"))
    made_of = {"path": str(folder), "guidance_scale": guidance_scale, "causal_block": causal_block}
    origin = Origin(published.class_name, made_of, per_frame=file.per_frame(trusted))
    log.info("%s of %s on %s", published.class_name, folder, where)
    one = net.high if isinstance(net, ByLevel) else net
    parts = assembled(file, net, codec, text, where, trusted, changes)
    return {**parts, "signals": file.signals(one, text, trusted), "origin": origin}


def _network(published: Published, stored: Stored) -> nn.Module:
    net = build_empty(published.config["net"])
    net.load_state_dict(dict(stored.tensors()), strict=True, assign=True)
    return net.eval()
