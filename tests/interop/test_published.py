"""The published models: each preset is what the published configuration asks for, with as many parameters."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import pytest
import torch

from dit.interop.diffusers import family_named, net_config
from dit.interop.presets import build_empty, compose

diffusers = pytest.importorskip("diffusers")

# config.json of the published weights, named after our presets.
PUBLISHED = sorted((Path(__file__).parent / "published").glob("*.json"))


@pytest.mark.parametrize("file", PUBLISHED, ids=lambda file: file.stem)
def test_preset_is_the_published_configuration(file: Path) -> None:
    config = json.loads(file.read_text())
    preset = compose(file.stem)
    assert net_config(config) == preset

    settings = family_named(config["_class_name"]).settings(config)
    with torch.device("meta"):
        theirs = getattr(diffusers, config["_class_name"])(**settings)
    ours = build_empty(preset)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())


def test_another_setting_is_noticed() -> None:
    config = json.loads(PUBLISHED[-1].read_text())
    layers = next(name for name in ("num_layers",) if name in config)
    assert net_config({**config, layers: config[layers] - 1}) != compose(PUBLISHED[-1].stem)


@pytest.mark.parametrize("file", PUBLISHED, ids=lambda file: file.stem)
def test_defaults_are_those_of_diffusers(file: Path) -> None:
    """A setting that a later diffusers adds must be looked at here before it is ignored."""
    name = json.loads(file.read_text())["_class_name"]
    signature = inspect.signature(getattr(diffusers, name).__init__).parameters
    theirs = {key: list(p.default) if isinstance(p.default, tuple) else p.default for key, p in signature.items()}
    theirs.pop("self")
    assert family_named(name).defaults == theirs
