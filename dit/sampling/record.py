"""How a sample was made, as plain values that stand beside it, and the way back: a request that makes it again."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def as_config(thing: Any) -> Any:
    """A part of the sampler as the config that builds it: `_target_` and its arguments. A tensor is named by its shape
    and a hash of its values: it cannot be built again from that, only recognised."""
    if is_dataclass(thing) and not isinstance(thing, type):
        kind = type(thing)
        arguments = {field.name: as_config(getattr(thing, field.name)) for field in fields(thing)}
        return {"_target_": f"{kind.__module__}.{kind.__qualname__}", **arguments}
    if isinstance(thing, Tensor):
        values = thing.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        return {"shape": list(thing.shape), "sha256": hashlib.sha256(values).hexdigest()}
    if isinstance(thing, Mapping):
        return {str(key): as_config(value) for key, value in thing.items()}
    if isinstance(thing, (list, tuple)):
        return [as_config(value) for value in thing]
    return os.fspath(thing) if isinstance(thing, os.PathLike) else thing


def fingerprint(file: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's content."""
    with Path(file).open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
