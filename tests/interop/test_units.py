"""In which units published weights were trained: `call` divides by what the network multiplies with, whatever it is."""

from __future__ import annotations

import pytest
import torch

from dit.interop.families import FAMILIES
from dit.interop.family import Family
from dit.interop.presets import build_empty, compose
from scripts.twins.examples import Draw, example

TIMESTEP = 250.0
# Our level of the references' timestep 250: a thousandth; Cosmos is told its level itself, Mochi how clean it is.
LEVELS = {"CosmosTransformer3DModel": 250.0, "MochiTransformer3DModel": 0.75}


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.class_name)
def test_levels_are_thousandths_of_timesteps(family: Family) -> None:
    net = build_empty(compose(family.preset))
    draw = Draw(torch.Generator().manual_seed(0), torch.float64)
    arguments = example(family, family.settings(family.config(net)), 2, (4, 8, 8), 5, draw)
    arguments["timestep"] = torch.full((2,), TIMESTEP, dtype=torch.float64)
    _, t, _ = family.call(net, arguments)
    assert t[:, -1].tolist() == [LEVELS.get(family.class_name, 0.25)] * 2


def test_guidance_is_the_scale_itself() -> None:
    """HunyuanVideo's pipeline tells its class 1000 times the scale; our networks are told the scale."""
    (family,) = (family for family in FAMILIES if family.preset == "hunyuan_video_tiny")
    net = build_empty(compose(family.preset))
    draw = Draw(torch.Generator().manual_seed(0), torch.float64)
    arguments = example(family, family.settings(family.config(net)), 2, (4, 8, 8), 5, draw)
    arguments["guidance"] = torch.tensor([6000.0, 1000.0])
    _, _, cond = family.call(net, arguments)
    assert cond["guidance"].tolist() == [6.0, 1.0]
