"""Networks built from configs/net, as the command line builds them."""

from __future__ import annotations

import copy
import functools
import operator
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
import torch
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from dit.foreign import Kind, build, check_plain
from dit.interop.family import Overrides
from dit.net.backbone import Backbone

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def compose(preset: str, overrides: Sequence[str] = (), made: Overrides | None = None) -> dict[str, Any]:
    """configs/net/<preset>.yaml with changes, plain and resolved.

    overrides: of Hydra (`net.width=64`, `net/qk_norm=none`). Hydra parses them, so they must come from code or the
    user, never from a file. made: changes that follow from a file; their values are not parsed.
    """
    made = made or Overrides({}, {})
    check_plain(dict(made.values), "net")
    groups = [f"net/{group}={option}" for group, option in made.groups.items()]
    assert all(re.fullmatch(r"net/\w+=\w+", choice) for choice in groups), groups
    config = copy.deepcopy(_composed(CONFIGS, f"net/{preset}", (*groups, *overrides)))
    for key, value in made.values.items():
        # A mapping changes entries or adds some; any other key must exist.
        OmegaConf.update(config.net, key, value, merge=True, force_add=isinstance(value, dict))
    plain = OmegaConf.to_container(config.net, resolve=True)
    assert isinstance(plain, dict)
    return plain  # type: ignore[return-value]


def compose_part(group: str, choice: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """configs/<group>/<choice>.yaml, plain and resolved, with values that follow from a file: set as they are."""
    check_plain(dict(values), group)
    return with_values(OmegaConf.to_container(_composed(CONFIGS, f"{group}/{choice}")[group], resolve=True), values)


@functools.cache
def _composed(configs: Path, name: str, overrides: tuple[str, ...] = ()) -> Any:
    """What Hydra makes of a file, to be copied before it is changed. It takes a fifth of a second, and opening a
    pipeline asks for the same files several times."""
    with outside_of_hydra(), hydra.initialize_config_dir(str(configs), version_base="1.3"):
        return hydra.compose(name, overrides=list(overrides))


def with_values(config: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """A plain config with other values at some of its keys (`position.first`), which must be there."""
    made = copy.deepcopy(config)
    for key, value in values.items():
        *path, last = key.split(".")
        node = functools.reduce(operator.getitem, path, made)
        assert last in node, key
        node[last] = value
    return made  # type: ignore[no-any-return]


@contextmanager
def outside_of_hydra() -> Iterator[None]:
    """Within, a config can be composed while a Hydra command runs, of which Hydra knows only one at a time."""
    state = GlobalHydra.instance()
    running, state.hydra = state.hydra, None
    try:
        yield
    finally:
        state.hydra = running


def build_empty(config: dict[str, Any]) -> Backbone:
    """The network of a config, which may come from anyone, on the meta device: it has shapes and takes no memory."""
    with torch.device("meta"):
        return build(config, Kind(Backbone, "dit.net"), "net")
