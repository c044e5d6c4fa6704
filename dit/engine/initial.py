"""First weights of a new run: another run's, or those of a folder of diffusers or of ours (`init_from=...`)."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from dit.adapters import bare_key, has_adapters, is_adapter_key
from dit.checkpoint.exported import is_exported
from dit.checkpoint.files import FOLDER, LAST
from dit.checkpoint.opened import in_run
from dit.config.build import build
from dit.engine.module import VideoDiffusion
from dit.folders import PIPELINE
from dit.interop import diffusers, native, original
from dit.interop.describe import describe, difference
from dit.interop.lora import fill_lora
from dit.interop.presets import build_empty
from dit.interop.published import EXPERTS
from dit.net.backbone import Backbone
from dit.sampling.checkpoint import Checkpoint

log = logging.getLogger(__name__)
REPORT = "init_from.txt"  # in the run directory
SHOWN = 6  # groups of keys in a line of the log


@dataclass(frozen=True)
class Source:
    """First weights, opened and checked in themselves, but not read.

    about: what they are, in words. shapes: canonical name (`net.*`, `text.*`) -> shape. tensors: gives them one after
    another. network: the config of the network that they are of, where that is known for sure. data_cards: of what they
    were trained on, where that is known.
    """

    about: str
    shapes: Mapping[str, torch.Size]
    tensors: Callable[[], Iterator[tuple[str, Tensor]]]
    network: dict[str, Any] | None = None
    data_cards: Sequence[str] = ()


@dataclass(frozen=True)
class Report:
    """What was loaded (`about`), keys that were not, by the reason, the parts of the model that got weights, and the
    cards of the data behind these."""

    about: str
    skipped: Mapping[str, list[str]]
    parts: frozenset[str]
    data_cards: Sequence[str]

    def write(self, run: Path) -> None:
        """Leaves every key in the run directory."""
        lines = [self.about, *(f"{why}: {key}" for why, keys in self.skipped.items() for key in keys)]
        (run / REPORT).write_text("\n".join(lines) + "\n", encoding="utf-8")


def load(module: VideoDiffusion, given: str, weights: str, strict: bool, expert: str | None = None) -> Report:
    """Copies first weights into `module`: all is checked before the first is copied.

    Args:
        given: a run directory, a checkpoint, a folder that diffusers saved (config.json and safetensors, or a whole
            pipeline, of which the network is taken), or one of `scripts/convert_weights.py`.
        expert: which network of a pipeline with two, `high` or `low`; None is `high`.
        weights: of the first two `raw`, `ema`, or a profile's name.
        strict: whether each weight must have its place; otherwise what fits is taken, and the rest listed.

    A part of which the source holds nothing (the text encoder, of diffusers' folders) begins as it was built, and so do
    adapters beside the weights of a source without any.

    Raises FileNotFoundError or ValueError, naming file or key: nothing there, damaged, not fitting.
    """
    if not isinstance(strict, bool):
        raise ValueError(f"init_strict={strict} must be true or false")
    source = open_source(given, weights, expert)
    own = {bare_key(key): tensor for key, tensor in module.state_dict().items()}
    wrong, absent, unknown = misfits(module, own, source.shapes)
    skipped = {
        "another shape": [f"{k} is {tuple(source.shapes[k])} there, {tuple(own[k].shape)} here" for k in wrong],
        "not there": absent,
        "not here": unknown,
    }
    if strict and any(skipped.values()):
        raise ValueError(f"init_from={given} does not fit: {_first(given, source.about, skipped)}")
    taken = source.shapes.keys() & own.keys() - set(wrong)
    if not taken:
        raise ValueError(f"init_from={given}: nothing of {source.about} fits this network")
    with torch.no_grad():
        for key, tensor in source.tensors():
            if key in taken:
                own[key].copy_(tensor)
    log.info("first weights: %d tensors of %s", len(taken), source.about)
    for why, keys in skipped.items():
        if keys:
            log.warning("init_strict=false skipped %d, %s: %s", len(keys), why, grouped(keys))
    for part in sorted(_parts(own) - _parts(source.shapes)):
        copied = part in module.recipe.copies
        log.info("%s begins with %s", part, "those of net" if copied else "weights of its own")
    if source.network is not None and (apart := _apart(module.config["net"], source.network)):
        log.warning("this network computes something else than the one of these weights: %s", apart)
    return Report(f"{len(taken)} tensors of {source.about}", skipped, frozenset(_parts(taken)), source.data_cards)


def load_adapters(module: VideoDiffusion, given: str) -> None:
    """Copies first values of the adapters into `module`, which has them: a folder or file as diffusers saves it.

    Raises FileNotFoundError or ValueError where there is none, or other layers or ranks.
    """
    net = cast(Backbone, module.net)
    if not has_adapters(net):
        raise ValueError(f"lora_from={given} wants a run of adapters: add lora=default")
    try:
        count = fill_lora(net, given)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"lora_from={error}") from None
    except ValueError as error:
        raise ValueError(f"lora_from={error}") from None
    log.info("first values of %d adapters: %s", count, given)


def open_source(path: str, weights: str, expert: str | None = None) -> Source:
    """Opens `path`, whichever of the kinds of `load` it is. Raises as `load`."""
    folder = Path(path)
    if (folder / PIPELINE).is_file():
        folder = folder / EXPERTS[expert or "high"]
    elif expert is not None:
        raise ValueError(
            f"init_expert={expert} chooses among the networks of a whole pipeline, and init_from={path} is none"
        )
    if native.is_folder(folder):
        check_raw(path, weights)
        mine = native.open_folder(folder)
        return Source(str(folder), *_net(mine.shapes, mine.weights.items))
    # A run of ours may hold an export of itself.
    if in_run(folder) is None and diffusers.is_folder(folder):
        check_raw(path, weights)
        theirs = diffusers.open_folder(folder)
        about = f"{theirs.family.class_name} in {folder}"
        return Source(about, *_net(theirs.shapes, theirs.tensors), network=theirs.config)
    file = find(path)
    if file.suffix == ".safetensors" and not is_exported(file):
        raise ValueError(
            f"init_from={path} is a single file: give the folder of diffusers that it is from; a checkpoint of DiT's or"
            f" SiT's own code becomes a folder by python scripts/convert_weights.py {path} OUT"
        )
    if file.suffix in original.FOREIGN:
        original.read(file)  # says why not
    try:
        checkpoint = Checkpoint.load(file)
    except ValueError as error:
        raise ValueError(f"init_from={error}") from None  # it begins with the file
    try:
        # One set of weights is taken as it is, as that of other folders.
        label, averaged = checkpoint.choose(checkpoint.only if checkpoint.only and weights == "raw" else weights)
    except ValueError as error:
        raise ValueError(f"init_{error}") from None
    found = {bare_key(key): tensor for key, tensor in {**checkpoint.weights, **averaged}.items()}
    shapes = {key: tensor.shape for key, tensor in found.items()}
    return Source(f"{file} ({label})", shapes, lambda: iter(found.items()), data_cards=checkpoint.data_cards)


def check_raw(path: str, weights: str) -> None:
    """Raises ValueError for averaged weights of a folder that holds one set of them."""
    if weights != "raw":
        raise ValueError(f"init_weights={weights}: {path} is no run, so it has no averages; leave init_weights=raw")


def find(source: str) -> Path:
    """The checkpoint file of a run directory, or the file itself."""
    path = Path(source)
    candidate = (in_run(path) or path / FOLDER / LAST) if path.is_dir() else path
    if not candidate.is_file():
        raise FileNotFoundError(
            f"init_from={source}: no checkpoint at {candidate}; give a run directory, a .ckpt file, or a folder with"
            " config.json and safetensors"
        )
    return candidate


def misfits(
    module: VideoDiffusion, own: Mapping[str, Tensor], shapes: Mapping[str, torch.Size]
) -> tuple[list[str], list[str], list[str]]:
    """Keys of another shape, keys of ours that are not there, and keys there that are none of ours."""
    both = _parts(own) & _parts(shapes)
    adapted = any(is_adapter_key(key) for key in shapes)
    wrong = [key for key in shapes if key in own and shapes[key] != own[key].shape]
    absent = [
        key
        for key in own
        if key not in shapes and _part(key) in both and module.is_trained(key) and (adapted or not is_adapter_key(key))
    ]
    unknown = [key for key in shapes if key not in own and _part(key) in both]
    return wrong, absent, unknown


def grouped(keys: Iterable[str]) -> str:
    """Keys in a short line: those that differ by the number of their block alone count as one."""
    counts = Counter(re.sub(r"(?<=\.)\d+(?=\.)", "*", key) for key in keys)
    shown = [f"{key} ({count})" if count > 1 else key for key, count in counts.items()]
    more = [f"and {len(shown) - SHOWN} more kinds"] if len(shown) > SHOWN else []
    return ", ".join([*shown[:SHOWN], *more])


def _first(given: str, about: str, skipped: Mapping[str, list[str]]) -> str:
    """The first misfit in words, how many more there are, and what to do."""
    whys = {"another shape": "{} ", "not there": f"{{}} is not in {about}", "not here": "{} is not in this network"}
    said = next(whys[why].format(keys[0]).strip() for why, keys in skipped.items() if keys)
    count = sum(len(keys) for keys in skipped.values()) - 1
    more = f" ({count} more do not fit)" if count else ""
    if any(is_adapter_key(key) for key in skipped["not here"]):
        return f"{said}{more}; merge its adapters first: python scripts/convert_weights.py {given} OUT"
    return f"{said}{more}; init_strict=false takes what fits"


def _apart(ours: dict[str, Any], theirs: dict[str, Any]) -> str | None:
    with torch.device("meta"):
        own = build(ours, "net")
    return difference(describe(own), describe(build_empty(theirs)))


def _net(
    shapes: Mapping[str, torch.Size], tensors: Callable[[], Iterable[tuple[str, Tensor]]]
) -> tuple[dict[str, torch.Size], Callable[[], Iterator[tuple[str, Tensor]]]]:
    """The weights of a network as the part `net` of a run."""
    named = {f"net.{key}": shape for key, shape in shapes.items()}
    return named, lambda: ((f"net.{key}", tensor) for key, tensor in tensors())


def _part(key: str) -> str:
    return key.split(".")[0]


def _parts(keys: Iterable[str]) -> set[str]:
    return {_part(key) for key in keys}
