"""`build(node)`: a node of a config becomes what it describes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from dit.config.kinds import PARTIAL, SPECIAL, TARGET, fitted, resolve


def build(node: Any, path: str = "") -> Any:
    """A plain node with `_target_` called with its other keys, after those inside it; `_partial_: true` makes a
    function that waits for the arguments of its owner. Lists and mappings are gone through, anything else stays.

    As Hydra's `instantiate`, but for two things: arguments are held against their annotations first (`kinds.fitted`),
    and a text is a text: `${...}` in it is not looked up.

    Args:
        node: plain containers and scalars.
        path: of the node in the config, for the messages.

    Raises:
        ValueError: an argument that does not fit, with its path; whatever a constructor raises comes as it is.
    """
    return built(fitted(node, path=path))


def built(node: Any) -> Any:
    """A node that fits, built; `build` without its check."""
    if isinstance(node, Mapping):
        inside = {key: built(value) for key, value in node.items() if TARGET not in node or key not in SPECIAL}
        if TARGET not in node:
            return inside
        made = resolve(str(node[TARGET]))
        return partial(made, **inside) if node.get(PARTIAL) else made(**inside)
    return [built(each) for each in node] if isinstance(node, (list, tuple)) else node
