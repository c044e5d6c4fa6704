"""What a network computes, as plain values: two networks with equal descriptions differ in their weights alone."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from dit.net.backbone import Backbone

# Attributes that do not change what a network computes: descriptions leave them out.
HOW = {"training", "kernel", "runner", "init", "std", "family"}


def describe(net: Backbone) -> dict[str, Any]:
    """Dotted name -> plain value: the class of each module and object, its settings, the shapes of its parameters."""
    found: dict[str, Any] = {}
    for name, module in net.named_modules():
        found |= _object(f"{name}." if name else "", module)
        found |= {f"{name}.{key}": tuple(value.shape) for key, value in module.named_parameters(recurse=False)}
    return found


def _object(prefix: str, thing: Any) -> dict[str, Any]:
    found: dict[str, Any] = {f"{prefix}class": type(thing).__name__}
    for key, value in vars(thing).items():
        if key.startswith("_") or key in HOW:
            continue
        found |= _value(f"{prefix}{key}", value)
    return found


def _value(name: str, value: Any) -> dict[str, Any]:
    if value is None or isinstance(value, (bool, int, float, str)):
        return {name: value}
    if isinstance(value, Mapping):
        # The order of an axis split is the order of the channels.
        parts = [_value(f"{name}.{key}", part) for key, part in value.items()]
        return {name: list(value), **{key: plain for part in parts for key, plain in part.items()}}
    if isinstance(value, Sequence):
        return {k: v for i, part in enumerate(value) for k, v in _value(f"{name}.{i}", part).items()}
    if type(value).__module__.startswith("dit.") and not isinstance(value, nn.Module):
        return _object(f"{name}.", value)
    return {}


def kinds(description: Mapping[str, Any]) -> dict[str, Any]:
    """Only the classes of the parts, not their sizes; all blocks count as one, the last."""
    return {re.sub(r"^blocks\.\d+", "blocks", name): v for name, v in description.items() if name.endswith("class")}


def difference(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str | None:
    """The first difference between two descriptions, in words; None when they are equal."""
    for name in [*theirs, *(name for name in ours if name not in theirs)]:
        if ours.get(name) != theirs.get(name) or (name in ours) != (name in theirs):
            return f"{name} is {ours.get(name, 'absent')}, not {theirs.get(name, 'absent')}"
    return None
