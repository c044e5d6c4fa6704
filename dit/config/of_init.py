"""Places of a config that a published model fills: with `experiment=finetune` all parts are those of `init_from`."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any


class OfInit:
    """Stands for what the published model of `init_from` has at `key` of its config. `filled` puts that in its place.

    Raises ValueError when it is built: then no such model was named.
    """

    def __init__(self, key: str) -> None:
        raise ValueError(f"{key} is that of a published model: init_from=DIR names its folder (with model_index.json)")


TARGET = f"{OfInit.__module__}.{OfInit.__qualname__}"


def is_open(value: Any) -> bool:
    """Whether a value of a config, or anything in it, is still to be filled."""
    if isinstance(value, Mapping):
        return value.get("_target_") == TARGET or any(map(is_open, value.values()))
    return isinstance(value, (list, tuple)) and any(map(is_open, value))


def filled(value: Any, model: Mapping[str, Any]) -> Any:
    """A config with what `model`, the config of a published one, has in all open places.

    Raises ValueError where such a place holds anything more, as where one part of it was overridden.
    """
    if isinstance(value, (list, tuple)):
        return [filled(each, model) for each in value]
    if not isinstance(value, Mapping):
        return value
    if value.get("_target_") != TARGET:
        return {key: filled(each, model) for key, each in value.items()}
    if more := [str(key) for key in value if key not in ("_target_", "key")]:
        raise ValueError(
            f"{value['key']}.{more[0]} cannot be set beside a published model, whose own it is: give init_from= its"
            f" network alone, and choose the parts"
        )
    found: Any = model
    for name in str(value["key"]).split("."):
        found = found[name]
    return copy.deepcopy(found)
