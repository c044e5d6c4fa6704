"""The parts of a pipeline out of a published model's folder."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dit.diffusion.experts import ByLevel
from dit.interop.diffusers import Stored
from dit.interop.presets import build_empty
from dit.interop.published import Asked, open_pipeline
from dit.sampling.checkpoint import Checkpoint
from dit.sampling.from_checkpoint import assembled
from dit.sampling.origin import Origin
from dit.sampling.parts import Parts, changed, net_dtype, plain
from dit.sampling.placement import Unread
from dit.sampling.runtime import pick_device

log = logging.getLogger(__name__)


def parts_of_published(
    folder: str | Path,
    device: str,
    asked: Asked,
    trusted: Sequence[str],
    parts: Parts,
    changes: Mapping[str, Any],
) -> dict[str, Any]:
    """What `Pipeline` is made of. Arguments and errors are those of `Pipeline.from_pretrained`."""
    published = open_pipeline(folder, asked=asked)
    parts = plain(parts)
    file = changed(Checkpoint(published.folder, {}, {}, published.config, classes=published.classes), parts)
    where = pick_device(device)
    dtype = net_dtype(parts)
    net = _empty(published.config["net"], published.network, dtype)
    unread = {net: published.network.tensors}
    if published.low_noise is not None:
        assert published.boundary is not None
        low = _empty(published.config["net"], published.low_noise, dtype)
        unread[low] = published.low_noise.tensors
        net = ByLevel(net, low, published.boundary)
    codec, text = (file.part(name, trusted=trusted) for name in ("codec", "text"))
    made_of = {"path": str(folder), **asdict(asked)}
    origin = Origin(
        published.class_name, made_of, per_frame=file.per_frame(trusted), parts=parts,
        takes_given=published.takes_given, negative_prompt=published.negative_prompt,
    )  # fmt: skip
    log.info("%s of %s on %s", published.class_name, folder, where)
    one = net.high if isinstance(net, ByLevel) else net
    made = assembled(file, net, codec, text, where, trusted, changes, Unread(where, unread, dtype))
    return {**made, "signals": file.signals(one, text, trusted), "origin": origin}


def _empty(config: dict[str, Any], stored: Stored, dtype: torch.dtype | None) -> nn.Module:
    """A network that has shapes and dtypes, and no weights yet."""
    return build_empty(config).to(dtype or stored.weights.dtype()).eval()
