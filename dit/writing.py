"""Safetensors files that are written as all other files are: who may read them is the umask's to say."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor


def write_weights(weights: Mapping[str, Tensor], file: Path, metadata: Mapping[str, str]) -> None:
    """Writes tensors, which share no memory, to a safetensors file.

    safetensors 0.8.0 itself gives the file to its owner alone (mode 0600): nobody else on a cluster could read what is
    passed on. Raises SafetensorError or OSError when it cannot be written.
    """
    file.touch()
    mode = file.stat().st_mode
    save_file(dict(weights), file, metadata=dict(metadata))
    file.chmod(mode & 0o777)
