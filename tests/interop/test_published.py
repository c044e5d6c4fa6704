"""The published models: each preset is what the published configuration asks for, with as many parameters."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import pytest
import torch

from dit.interop.diffusers import family_named, net_config
from dit.interop.presets import build_empty, compose
from dit.interop.weights import Copies

diffusers = pytest.importorskip("diffusers")

# config.json of the published weights, named after our presets.
PUBLISHED = sorted((Path(__file__).parent / "published").glob("*.json"))


@pytest.mark.parametrize("file", PUBLISHED, ids=lambda file: file.stem)
def test_preset_is_the_published_configuration(file: Path) -> None:
    config = json.loads(file.read_text())
    preset = compose(file.stem)
    assert net_config(config) == preset

    family = family_named(config["_class_name"])
    with torch.device("meta"):
        theirs = getattr(diffusers, config["_class_name"])(**family.settings(config))
    ours = build_empty(preset)
    # Copies that a class of diffusers holds of one tensor of ours (the embedders of DiT's blocks).
    copied = [link for link in family.links(ours) if isinstance(link.change, Copies)]
    repeated = sum((len(link.theirs) - 1) * ours.get_parameter(link.ours[0]).numel() for link in copied)
    # What it saves, not its parameters alone: CogVideoX's learned positions are a buffer there.
    saved = sum(tensor.numel() for tensor in theirs.state_dict().values())
    assert sum(p.numel() for p in ours.parameters()) + repeated == saved


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
