"""What takes long to compute, kept on disk by name: one safetensors file each, shared by runs and processes.

So features of prompts are kept (`dit/text/pretrained.py`), and those of clips that are measured.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import uuid
import zlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dit.writing import write_weights

log = logging.getLogger(__name__)
CHECKSUM = "checksum"


class FeatureStore:
    """Tensors by name, as a prompt, under `folder/<mark>/`.

    Several processes may read and write at once: a file appears whole or not at all, and whoever comes second writes
    the same. A file that is damaged counts as absent, and one that cannot be written is left out; both are said, the
    second once.

    Args:
        folder: made when the first tensors are kept.
        mark: of all that decides the tensors beside the name; another one shares nothing with this.
    """

    def __init__(self, folder: Path, mark: str) -> None:
        self.folder = folder / mark
        self.has_failed = False

    def file(self, name: str) -> Path:
        hashed = hashlib.sha256(name.encode("utf-8", errors="surrogatepass")).hexdigest()
        return self.folder / hashed[:2] / f"{hashed[2:34]}.safetensors"

    def read(self, name: str) -> dict[str, Tensor] | None:
        """The tensors of a name, on the CPU; None where there are none, or none that are whole."""
        file = self.file(name)
        if not file.is_file():
            return None
        try:
            with safe_open(file, framework="pt") as opened:
                tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
                said = (opened.metadata() or {}).get(CHECKSUM)
            why = None if said == checksum(tensors) else "another checksum"
        except (SafetensorError, OSError) as error:
            why = " ".join(str(error).split())[:80]
        if why is None:
            return tensors
        log.warning("%s is damaged (%s): it is made anew", file, why)
        return None

    def write(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        kept = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
        file = self.file(name)
        part = file.with_name(f".{file.stem}.{uuid.uuid4().hex[:12]}.part")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_weights(kept, part, {CHECKSUM: checksum(kept)})
            os.replace(part, file)
        except (SafetensorError, OSError) as error:
            if not self.has_failed:
                self.has_failed = True
                log.warning("%s cannot be written (%s): this goes on without", file, " ".join(str(error).split())[:80])
        finally:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)


def checksum(tensors: Mapping[str, Tensor]) -> str:
    """A checksum of tensors: of their names, shapes, dtypes and bits."""
    mark = 0
    for key, tensor in sorted(tensors.items()):
        mark = zlib.crc32(f"{key} {tuple(tensor.shape)} {tensor.dtype}".encode(), mark)
        mark = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, mark)
    return f"{mark:08x}"
