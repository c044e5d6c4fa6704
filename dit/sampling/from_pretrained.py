"""The parts of a pipeline out of a published model's folder."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dit.interop.presets import build_empty
from dit.interop.published import open_pipeline
from dit.sampling.checkpoint import Checkpoint
from dit.sampling.from_checkpoint import assembled
from dit.sampling.origin import Origin
from dit.sampling.runtime import pick_device

log = logging.getLogger(__name__)


def parts_of_published(
    folder: str | Path, device: str, guidance_scale: float | None, trusted: Sequence[str], changes: Mapping[str, Any]
) -> dict[str, Any]:
    """What `Pipeline` is made of. Arguments and errors are those of `Pipeline.from_pretrained`."""
    published = open_pipeline(folder, guidance_scale=guidance_scale)
    file = Checkpoint(published.folder, {}, {}, published.config)
    where = pick_device(device)
    net = build_empty(published.config["net"])
    net.load_state_dict(dict(published.network.tensors()), strict=True, assign=True)
    codec, text = (file.part(name, trusted=trusted) for name in ("codec", "text"))
    origin = Origin(
        published.class_name, {"path": str(folder), "guidance_scale": guidance_scale}, per_frame=file.per_frame(trusted)
    )
    log.info("%s of %s on %s", published.class_name, folder, where)
    parts = assembled(file, net.eval(), codec, text, where, trusted, changes)
    return {**parts, "signals": file.signals(net, text, trusted), "origin": origin}
