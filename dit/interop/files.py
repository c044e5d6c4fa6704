"""A folder as diffusers saves a model: config.json and safetensors, whole or in shards. Nothing is ever unpickled."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

CONFIG = "config.json"
PIPELINE = "model_index.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"
INDEX_SUFFIX = ".index.json"
FLOATS = ("F64", "F32", "F16", "BF16")  # of which weights are; smaller ones are quantised
PICKLES = ("bin", "pt", "pth", "ckpt")
SHARD_BYTES = 10 * 10**9
SHARD = re.compile(r"-\d+-of-\d+\.")  # in the names of shards


def read_config(folder: str | Path) -> dict[str, Any]:
    """config.json of a folder.

    Raises FileNotFoundError or ValueError, naming the file, when it is not there or is no config.
    """
    file = Path(folder) / CONFIG
    if not file.is_file():
        nested = sorted(path.parent for path in Path(folder).glob(f"*/{CONFIG}"))
        networks = [path for path in nested if path.name.startswith("transformer")]
        if (Path(folder) / PIPELINE).is_file() and networks:
            raise FileNotFoundError(
                f"{folder} is a whole pipeline: give its network, {' or '.join(map(str, networks))}"
            )
        hint = f"; did you mean {(networks or nested)[0]}?" if nested else ""
        raise FileNotFoundError(f"{file} is not there: a folder saved by diffusers is wanted{hint}")
    return _json(file)


class Weights(Mapping[str, Tensor]):
    """The tensors of a folder, read one at a time when asked for.

    name: of its safetensors file; shards are found by <name>.index.json.
    Raises FileNotFoundError when a shard is missing and ValueError when a file is no safetensors, naming it.
    """

    def __init__(self, folder: str | Path, name: str = WEIGHTS) -> None:
        self.folder = Path(folder)
        self.single, self.index = self.folder / name, self.folder / (name + INDEX_SUFFIX)
        self._file_of = self._places()
        self._open: dict[Path, Any] = {}

    def _places(self) -> dict[str, Path]:
        """Key -> file that holds it."""
        index, single = self.index, self.single
        if index.is_file():
            placed = _json(index).get("weight_map")
            if not isinstance(placed, dict) or not placed or not all(isinstance(name, str) for name in placed.values()):
                raise ValueError(f"{index} has no weight_map that says which shard holds what")
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
        hint = self._instead()
        pickled = sorted(path for suffix in PICKLES for path in self.folder.glob(f"*.{suffix}"))
        if pickled and not hint:
            raise ValueError(
                f"{pickled[0]} is a pickle, which may run code when it is read: save the model again with"
                " safe_serialization=True"
            )
        raise FileNotFoundError(f"{single} is not there, nor is {index.name}{hint}")

    def _instead(self) -> str:
        """What to do about weights that lie there under another name, as variants (fp16) do; empty: there are none."""
        others = sorted(path.name for path in self.folder.glob("*.safetensors") if path.is_file())
        indices = sorted(path.name for path in self.folder.glob("*.safetensors*.index*.json"))
        if indices:
            return f"; {indices[0]} is: rename it to {self.index.name} if its shards are what you want"
        if others and SHARD.search(others[0]):
            return f"; {others[0]} is, but not the index that says which shard holds what: fetch it too"
        return f"; {others[0]} is: rename it to {self.single.name} if it is what you want" if others else ""

    def file_of(self, key: str) -> Path:
        """The file that holds a key; for an unknown one the file in which it should be."""
        return self._file_of.get(key, self.index if self.index.is_file() else self.single)

    def empty(self) -> dict[str, Tensor]:
        """The same keys and shapes on the meta device, float32 for floats of 16 bits or more; no value is read."""
        slices = ((key, self._opened(key).get_slice(key)) for key in self)
        return {
            key: torch.empty(each.get_shape(), dtype=_like(each.get_dtype()), device="meta") for key, each in slices
        }

    def __getitem__(self, key: str) -> Tensor:
        return self._opened(key).get_tensor(key)

    def _opened(self, key: str) -> Any:
        file = self._file_of[key]
        if file not in self._open:
            self._open[file] = safe_open(file, framework="pt")
        return self._open[file]

    def __contains__(self, key: object) -> bool:
        return key in self._file_of

    def __iter__(self) -> Iterator[str]:
        return iter(self._file_of)

    def __len__(self) -> int:
        return len(self._file_of)


def read_file(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(tensors, metadata) of one safetensors file. Raises ValueError, naming it, when it is none."""
    _keys(file)
    with safe_open(file, framework="pt") as opened:
        return {key: opened.get_tensor(key) for key in opened.keys()}, dict(opened.metadata() or {})  # noqa: SIM118


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

    All or nothing: they are written beside and moved in at the end. Raises as `check_free` and `writing`.
    """
    check_free(folder)
    folder = Path(folder).resolve()  # a link stays one, and `.` has a name
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            _fill(part, texts, weights, name, metadata, shard_bytes)
            part.chmod(0o755)
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
        save_file({key: weights[key] for key in keys}, part / file, metadata=dict(metadata))
    if len(shards) > 1:
        placed = {key: file for file, keys in zip(names, shards, strict=True) for key in keys}
        total = sum(tensor.numel() * tensor.element_size() for tensor in weights.values())
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(placed.items()))}
        (part / (name + INDEX_SUFFIX)).write_text(json.dumps(index, indent=2) + "\n")
    for file, text in texts.items():
        (part / file).write_text(text, encoding="utf-8")


@contextmanager
def writing(target: Path) -> Iterator[None]:
    """Says in one line, in a ValueError, what keeps a file or folder from being written: a full disk, no permission."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{target} cannot be written: {' '.join(str(error).split())}") from None


def check_free(folder: str | Path) -> None:
    """Raises FileExistsError when the folder holds anything: nothing is ever overwritten."""
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} is there already; give another folder or remove it")


def _like(code: str) -> torch.dtype:
    """A dtype of the same kind as one that safetensors names: weights, or what is quantised (also floats of 8 bits)."""
    return torch.float32 if code in FLOATS else torch.int64


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


def _shard_name(name: str, index: int, count: int) -> str:
    stem, suffix = name.rsplit(".", 1)
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
    except (ValueError, RecursionError) as error:  # also bytes of no text, and numbers of thousands of digits
        raise ValueError(f"{file} is not JSON ({error})") from None
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds no mapping")
    return content
