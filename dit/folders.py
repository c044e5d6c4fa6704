"""Folders as diffusers and transformers save models: config.json and safetensors, whole or in shards, read.

Nothing is ever unpickled, and nothing is fetched: a model of the hub is read where its own client has put it.
`dit/interop/files.py` writes such folders.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

CONFIG = "config.json"
PIPELINE = "model_index.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"
INDEX_SUFFIX = ".index.json"
# Of which weights are; smaller ones are quantised.
FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
PICKLES = ("bin", "pt", "pth", "ckpt")
SHARD = re.compile(r"-\d+-of-\d+\.")  # in the names of shards
WHOLE = 2**24  # bytes of a file that a fingerprint reads whole; of a larger one it reads samples
SAMPLES, SAMPLE = 64, 2**16
HUB = re.compile(r"hub:(?P<repo>[\w.-]+/[\w.-]+)(?P<inside>(/[\w.-]+)*)(@(?P<revision>[\w.-]+))?")


def needed(package: str, key: str) -> ModuleType:
    """A package of requirements-pretrained.txt, imported. Raises ValueError where it is not installed.

    key: what asks for it, for the message.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ValueError(f"{key} needs {package} ({error}); pip install -r requirements-pretrained.txt") from None


def located(folder: str, key: str) -> Path:
    """The folder that a setting names: a path, or `hub:ORG/NAME/PART[@REVISION]`, a folder of a repository of the
    Hugging Face hub that its own client has fetched to this disk.

    key: of the setting, for messages. Raises ValueError or FileNotFoundError when it is not there.
    """
    if not folder.startswith("hub:"):
        if Path(folder).is_dir():
            return Path(folder)
        there = "is a file" if Path(folder).is_file() else "is not there"
        raise FileNotFoundError(f"{key}={folder} {there}: a folder with config.json and safetensors is wanted")
    name = HUB.fullmatch(folder)
    if name is None or ".." in name["inside"].split("/"):
        raise ValueError(f"{key}={folder} is not written as hub:ORG/NAME/PART, which may end in @REVISION")
    hub, inside = needed("huggingface_hub", key), name["inside"].strip("/")
    config = f"{inside}/{CONFIG}" if inside else CONFIG
    found = hub.try_to_load_from_cache(name["repo"], config, revision=name["revision"])
    if not isinstance(found, str):
        only = f" --include '{inside}/*'" if inside else ""
        revision = f" --revision {name['revision']}" if name["revision"] else ""
        raise FileNotFoundError(f"{key}={folder} is not on this disk: hf download {name['repo']}{only}{revision}")
    return Path(found).parent


def sha256(file: Path) -> str:
    """What `sha256sum` prints of a file."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def fingerprint_of(files: Mapping[str, Path]) -> str:
    """A hash of files: of their names and content, not of where they lie. Of a file beyond `WHOLE` bytes its size and
    `SAMPLES` pieces are read, spread evenly from its head to its end: other weights differ there too."""
    mark = hashlib.sha256()
    for name, file in files.items():
        size = file.stat().st_size
        mark.update(f"{name} {size}\n".encode())
        with file.open("rb") as opened:
            if size <= WHOLE:
                mark.update(opened.read())
                continue
            for piece in range(SAMPLES):
                opened.seek((size - SAMPLE) * piece // (SAMPLES - 1))
                mark.update(opened.read(SAMPLE))
    return mark.hexdigest()[:16]


def check_fingerprint(files: Mapping[str, Path], wanted: str | None, named: str) -> str:
    """`fingerprint_of` files. Raises ValueError where another one is `wanted`. named: the setting, as `key=value`."""
    found = fingerprint_of(files)
    if wanted not in (None, found):
        raise ValueError(
            f"{named} is not what this was trained with: its files have the fingerprint {found}, needed {wanted}"
        )
    return found


def read_config(folder: str | Path, kind: str = "network", name: str = "transformer") -> dict[str, Any]:
    """config.json of a folder.

    kind: of model that is wanted. name: with which its folder begins in that of a whole pipeline.

    Raises FileNotFoundError or ValueError, naming the file, when it is not there or is no config.
    """
    file = Path(folder) / CONFIG
    if not file.is_file():
        nested = sorted(path.parent for path in Path(folder).glob(f"*/{CONFIG}"))
        wanted = [path for path in nested if path.name.startswith(name)]
        if (Path(folder) / PIPELINE).is_file() and wanted:
            raise FileNotFoundError(f"{folder} is a whole pipeline: give its {kind}, {' or '.join(map(str, wanted))}")
        hint = f"; did you mean {(wanted or nested)[0]}?" if nested else ""
        raise FileNotFoundError(f"{file} is not there: a folder saved by diffusers is wanted{hint}")
    return read_json(file)


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
            placed = read_json(index).get("weight_map")
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

    def dtype(self) -> torch.dtype:
        """That of most of the values."""
        held: Counter[str] = Counter()
        for each in (self._opened(key).get_slice(key) for key in self):
            held[each.get_dtype()] += math.prod(each.get_shape())
        floats = [code for code, _ in held.most_common() if code in FLOATS]
        return FLOATS[floats[0]] if floats else torch.float32

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


def _like(code: str) -> torch.dtype:
    """A dtype of the same kind as one that safetensors names: weights, or what is quantised (also floats of 8 bits)."""
    return torch.float32 if code in FLOATS else torch.int64


def _keys(file: Path) -> list[str]:
    try:
        with safe_open(file, framework="pt") as opened:
            return list(opened.keys())
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file} is no whole safetensors file ({str(error).splitlines()[0][:100]})") from None


def read_json(file: Path) -> dict[str, Any]:
    """The mapping that a JSON file holds. Raises ValueError, naming the file, when it holds none."""
    """A mapping from a JSON file. Raises ValueError, naming the file, when it is none."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # also bytes of no text, and numbers of thousands of digits
        raise ValueError(f"{file} is not JSON ({error})") from None
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds no mapping")
    return content
