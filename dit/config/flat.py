"""A config as one level of dotted keys, for whoever compares two."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

# What stands in a config under its own name, too, and is compared there: the objective joins groups, and two callbacks
# are told what others say.
COPIES = (
    *(f"objective.{part}" for part in ("path", "prediction", "levels", "weighting", "conditioning", "space")),
    "callbacks.guard",
    "callbacks.randomness",
)


def leaves(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """(`net.position.theta`, 10000.0) of each value that is no mapping, or an empty one, in the order of the config."""
    if isinstance(node, Mapping) and node:
        for name, value in node.items():
            yield from leaves(value, f"{key}.{name}" if key else str(name))
    else:
        yield key, node


def lies_in(key: str, places: Iterable[str]) -> bool:
    """Whether a key is one of `places` or inside one."""
    return any(key == place or key.startswith(f"{place}.") for place in places)
