"""Places of a config that a published model fills: with `experiment=finetune` all parts are those of `init_from`."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from typing import Any

OWN = "own"  # of a setting: as the model has it


class OfInit:
    """Stands for what the published model of `init_from` has at `key` of its config. `filled` puts that in its place.

    Raises ValueError when it is built: then no such model was named.
    """

    def __init__(self, key: str) -> None:
        raise ValueError(f"{key} is that of a published model: init_from=DIR names its folder (with model_index.json)")


class OfNet(OfInit):
    """Its network, with settings of ours that change no more than speed and memory."""

    def __init__(self, key: str, kernel: Any, checkpointing: Any) -> None:
        super().__init__(key)


class OfCodec(OfInit):
    """Its autoencoder, with settings of ours: precision, memory, and whether latents are drawn or the mode."""

    def __init__(self, key: str, dtype: Any, batch: Any, posterior: Any, tiling: Any) -> None:
        super().__init__(key)


class OfText(OfInit):
    """Its text encoder, in a precision of ours."""

    def __init__(self, key: str, dtype: Any) -> None:
        super().__init__(key)


TARGET = f"{OfInit.__module__}.{OfInit.__qualname__}"
# Place -> the settings that may be others than the model's, by their names in its config.
PLACES = {
    f"{place.__module__}.{place.__qualname__}": tuple(inspect.signature(place).parameters)[1:]
    for place in (OfInit, OfNet, OfCodec, OfText)
}


def is_open(value: Any) -> bool:
    """Whether a value of a config, or anything in it, is still to be filled."""
    if isinstance(value, Mapping):
        return str(value.get("_target_")) in PLACES or any(map(is_open, value.values()))
    return isinstance(value, (list, tuple)) and any(map(is_open, value))


def filled(value: Any, model: Mapping[str, Any]) -> Any:
    """A config with what `model`, the config of a published one, has in all open places, but for settings that say
    something else than `own`.

    Raises ValueError where such a place holds anything more, as where one part of it was overridden, and for a setting
    that the model's part does not have.
    """
    if isinstance(value, (list, tuple)):
        return [filled(each, model) for each in value]
    if not isinstance(value, Mapping):
        return value
    if (settings := PLACES.get(str(value.get("_target_")))) is None:
        return {key: filled(each, model) for key, each in value.items()}
    if more := [str(key) for key in value if key not in ("_target_", "key", *settings)]:
        raise ValueError(
            f"{value['key']}.{more[0]} cannot be set beside a published model, whose own it is: give init_from= its"
            f" network alone, and choose the parts"
        )
    found: Any = model
    for name in str(value["key"]).split("."):
        found = found[name]
    found = copy.deepcopy(found)
    for name in settings:
        if value[name] == OWN:
            continue
        if not isinstance(found, dict) or name not in found:
            raise ValueError(
                f"{value['key']}.{name}={value[name]}: the model has no {value['key']} of which that is set"
            )
        found[name] = value[name]
    return found
