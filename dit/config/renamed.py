"""What classes and arguments are called now that configs of before name otherwise. Nothing else knows the old names.

A run's `config.yaml`, the config in a checkpoint and that of a saved network hold names of classes and arguments.
Whoever reads one gives it to `current` first: then it builds, and equals what the same command composes today.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dit.config.kinds import TARGET

CLASSES = {
    "dit.interop.adapter.LoRA": "dit.adapters.LoRA",
    "dit.net.alignment.Alignment": "dit.recipes.alignment.Alignment",
    "dit.net.alignment.FrameFeatures": "dit.recipes.encoders.FrameFeatures",
    "dit.net.alignment.pretrained": "dit.recipes.encoders.pretrained",
}
ARGUMENTS: dict[str, dict[str, str]] = {}  # class, by its name of today -> argument -> what it is called now


def current(node: Any) -> Any:
    """A config, or a part of one, with the names of today. node: plain containers, no deeper than Python recurses."""
    if isinstance(node, (list, tuple)):
        return [current(each) for each in node]
    if not isinstance(node, Mapping):
        return node
    target = node.get(TARGET)
    if not isinstance(target, str):
        return {key: current(value) for key, value in node.items()}
    target = CLASSES.get(target, target)
    arguments = ARGUMENTS.get(target, {})
    renamed = {arguments.get(key, key): current(value) for key, value in node.items()}
    return {**renamed, TARGET: target}
