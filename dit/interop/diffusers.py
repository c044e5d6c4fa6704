"""diffusers' transformers as networks of ours, and back. diffusers itself is not needed for folders."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor, nn

from dit import folders
from dit.adapters import has_adapters
from dit.interop import files
from dit.interop.describe import describe, difference, kinds
from dit.interop.families import FAMILIES
from dit.interop.family import Family
from dit.interop.presets import build_empty, compose
from dit.interop.weights import Link, Misfit, to_ours, to_theirs, translated
from dit.net.backbone import Backbone

# What a wrong value of a setting may raise; configs come from anyone.
WRONG = (
    *(ValueError, TypeError, ArithmeticError, LookupError, AttributeError, RuntimeError, MemoryError),
    *(HydraException, OmegaConfBaseException),
)
BEYOND = 100  # times the stored weights: a network of more is refused before any tensor is compared

# Network -> the family that it was last found equal to.
_equal: weakref.WeakKeyDictionary[Backbone, Family] = weakref.WeakKeyDictionary()


def from_diffusers(source: nn.Module | str | Path) -> Backbone:
    """A diffusers transformer, or a folder that one was saved to, as our network with its weights.

    source: an object, or a folder with config.json and safetensors, whole or sharded. Each tensor keeps its dtype,
    whatever config.json says: a bfloat16 folder gives a bfloat16 network. A class of diffusers that was loaded with
    `torch_dtype` keeps some of its modules in float32, and so they are here: `.to(torch.bfloat16)` makes them one.
    `init_from=` copies into the run's own weights, which stay float32.
    The network is on the device of the weights, in evaluation mode as diffusers loads, and trainable.

    Raises ValueError or FileNotFoundError, naming file and key: an unknown class or setting, a missing shard or key, a
    wrong shape, a pickle instead of safetensors.
    """
    if isinstance(source, nn.Module):
        config = adopted({"_class_name": type(source).__name__, **dict(getattr(source, "config", {}))})
        theirs = source.state_dict()
        with one_line():
            family = family_named(config["_class_name"])
            net = build_empty(net_config({**config, **family.infer(theirs)}))
        weights = to_ours(family.links(net), theirs, shapes_of(net))
        net.load_state_dict({key: tensor.clone() for key, tensor in weights.items()}, strict=True, assign=True)
    else:
        stored = open_folder(source)
        net, family = build_empty(stored.config), stored.family
        net.load_state_dict(dict(stored.tensors()), strict=True, assign=True)
    _equal[net] = family
    return net.eval()


def to_diffusers(
    net: Backbone, folder: str | Path, shard_bytes: int = files.SHARD_BYTES, class_name: str | None = None
) -> None:
    """Writes a network so that diffusers loads it: `<class>.from_pretrained(folder)`.

    class_name: the class, where several compute the same (SkyReels-V2 without a frame rate is Wan); None: `net.family`,
    which presets of published models and folders of diffusers bring with them.

    Raises ValueError when that class computes anything else, naming the first difference; FileExistsError when the
    folder holds anything.
    """
    files.check_free(folder)
    if has_adapters(net):
        raise ValueError("this network has adapters: merge them (dit.adapters.merge), or save_lora them alone")
    net = getattr(net, "_orig_mod", net)  # of torch.compile
    family, weights = recognise(net, anew=True, class_name=class_name), net.state_dict()
    if any(tensor.is_meta for tensor in weights.values()):
        raise ValueError("this network is on the meta device, so it has no weights to write")
    config = {"_class_name": family.class_name, **family.settings(family.config(net))}
    files.write(folder, config, to_theirs(family.links(net), weights), shard_bytes)


def call_like_diffusers(net: Backbone, **arguments: Any) -> Tensor:
    """Calls a network with the arguments of the diffusers class's own `forward`; returns the sample in its layout.

    Raises ValueError for arguments that the network cannot take, and as `to_diffusers` for a network that is none.
    """
    family = recognise(net)
    x, t, cond = family.call(net, arguments)
    return family.output(net(x, t, cond), arguments)


@dataclass(frozen=True)
class Stored:
    """An opened folder of diffusers, with all names and shapes checked; values are read later.

    config: of our network. shapes: of that network's weights, under our names.
    """

    folder: Path
    family: Family
    config: dict[str, Any]
    links: list[Link]
    weights: folders.Weights
    shapes: dict[str, torch.Size]

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """(our name, tensor), read one at a time."""
        with naming(self.weights):
            yield from translated(self.links, self.weights, self.shapes)


def is_folder(folder: Path) -> bool:
    """Whether a folder looks like one of diffusers, even an incomplete one."""
    traces = (folders.CONFIG, f"*/{folders.CONFIG}", "*.safetensors", "*.bin", f"*{folders.INDEX_SUFFIX}")
    return folder.is_dir() and any(True for trace in traces for _ in folder.glob(trace))


def open_folder(folder: str | Path) -> Stored:
    """Opens a folder that diffusers has saved. Raises as `from_diffusers`. Of the values only those are read that
    `Family.infer` needs.
    """
    config, weights = adopted(folders.read_config(folder)), folders.Weights(folder)
    with one_line(f"{Path(folder) / folders.CONFIG}: "):
        family = family_named(config.get("_class_name"))
        check_depth(family, config, weights)
        ours = net_config({**config, **family.infer(weights)})
        net = build_empty(ours)
        theirs = weights.empty()
        check_size(net, theirs)
    links, shapes = family.links(net), shapes_of(net)
    with naming(weights):
        to_ours(links, theirs, shapes)
    return Stored(Path(folder), family, ours, links, weights, shapes)


def check_depth(family: Family, config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
    """Raises ValueError for more blocks than stored tensors: building them all could take hours."""
    for name in family.depths:
        depth = config.get(name, family.defaults[name])
        if isinstance(depth, (int, float)) and depth > len(weights):
            raise ValueError(
                f"{name}={depth}, but the folder holds {len(weights)} tensors: they are of another network"
            )


def check_size(net: nn.Module, theirs: Mapping[str, Tensor]) -> None:
    """Raises ValueError for a network of far more weights than are stored: lists of its channels could fill the memory.

    `to_ours` finds smaller differences, and names the tensor.
    """
    wanted, held = (sum(tensor.numel() for tensor in each.values()) for each in (net.state_dict(), theirs))
    if wanted > BEYOND * held:
        raise ValueError(
            f"these settings make {wanted:,} weights, but the folder holds {held:,}: they are of another network"
        )


def adopted(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """config.json with the names of today's diffusers (`Family.adopt`)."""
    return next((known for family in FAMILIES if (known := family.adopt(config)) is not None), config)


def net_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """config.json, and what `Family.infer` found -> the config of our network, as configs/net gives it."""
    family = family_named(config.get("_class_name"))
    inferred = {key: config.get(key, default) for key, default in family.inferred.items()}
    return compose(family.preset, made=family.overrides({**family.settings(config), **inferred}))


def shapes_of(net: nn.Module) -> dict[str, torch.Size]:
    """Name -> shape of a network's weights; it may be on the meta device."""
    return {key: tensor.shape for key, tensor in net.state_dict().items()}


@contextmanager
def naming(weights: folders.Weights) -> Iterator[None]:
    """Within, the message of a `Misfit` begins with the file that holds the tensor."""
    try:
        yield
    except Misfit as error:
        raise ValueError(f"{weights.file_of(error.key)}: {error}") from None


@contextmanager
def one_line(where: str = "") -> Iterator[None]:
    """Within, whatever a wrong setting raises becomes a ValueError of one line, which begins with `where`."""
    try:
        yield
    except WRONG as error:
        raise ValueError(f"{where}{reason(error)}") from None


def reason(error: BaseException) -> str:
    """The innermost cause, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    said = "".join(each if each.isprintable() else "?" for each in " ".join(str(error).split())[:600])
    return said if isinstance(error, ValueError) else f"a setting has an impossible value ({said[:200]})"


def family_named(class_name: str | None) -> Family:
    """The family of a class of diffusers. Raises ValueError for one that is not known here."""
    for family in FAMILIES:
        if family.class_name == class_name:
            return family
    raise ValueError(
        f"_class_name={class_name!s:.60} is not a class that this project knows; there are"
        f" {', '.join(family.class_name for family in FAMILIES)}"
    )


def recognise(net: Backbone, anew: bool = False, class_name: str | None = None) -> Family:
    """The class of diffusers that this network is one of: `net.family`, or class_name where several compute the same.

    The family reads its settings off the network, builds that network again, and compares all parts, since some may
    have been exchanged. A result is remembered; `anew` compares again. Raises ValueError with the first difference, and
    where no class is named. If the parts are others, so that the family finds no settings, their classes are compared.
    """
    net = getattr(net, "_orig_mod", net)  # of torch.compile
    named = class_name or net.family
    if named is None:
        names = ", ".join(family.class_name for family in FAMILIES)
        raise ValueError(f"this network names no class of diffusers: say class_name= (--class-name), one of {names}")
    family = family_named(named)
    if not anew and _equal.get(net) is family:
        return family
    mine = describe(net)
    try:
        theirs = describe(build_empty(net_config({"_class_name": named, **family.config(net)})))
        found = difference(mine, theirs)
    except WRONG:  # other parts, which do not have the settings
        found = difference(kinds(mine), kinds(miniature(family.preset))) or "a part of it has other settings"
    if (why := family.never(net) or found) is not None:
        raise ValueError(f"this network is no {named}: {why}")
    _equal[net] = family
    return family


@cache
def miniature(preset: str) -> dict[str, Any]:
    """The description of a network of configs/net."""
    return describe(build_empty(compose(preset)))
