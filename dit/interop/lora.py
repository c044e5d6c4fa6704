"""Adapters in the layout that diffusers loads: `model.load_lora_adapter(folder)`, `pipe.load_lora_weights(folder)`.

Our Linear layers may be several of theirs (qkv is to_q, to_k and to_v), so their adapters differ too, but what they add
to the weights is the same, exactly:
- one adapter of a joined layer becomes one for each part: rows of `b` are cut, all share `a`;
- adapters of the parts become one of the joined layer: their `a` one under another, their `b` on a block diagonal, with
  the sum of the ranks (where all share `a`, that one and no higher rank).
Along the inputs (axis 1) the same holds with a and b exchanged.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dit import folders
from dit.adapters import Adapter, adapters, bare, inject, pattern
from dit.foreign import shown
from dit.interop import files
from dit.interop.diffusers import recognise
from dit.interop.weights import Change, Joined, Link, Reordered, Same, Split
from dit.net.backbone import Backbone

FILE = "pytorch_lora_weights.safetensors"
PREFIX = "transformer."
METADATA = "lora_adapter_metadata"  # in the file's head: peft's LoraConfig as JSON
NAME_PATTERN = re.compile(r"\^?([\w.\-]|\\[.\-])+\$?")  # a layer's name as a regular expression, escaped or not
WEIGHT = ".weight"
A, B, ALPHA = ".lora_A.weight", ".lora_B.weight", ".alpha"
OLDER = {".lora_down.weight": A, ".lora_up.weight": B, ".lora.down.weight": A, ".lora.up.weight": B}


def save_lora(net: Backbone, folder: str | Path) -> dict[str, Adapter]:
    """Writes a network's adapters for diffusers; returns them under its names.

    Raises ValueError when the network has none, is none of diffusers' classes or of one that loads none, or adapts a
    layer that is no matrix there; FileExistsError when the folder holds anything.
    """
    files.check_free(folder)
    ours = adapters(net)
    if not ours:
        raise ValueError("this network has no adapters; train with lora=default")
    with bare(net):
        family = recognise(net, anew=True)
        links = family.links(net)
    if not family.loads_lora:
        raise ValueError(
            f"{family.class_name} of diffusers loads no adapters: write the weights with them merged (--to pipeline, or"
            " --to diffusers)"
        )
    theirs = adapters_to_theirs(links, ours)
    ranks = {name: adapter.rank for name, adapter in theirs.items()}
    alphas = {name: adapter.scale * adapter.rank for name, adapter in theirs.items()}
    about = {
        "r": max(ranks.values()),
        "lora_alpha": max(alphas.values()),
        "rank_pattern": pattern(ranks),
        "alpha_pattern": pattern(alphas),
        "target_modules": sorted(theirs),
    }
    metadata = {METADATA: json.dumps({f"{PREFIX}{key}": value for key, value in about.items()})}
    weights = {f"{PREFIX}{name}{A}": adapter.a.contiguous().clone() for name, adapter in theirs.items()}
    weights |= {f"{PREFIX}{name}{B}": adapter.b.contiguous().clone() for name, adapter in theirs.items()}
    files.write_folder(folder, {}, weights, FILE, {"format": "pt", **metadata})
    return theirs


def load_lora(net: Backbone, source: str | Path) -> None:
    """Adds the adapters of a file or folder of diffusers to a network; they are trainable, all else is frozen.

    Raises ValueError or FileNotFoundError, naming file and key, when they do not fit; the network is unchanged then.
    """
    file = Path(source) / FILE if Path(source).is_dir() else Path(source)
    theirs = read_lora(file)
    family = recognise(net)
    shapes = {key: tensor.shape for key, tensor in net.state_dict().items()}
    try:
        ours = adapters_to_ours(family.links(net), theirs, shapes)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    inject(net, {name: (adapter.rank, adapter.scale * adapter.rank) for name, adapter in ours.items()})
    with torch.no_grad():
        for name, own in adapters(net).items():
            own.a.copy_(ours[name].a)
            own.b.copy_(ours[name].b)


def fill_lora(net: Backbone, source: str | Path) -> int:
    """Replaces the values of a network's adapters by those of a file or folder of diffusers; returns their number.

    Scales may differ: values are converted to the network's. Raises ValueError or FileNotFoundError, naming the layer,
    when layers or ranks are not the network's; the network is unchanged then.
    """
    file = Path(source) / FILE if Path(source).is_dir() else Path(source)
    theirs = read_lora(file)
    own = adapters(net)
    if not own:
        raise ValueError("this network has no adapters to fill: lora=default puts them in")
    with bare(net):
        links = recognise(net).links(net)
        shapes = {key: tensor.shape for key, tensor in net.state_dict().items()}
    try:
        given = adapters_to_ours(links, theirs, shapes)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    for name in sorted(own.keys() ^ given.keys()):
        where = "not in the file" if name in own else "in the file alone"
        raise ValueError(f"{file}: the adapter of {name} is {where}; lora.targets must name the same layers")
    for name, adapter in given.items():
        if adapter.rank != own[name].rank:
            rank = own[name].rank
            raise ValueError(f"{file}: the adapter of {name} has rank {adapter.rank}, here {rank}; give lora.rank")
    with torch.no_grad():
        for name, adapter in given.items():
            own[name].a.copy_(adapter.a)
            own[name].b.copy_(adapter.b * (adapter.scale / own[name].scale))
    return len(given)


def read_lora(file: Path) -> dict[str, Adapter]:
    """The adapters of a file under diffusers' names.

    Their scale is from peft's metadata, from `.alpha` tensors (kohya's scripts), or 1. Raises ValueError, naming file
    and key, for a pickle and for anything but plain LoRA.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file} is not there: adapters as diffusers saves them are wanted")
    held, metadata = folders.read_file(file)
    about = _about(file, metadata.get(METADATA, "{}"))
    parts: dict[str, dict[str, Tensor]] = {}
    for key, tensor in held.items():
        plain = next((key.removesuffix(old) + new for old, new in OLDER.items() if key.endswith(old)), key)
        kind = next((kind for kind in (A, B, ALPHA) if plain.endswith(kind)), None)
        if kind is None or (kind != ALPHA and tensor.dim() != 2):
            raise ValueError(f"{file}: {key} is no plain LoRA of a Linear layer, which alone is supported")
        parts.setdefault(plain.removeprefix(PREFIX).removesuffix(kind), {})[kind] = tensor
    found = {}
    for name, part in parts.items():
        if A not in part or B not in part or part[A].shape[0] != part[B].shape[1]:
            raise ValueError(f"{file}: {name} has no pair of {A[1:]} (rank, in) and {B[1:]} (out, rank)")
        found[name] = Adapter(part[A], part[B], _scale(name, part, about))
    if not found:
        raise ValueError(f"{file} holds no adapter")
    return found


def adapters_to_theirs(links: Sequence[Link], ours: Mapping[str, Adapter]) -> dict[str, Adapter]:
    """Adapters of our layers -> those of theirs. Raises ValueError for a layer that is no matrix in both layouts."""
    theirs: dict[str, Adapter] = {}
    left = dict(ours)
    for link in links:
        names = [key.removesuffix(WEIGHT) for key in link.ours]
        given = [ours.get(name) for name in names]
        if not any(given) or not link.ours[0].endswith(WEIGHT):
            continue
        axis, sizes, order = _plan(link.change, names[0])
        if isinstance(link.change, Split):
            made = [joined(given, sizes, axis)]
        else:
            (adapter,) = given
            assert adapter is not None
            inverse = torch.tensor(order).argsort() if order else None
            made = cut(adapter, sizes or _equal(adapter, axis, len(link.theirs)), axis, inverse)
        theirs |= {key.removesuffix(WEIGHT): each for key, each in zip(link.theirs, made, strict=True)}
        for name in names:
            left.pop(name, None)
    if left:
        raise ValueError(f"{next(iter(left))} is no layer of diffusers' class; leave it out of lora.targets")
    return theirs


def adapters_to_ours(
    links: Sequence[Link], theirs: Mapping[str, Adapter], shapes: Mapping[str, torch.Size]
) -> dict[str, Adapter]:
    """Adapters of their layers -> those of ours. shapes: of our weights.

    Raises ValueError for a layer that is no matrix in both layouts, is unknown, or has another size.
    """
    ours: dict[str, Adapter] = {}
    left = dict(theirs)
    for link in links:
        names = [key.removesuffix(WEIGHT) for key in link.theirs]
        given = [theirs.get(name) for name in names]
        if not any(given) or not link.theirs[0].endswith(WEIGHT):
            continue
        axis, sizes, order = _plan(link.change, names[0])
        wanted = link.change.back([torch.empty(shapes[key], device="meta") for key in link.ours])
        for name, adapter, like in zip(names, given, wanted, strict=True):
            if adapter is not None and (adapter.b.shape[0], adapter.a.shape[1]) != tuple(like.shape):
                there = (adapter.b.shape[0], adapter.a.shape[1])
                raise ValueError(f"{name} adapts a weight {there}; this network's is {tuple(like.shape)}")
        if isinstance(link.change, Joined):
            made = [joined(given, [like.shape[axis] for like in wanted], axis)]
        else:
            (adapter,) = given
            assert adapter is not None
            made = cut(adapter, sizes or _equal(adapter, axis, 1), axis, torch.tensor(order) if order else None)
        ours |= {key.removesuffix(WEIGHT): each for key, each in zip(link.ours, made, strict=True)}
        for name in names:
            left.pop(name, None)
    if left:
        raise ValueError(
            f"{next(iter(left))} is no layer of this network{f', nor are {len(left) - 1} more' * (len(left) > 1)}"
        )
    return ours


def cut(adapter: Adapter, sizes: Sequence[int], axis: int, order: Tensor | None = None) -> list[Adapter]:
    """The adapters of the parts of a weight that is cut along `axis` (0: outputs, 1: inputs), after taking `order`."""
    a, b, scale = adapter.a, adapter.b, adapter.scale
    whole = b if axis == 0 else a
    parts = (whole if order is None else whole.index_select(axis, order.to(whole.device))).split(list(sizes), axis)
    return [Adapter(a, part, scale) if axis == 0 else Adapter(part, b, scale) for part in parts]


def joined(parts: Sequence[Adapter | None], sizes: Sequence[int], axis: int) -> Adapter:
    """The adapter of a weight that is the concatenation of parts along `axis`. None: a part without an adapter."""
    if axis == 1:
        turned = joined([None if x is None else Adapter(x.b.T, x.a.T, x.scale) for x in parts], sizes, 0)
        return Adapter(turned.b.T, turned.a.T, turned.scale)
    there = [x for x in parts if x is not None]
    first = there[0]
    if len(there) == len(parts) and all(x.scale == first.scale and torch.equal(x.a, first.a) for x in there):
        return Adapter(first.a, torch.cat([x.b for x in there]), first.scale)
    b = first.b.new_zeros(sum(sizes), sum(x.rank for x in there))
    row = column = 0
    for part, size in zip(parts, sizes, strict=True):
        if part is not None:
            # One scale for all: that of the others goes into their numbers.
            b[row : row + size, column : column + part.rank] = part.b * (part.scale / first.scale)
            column += part.rank
        row += size
    return Adapter(torch.cat([x.a for x in there]), b, first.scale)


def _plan(change: Change, name: str) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
    """(axis, sizes along it, order along it) of a change; () for none. ValueError for a change of another kind."""
    if isinstance(change, Same) and change.shape is None:
        return 0, (), ()
    if isinstance(change, Joined):
        return change.axis, change.sizes or (), ()
    if isinstance(change, Split):
        return change.axis, change.sizes, ()
    if isinstance(change, Reordered) and change.axis < 2:
        return change.axis, (), change.order
    raise ValueError(f"{name} is no matrix in both layouts, so its adapter has no counterpart; leave it out")


def _equal(adapter: Adapter, axis: int, count: int) -> list[int]:
    size = adapter.b.shape[0] if axis == 0 else adapter.a.shape[1]
    return [size // count] * count


def _about(file: Path, text: str) -> dict[str, Any]:
    """peft's settings in a file's metadata. Raises ValueError for anything else, and for patterns that are no plain
    names: as regular expressions some would never end."""
    try:
        read = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: {METADATA} is not JSON ({str(error)[:80]})") from None
    if not isinstance(read, dict):
        raise ValueError(f"{file}: {METADATA} holds no mapping")
    about = {key.removeprefix(PREFIX): value for key, value in read.items()}
    patterns = about.get("alpha_pattern") or {}
    alphas = [about.get("lora_alpha", 1), *(patterns.values() if isinstance(patterns, dict) else [None])]
    if not all(type(value) in (int, float) for value in alphas):
        raise ValueError(f"{file}: lora_alpha and alpha_pattern of {METADATA} must be numbers, the latter of layers")
    for key in patterns:
        if not NAME_PATTERN.fullmatch(key):
            raise ValueError(f"{file}: alpha_pattern of {METADATA} names {shown(key)}, which is no layer's name")
    return about


def _scale(name: str, part: Mapping[str, Tensor], about: Mapping[str, Any]) -> float:
    """alpha / rank (or its root) of one layer."""
    rank = part[A].shape[0]
    if ALPHA in part:
        return float(part[ALPHA]) / rank
    if "lora_alpha" not in about:
        return 1.0
    patterns = about.get("alpha_pattern") or {}
    matching = (value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", name))
    alpha = float(next(matching, about["lora_alpha"]))
    return alpha / (rank**0.5 if about.get("use_rslora") else rank)
