"""Networks built from configs/net, as the command line builds them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
import torch
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate
from omegaconf import OmegaConf

from dit.net.backbone import Backbone

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def compose(preset: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """configs/net/<preset>.yaml with Hydra overrides (`net.width=64`, `net/qk_norm=none`), plain and resolved."""
    with outside_of_hydra(), hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = hydra.compose(f"net/{preset}", overrides=list(overrides))
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
    """The network of a config on the meta device: every shape, no memory."""
    with torch.device("meta"):
        return instantiate(config, _convert_="all")
