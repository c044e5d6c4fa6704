"""diffusers' transformers as networks of ours, and back. diffusers itself is not needed for folders."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from dit.interop import files
from dit.interop.describe import describe, difference
from dit.interop.families import FAMILIES
from dit.interop.family import Family
from dit.interop.presets import build_empty, compose
from dit.interop.weights import to_ours, to_theirs
from dit.net.backbone import Backbone

_recognised: weakref.WeakKeyDictionary[Backbone, Family] = weakref.WeakKeyDictionary()


def from_diffusers(source: nn.Module | str | Path) -> Backbone:
    """A diffusers transformer, or a folder that one was saved to, as our network with its weights.

    source: an object, or a folder with config.json and safetensors, whole or sharded; each tensor keeps its dtype.
    The network is on the device of the weights, in evaluation mode as diffusers loads, and trainable.

    Raises ValueError or FileNotFoundError, naming file and key: an unknown class or setting, a missing shard or key, a
    wrong shape, a pickle instead of safetensors.
    """
    config = source_config(source)
    family = family_named(config["_class_name"])
    net = build_empty(net_config({**config, **family.infer(source_weights(source))}))
    net.load_state_dict(read_weights(source, net, family), strict=True, assign=True)
    _recognised[net] = family
    return net.eval()


def to_diffusers(net: Backbone, folder: str | Path, shard_bytes: int = files.SHARD_BYTES) -> None:
    """Writes a network so that diffusers loads it: `<class>.from_pretrained(folder)`.

    Raises ValueError when no class of diffusers computes what this network computes, naming the first difference to
    the class that is nearest; FileExistsError when the folder holds anything.
    """
    family = recognise(net)
    config = {"_class_name": family.class_name, **family.settings(family.config(net))}
    files.write(folder, config, to_theirs(family.links(net), net.state_dict()), shard_bytes)


def call_like_diffusers(net: Backbone, **arguments: Any) -> Tensor:
    """Calls a network with the arguments of the diffusers class's own `forward`; returns the sample in its layout.

    Raises ValueError for arguments that the network cannot take, and as `to_diffusers` for a network that is none.
    """
    family = recognise(net)
    x, t, cond = family.call(net, arguments)
    return family.output(net(x, t, cond), arguments)


def source_config(source: nn.Module | str | Path) -> dict[str, Any]:
    """The config.json of an object or folder; its `_class_name` is one that is known here."""
    where = "the model"
    if isinstance(source, nn.Module):
        config = {"_class_name": type(source).__name__, **dict(getattr(source, "config", {}))}
    else:
        where = str(Path(source) / files.CONFIG)
        config = files.read_config(source)
    config = next((known for family in FAMILIES if (known := family.adopt(config)) is not None), config)
    try:
        family_named(config.get("_class_name"))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    return config


def net_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """config.json -> the config of our network, as configs/net would give it."""
    family = family_named(config.get("_class_name"))
    inferred = {key: config.get(key, default) for key, default in family.inferred.items()}
    return compose(family.preset, family.overrides({**family.settings(config), **inferred}))


def source_weights(source: nn.Module | str | Path) -> Mapping[str, Tensor]:
    """The weights of an object or folder under their names; those of a folder are read when they are asked for."""
    return source.state_dict() if isinstance(source, nn.Module) else files.Weights(source)


def read_weights(source: nn.Module | str | Path, net: Backbone, family: Family) -> dict[str, Tensor]:
    """The weights of an object or folder under our names; `net` has the shapes (the meta device will do)."""
    shapes = {key: tensor.shape for key, tensor in net.state_dict().items()}
    if isinstance(source, nn.Module):
        return {key: tensor.clone() for key, tensor in to_ours(family.links(net), source.state_dict(), shapes).items()}
    weights = files.Weights(source)
    try:
        return to_ours(family.links(net), weights, shapes)
    except ValueError as error:
        raise ValueError(f"{weights.file_of(str(error).split()[0].strip(',:'))}: {error}") from None


def family_named(class_name: str | None) -> Family:
    """The family of a class of diffusers. Raises ValueError for one that is not known here."""
    for family in FAMILIES:
        if family.class_name == class_name:
            return family
    raise ValueError(
        f"_class_name={class_name} is not a class that this project knows; there are"
        f" {', '.join(family.class_name for family in FAMILIES)}"
    )


def recognise(net: Backbone) -> Family:
    """The class of diffusers that computes exactly what this network computes.

    Each candidate is built anew from the settings that it reads off the network, and compared part by part. Raises
    ValueError when none is equal, with the first difference to the nearest.
    """
    if net in _recognised:
        return _recognised[net]
    mine = describe(net)
    nearest: tuple[int, str] | None = None
    for family in FAMILIES:
        try:
            theirs = describe(build_empty(net_config({"_class_name": family.class_name, **family.config(net)})))
        except Exception:  # parts that this class has not: whatever went wrong, it is not this class
            continue
        found = difference(mine, theirs)
        if found is None:
            _recognised[net] = family
            return family
        apart = sum(mine.get(name) != theirs.get(name) for name in mine.keys() | theirs.keys())
        if nearest is None or apart < nearest[0]:
            nearest = (apart, f"the nearest is {family.class_name}, but {found}")
    raise ValueError(f"this network is none of diffusers' classes: {nearest[1] if nearest else 'no part fits'}")
