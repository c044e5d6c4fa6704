"""Parts of a pipeline from a checkpoint file: which file, which weights, and nothing executed that is not ours.

The names of checkpoint entries and of config keys that sampling relies on stand here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.utils import get_object, instantiate
from torch import Tensor, nn

from dit.sampling.read import missing

LAST = Path("checkpoints") / "last.ckpt"
FROZEN = "frozen.pt"  # beside checkpoints of adapters: what these adapt, the same for all of a run
TRUSTED = ("dit.", "torch.nn.")


@dataclass(frozen=True)
class Checkpoint:
    """A training checkpoint, as far as sampling needs it.

    Attributes:
        file: where it came from.
        weights: raw weights under canonical keys (`net.*`, `text.*`, `codec.*`).
        ema: profile -> averaged weights under the same keys.
        config: the resolved training config, plain containers.
        frozen: the fingerprint of the weights that lie beside the file, once for the whole run; None: it holds all.
    """

    file: Path
    weights: dict[str, Tensor]
    ema: dict[str, dict[str, Tensor]]
    config: dict[str, Any]
    frozen: str | None = None

    @classmethod
    def load(cls, run_or_file: str | Path) -> Checkpoint:
        """Reads a checkpoint file, or the last one of a run directory.

        Raises:
            FileNotFoundError: nothing there, and the message lists what is near; or not the weights beside adapters.
            ValueError: not a checkpoint of this project, or damaged, or the weights beside it are of another run.
        """
        file = find(run_or_file)
        content = _read(file, ("state_dict", "config"), "take another one of the run, or copy it again")
        frozen = content.get("frozen")
        beside = {} if frozen is None else _frozen(file, frozen)
        weights = {**beside, **content["state_dict"]}
        return cls(file, weights, content.get("ema", {}), content["config"], frozen)

    def value(self, *path: str) -> Any:
        """The plain value that the config holds at `path`; ValueError where it holds nothing."""
        node: Any = self.config
        for depth, key in enumerate(path):
            if not isinstance(node, Mapping) or key not in node:
                raise ValueError(f"the config in {self.file} has no {'.'.join(path[: depth + 1])}")
            node = node[key]
        return node

    def num_classes(self) -> int | None:
        """Classes of a network with labels, None without."""
        vectors = self.value("net").get("vectors") or {}
        return (vectors.get("label") or {}).get("num_classes")

    def part(self, *path: str, trusted: Sequence[str] = TRUSTED) -> Any:
        """The object that the config holds at `path`, built; None where it holds null."""
        node = self.value(*path)
        if node is None:
            return None
        for target in targets(node):
            if not is_trusted(target, trusted):
                raise ValueError(
                    f"{self.file} asks to call {target}, which is outside {', '.join(trusted)}: it is not run."
                    f" Add its package to trusted=[...] if you trust the file"
                )
        return instantiate(node, _convert_="all")

    def network(self, trusted: Sequence[str] = TRUSTED) -> Any:
        """The network that the config describes, with the adapters that it was trained with, if any."""
        net = self.part("net", trusted=trusted)
        if self.config.get("lora") is not None:
            self.part("lora", trusted=trusted)(net)
        return net

    def choose(self, weights: str) -> tuple[str, dict[str, Tensor]]:
        """(label, averaged weights) for `raw`, for `ema` (the profile that previews used) or for a profile's name.

        The label says which weights they are: `raw` or `ema:<profile>`. For `raw` nothing is averaged.
        """
        if weights == "raw":
            return "raw", {}
        name = weights.removeprefix("ema:")
        if weights == "ema" and self.ema:
            used = (self.config.get("ema") or {}).get("use")
            name = used if used in self.ema else next(iter(self.ema))
        if name not in self.ema:
            there = ", ".join(["raw", *(["ema"] if self.ema else []), *self.ema])
            raise ValueError(f"weights={weights} is not in {self.file}; there are: {there}")
        return f"ema:{name}", self.ema[name]

    def fill(self, parts: Mapping[str, nn.Module | None], averaged: Mapping[str, Tensor]) -> None:
        """Loads raw and then averaged weights into `parts` (`net`, `text`, `codec`), strictly.

        A part of which the file holds nothing was not trained and brings its own weights.
        """
        for name, module in parts.items():
            if module is None:
                continue
            raw, mean = (_under(name, weights) for weights in (self.weights, averaged))
            if name == "net" or raw:
                self._load(name, module, {**raw, **mean}, set(raw))

    def _load(self, name: str, module: nn.Module, weights: dict[str, Tensor], saved: set[str]) -> None:
        own = module.state_dict()
        for key in sorted(own.keys() ^ saved) + sorted(weights.keys() - saved):
            where = "the checkpoint" if key in own else "the network of its config"
            raise ValueError(f"{self.file} does not fit its own config: {name}.{key} is not in {where}")
        for key, value in weights.items():
            if value.shape != own[key].shape:
                raise ValueError(f"{self.file}: {name}.{key} is {tuple(value.shape)}, needed {tuple(own[key].shape)}")
        module.load_state_dict(weights, strict=True)


def find(run_or_file: str | Path) -> Path:
    """The checkpoint file that a run directory or a file's path names."""
    path = Path(run_or_file)
    if path.is_file():
        return path
    if not path.exists():
        raise missing(path, "checkpoint or run")
    if (path / LAST).is_file():
        return path / LAST
    there = sorted(file.relative_to(path).as_posix() for file in path.rglob("*.ckpt"))
    listed = f"checkpoints there: {', '.join(there[-3:])}" if there else "it holds no checkpoint at all"
    raise FileNotFoundError(f"{path} has no {LAST.as_posix()}; {listed}")


def _read(file: Path, wanted: Sequence[str], instead: str) -> dict[str, Any]:
    """The entries of a file; ValueError, which ends with what to do `instead`, when it is damaged, or has none of those
    names."""
    try:
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch raises pickle, zip, runtime and OS errors for damaged files
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"{file} cannot be read as a checkpoint ({first[:80].rstrip('. ')}); it may be cut short, or none at"
            f" all: {instead}"
        ) from None
    absent = [key for key in wanted if not isinstance(content, dict) or key not in content]
    if absent:
        raise ValueError(f"{file} is not a checkpoint of this project: it has no {' and no '.join(absent)}")
    return content


def _frozen(file: Path, mark: str) -> dict[str, Tensor]:
    """The weights that a checkpoint's adapters stand beside."""
    beside = file.parent / FROZEN
    if not beside.is_file():
        raise FileNotFoundError(
            f"{file} holds adapters alone, and {beside} is not there, which holds the weights beside them: copy both"
        )
    content = _read(beside, ("state_dict", "fingerprint"), "copy it again; all checkpoints of the run share it")
    if content["fingerprint"] != mark:
        raise ValueError(f"{beside} is of another run than {file.name} beside it: copy the two of one run")
    return content["state_dict"]


def targets(node: Any) -> Iterator[str]:
    """Every `_target_` inside a config node."""
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield str(node["_target_"])
        for value in node.values():
            yield from targets(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from targets(value)


def is_trusted(target: str, trusted: Sequence[str]) -> bool:
    """Whether a target is a thing that a trusted package defines, and not one that it merely imports."""
    if not target.startswith(tuple(trusted)):
        return False
    try:
        home = getattr(get_object(target), "__module__", None)
    except Exception as error:  # hydra raises several kinds; the file may be of another version of the code
        raise ValueError(f"{target}, which the checkpoint asks for, is not in this code") from error
    return isinstance(home, str) and f"{home}.".startswith(tuple(trusted))


def _under(name: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    prefix = f"{name}."
    return {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
