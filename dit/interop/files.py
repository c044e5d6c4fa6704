"""Writes folders as diffusers saves models: config.json and safetensors, whole or in shards. `dit/folders.py` reads."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from dit.folders import CONFIG, INDEX_SUFFIX, WEIGHTS
from dit.writing import write_weights

SHARD_BYTES = 10 * 10**9


def write(
    folder: str | Path, config: Mapping[str, Any], weights: Mapping[str, Tensor], shard_bytes: int = SHARD_BYTES
) -> None:
    """Writes config.json and safetensors as diffusers does; see `write_folder`."""
    write_folder(folder, {CONFIG: json.dumps(config, indent=2) + "\n"}, weights, WEIGHTS, {"format": "pt"}, shard_bytes)


def write_folder(
    folder: str | Path,
    texts: Mapping[str, str],
    weights: Mapping[str, Tensor],
    name: str,
    metadata: Mapping[str, str],
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes texts (file name -> content) and safetensors, in shards when they are larger than `shard_bytes`.

    The result is whole or absent (`whole`). Raises as `check_free` and `writing`.
    """
    with whole(folder) as part:
        _fill(part, texts, weights, name, metadata, shard_bytes)


@contextmanager
def whole(folder: str | Path) -> Iterator[Path]:
    """A hidden folder beside `folder` to write into, which is renamed to it at the end; what fails leaves nothing.

    Raises as `check_free` and `writing`.
    """
    check_free(folder)
    folder = Path(folder).resolve()  # a link stays one, and `.` has a name
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = folder.with_name(f".{folder.name}-{uuid.uuid4().hex[:12]}")
        part.mkdir()
        try:
            yield part
            if folder.exists():
                folder.rmdir()
            os.replace(part, folder)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise


def _fill(
    part: Path,
    texts: Mapping[str, str],
    weights: Mapping[str, Tensor],
    name: str,
    metadata: Mapping[str, str],
    shard_bytes: int,
) -> None:
    shards = _shards(weights, shard_bytes)
    names = [name] if len(shards) == 1 else [_shard_name(name, i, len(shards)) for i in range(len(shards))]
    for file, keys in zip(names, shards, strict=True):
        write_weights({key: weights[key] for key in keys}, part / file, metadata)
    if len(shards) > 1:
        placed = {key: file for file, keys in zip(names, shards, strict=True) for key in keys}
        total = sum(tensor.numel() * tensor.element_size() for tensor in weights.values())
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(placed.items()))}
        (part / (name + INDEX_SUFFIX)).write_text(json.dumps(index, indent=2) + "\n")
    for file, text in texts.items():
        (part / file).write_text(text, encoding="utf-8")


@contextmanager
def writing(target: Path) -> Iterator[None]:
    """Within, an error of writing, as of a full disk, becomes a ValueError of one line that names `target`."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{target} cannot be written: {' '.join(str(error).split())}") from None


def check_free(folder: str | Path) -> None:
    """Raises FileExistsError when the folder holds anything: nothing is ever overwritten."""
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} is there already; give another folder or remove it")


def _shards(weights: Mapping[str, Tensor], limit: int) -> list[list[str]]:
    """Keys in their order, in groups of at most `limit` bytes; a larger tensor is a group by itself."""
    shards: list[list[str]] = [[]]
    size = 0
    for key, tensor in weights.items():
        bytes_ = tensor.numel() * tensor.element_size()
        if shards[-1] and size + bytes_ > limit:
            shards.append([])
            size = 0
        shards[-1].append(key)
        size += bytes_
    return shards


def _shard_name(name: str, index: int, count: int) -> str:
    stem, suffix = name.rsplit(".", 1)
    return f"{stem}-{index + 1:05d}-of-{count:05d}.{suffix}"
