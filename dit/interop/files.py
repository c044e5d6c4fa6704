"""A folder as diffusers saves a model: config.json and safetensors, whole or in shards. Nothing is ever unpickled."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

CONFIG = "config.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"
INDEX = WEIGHTS + ".index.json"
SHARD_BYTES = 10 * 10**9


def read_config(folder: str | Path) -> dict[str, Any]:
    """config.json of a folder.

    Raises FileNotFoundError or ValueError, naming the file, when it is not there or is no config.
    """
    file = Path(folder) / CONFIG
    if not file.is_file():
        nested = sorted(path.parent.name for path in Path(folder).glob(f"*/{CONFIG}"))
        hint = f"; did you mean {Path(folder) / nested[0]}?" if nested else ""
        raise FileNotFoundError(f"{file} is not there: a folder saved by diffusers is wanted{hint}")
    return _json(file)


class Weights(Mapping[str, Tensor]):
    """The tensors of a folder, read one at a time when asked for.

    Raises FileNotFoundError when a shard is missing and ValueError when a file is no safetensors, naming it.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._file_of = self._places()
        self._open: dict[Path, Any] = {}

    def _places(self) -> dict[str, Path]:
        """Key -> file that holds it."""
        index, single = self.folder / INDEX, self.folder / WEIGHTS
        if index.is_file():
            placed: dict[str, str] = _json(index).get("weight_map") or {}
            for name in sorted(set(placed.values())):
                if Path(name).name != name:
                    raise ValueError(f"{index} names {name}, which is outside its folder")
                if not (self.folder / name).is_file():
                    raise FileNotFoundError(f"{self.folder / name} is missing; {index.name} lists it")
            held = {file: set(_keys(self.folder / file)) for file in set(placed.values())}
            for key, name in placed.items():
                if key not in held[name]:
                    raise ValueError(f"{self.folder / name} does not hold {key}, which {index.name} places there")
            return {key: self.folder / name for key, name in placed.items()}
        if single.is_file():
            return dict.fromkeys(_keys(single), single)
        pickled = sorted(path for suffix in ("bin", "pt", "pth", "ckpt") for path in self.folder.glob(f"*.{suffix}"))
        if pickled:
            raise ValueError(
                f"{pickled[0]} is a pickle, which may run code when it is read: save the model again with"
                " safe_serialization=True"
            )
        raise FileNotFoundError(f"{single} is not there, nor is {INDEX}")

    def file_of(self, key: str) -> Path:
        """The file that holds a key."""
        return self._file_of.get(key, self.folder / CONFIG)

    def __getitem__(self, key: str) -> Tensor:
        file = self._file_of[key]
        if file not in self._open:
            self._open[file] = safe_open(file, framework="pt")
        return self._open[file].get_tensor(key)

    def __contains__(self, key: object) -> bool:
        return key in self._file_of

    def __iter__(self) -> Iterator[str]:
        return iter(self._file_of)

    def __len__(self) -> int:
        return len(self._file_of)


def write(
    folder: str | Path, config: Mapping[str, Any], weights: Mapping[str, Tensor], shard_bytes: int = SHARD_BYTES
) -> None:
    """Writes config.json and safetensors, in shards when they are larger than `shard_bytes`.

    All or nothing: they are written beside and moved in at the end. Raises FileExistsError when the folder holds
    anything: it is never overwritten.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} is there already; give another folder or remove it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        shards = _shards(weights, shard_bytes)
        names = [WEIGHTS] if len(shards) == 1 else [_shard_name(i, len(shards)) for i in range(len(shards))]
        for name, keys in zip(names, shards, strict=True):
            save_file({key: weights[key] for key in keys}, part / name, metadata={"format": "pt"})
        if len(shards) > 1:
            placed = {key: name for name, keys in zip(names, shards, strict=True) for key in keys}
            total = sum(tensor.numel() * tensor.element_size() for tensor in weights.values())
            index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(placed.items()))}
            (part / INDEX).write_text(json.dumps(index, indent=2) + "\n")
        (part / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
        part.chmod(0o755)
        if folder.exists():
            folder.rmdir()
        os.replace(part, folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _shards(weights: Mapping[str, Tensor], limit: int) -> list[list[str]]:
    """Keys in their order, cut so that no group is larger than `limit` bytes, if no tensor is."""
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


def _shard_name(index: int, count: int) -> str:
    stem, suffix = WEIGHTS.rsplit(".", 1)
    return f"{stem}-{index + 1:05d}-of-{count:05d}.{suffix}"


def _keys(file: Path) -> list[str]:
    try:
        with safe_open(file, framework="pt") as opened:
            return list(opened.keys())
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file} is no whole safetensors file ({str(error).splitlines()[0][:100]})") from None


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is not JSON ({error})") from None
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds no mapping")
    return content
