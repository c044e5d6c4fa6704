"""Networks built from configs/net, as the command line builds them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
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

    overrides: of Hydra (`net.width=64`, `net/qk_norm=none`), which are read as text: from code or the user alone, never
    made of what a file says. made: choices and values that follow from a file; values are set as they are.
    """
    made = made or Overrides({}, {})
    check_plain(dict(made.values), "net")
    groups = [f"net/{group}={option}" for group, option in made.groups.items()]
    assert all(re.fullmatch(r"net/\w+=\w+", choice) for choice in groups), groups
    with outside_of_hydra(), hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = hydra.compose(f"net/{preset}", overrides=[*groups, *overrides])
    for key, value in made.values.items():
        # A mapping changes entries, and may add some; any other key must be there.
        OmegaConf.update(config.net, key, value, merge=True, force_add=isinstance(value, dict))
    plain = OmegaConf.to_container(config.net, resolve=True)
    assert isinstance(plain, dict)
    return plain  # type: ignore[return-value]


@contextmanager
def outside_of_hydra() -> Iterator[None]:
    """Within: as if no Hydra command were running. Hydra composes for one at a time."""
    state = GlobalHydra.instance()
    running, state.hydra = state.hydra, None
    try:
        yield
    finally:
        state.hydra = running


def build_empty(config: dict[str, Any]) -> Backbone:
    """The network of a config, which may be anyone's, on the meta device: every shape, no memory."""
    with torch.device("meta"):
        return build(config, Kind(Backbone, "dit.net"), "net")
