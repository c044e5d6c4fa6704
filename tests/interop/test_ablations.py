"""Each published model with parts exchanged from the command line: it builds, runs, and is another network."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from torch import Tensor

from dit.interop.diffusers import recognise
from dit.interop.families import FAMILIES
from dit.interop.family import Call, Family
from dit.interop.presets import compose
from dit.net.attention import NoQKNorm
from dit.net.backbone import Backbone
from scripts.twins.examples import Draw, example
from tests.interop.reference import randomise

CHANGES = ["net/position=sincos", "net/modulation=adaln_zero", "net/qk_norm=none", "net/norm=rmsnorm", "net.pattern=ST"]


def config(family: Family, *overrides: str) -> dict[str, Any]:
    return compose(family.preset, ["net/kernel=sdpa", *overrides])


def build(family: Family, *overrides: str) -> Backbone:
    net = instantiate(config(family, *overrides), _convert_="all").double()
    return randomise(net)  # type: ignore[return-value]


@cache
def published(preset: str) -> tuple[Backbone, Call, Tensor]:
    """A family's miniature, what it is called with, and what it makes of that; nobody changes them."""
    family = next(family for family in FAMILIES if family.preset == preset)
    net = build(family)
    call = arguments(family, net)
    with torch.no_grad():
        return net, call, net(*call)


def arguments(family: Family, net: Backbone) -> Call:
    """Random x, t and cond of the published model."""
    settings = family.settings(family.config(net))
    draw = Draw(torch.Generator().manual_seed(0), torch.float64)
    return family.call(net, example(family, settings, 2, (4, 8, 8), 5, draw))


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.preset)
def test_one_part_exchanged(family: Family, change: str) -> None:
    whole, call, before = published(family.preset)
    if change == "net.pattern=ST" and "S" not in config(family)["templates"]:
        with pytest.raises(InstantiationException, match="pattern='ST' must be of block templates D, E"):
            build(family, change)  # streams of two widths: there is no block that reads them as one sequence
        change = "net.pattern=D"
    net = build(family, change)
    with torch.no_grad():
        out = net(*call)
    assert out.shape == before.shape and bool(out.isfinite().all())
    if config(family) == config(family, change):
        return  # it has that part already
    assert not torch.allclose(out, before)
    try:
        assert recognise(net) is family and family.config(net) != family.config(whole)  # the class has that setting
    except ValueError as error:
        named = rf"this network is no {family.class_name}: (\S+ is .+, not .+|it embeds time with .+)"
        assert re.search(named, str(error))


NAMED = {
    ("cosmos_tiny", "net/mlp=swiglu"): "blocks.mlp.class is SwiGLU, not GELUMLP",
    ("dit_tiny", "net/label=none"): "vectors.label.class is absent, not ClassEmbedding",
    ("cogvideox_tiny", "net/level=sinusoid_per_block"): "level.class is PerBlockEmbedding, not ScalarEmbedding",
    ("latte_tiny", "net/text=none"): "text.class is NoText, not CrossText",
    ("wan21_tiny", "net/norm=rmsnorm"): "blocks.0.norm1.class is RMSNorm, not LayerNorm",
}


@pytest.mark.parametrize(("exchanged", "part"), NAMED.items(), ids=" ".join)
def test_a_network_that_is_no_published_one_is_told_the_part(exchanged: tuple[str, str], part: str) -> None:
    """Also where the class has no setting for such a part at all."""
    preset, change = exchanged
    family = next(family for family in FAMILIES if family.preset == preset)
    with pytest.raises(ValueError) as caught:
        recognise(build(family, change))
    assert str(caught.value) == f"this network is no {family.class_name}: {part}"


def test_what_is_exchanged_in_a_built_network_is_seen() -> None:
    net = build(FAMILIES[0])
    assert recognise(net) is FAMILIES[0]
    for attention in (part for block in net.blocks for part in (block.attention, block.cross_attention)):
        attention.norm_q = attention.norm_k = NoQKNorm(4, 24)
    with pytest.raises(ValueError, match="is no WanTransformer3DModel: blocks.0.attention.norm_q.class is"):
        recognise(net, anew=True)


def test_a_network_of_no_family_must_be_told_one() -> None:
    """As one whose config is of before there were families; the weights alone do not say."""
    net = build(FAMILIES[0], "net.family=null")
    with pytest.raises(ValueError, match=r"names no class of diffusers: say class_name= .*WanTransformer3DModel, "):
        recognise(net)
    assert recognise(net, class_name="WanTransformer3DModel") is FAMILIES[0]
    assert net.family is None


INTO_EVERY_BLOCK = {
    "cosmos_tiny": ["net/templates=standard", "net/templates=temporal_positions net.pattern=ST", "net.pattern=W"],
    "allegro_tiny": ["net.pattern=F", "net.pattern=P"],
    "cogvideox_tiny": ["net.pattern=J"],
    "hunyuan_video_tiny": ["net.pattern=D"],
    "mochi_tiny": ["net.pattern=DE", "net.pattern=E"],
}


@pytest.mark.parametrize(
    ("preset", "change"), [(preset, change) for preset, changes in INTO_EVERY_BLOCK.items() for change in changes]
)
def test_cosmos_positions_go_into_every_kind_of_block(preset: str, change: str) -> None:
    """Learned tables of the axes, which blocks add: in each template, and in each block."""
    family = next(family for family in FAMILIES if family.preset == preset)
    x, t, cond = arguments(family, build(family))
    net = build(family, "net/position=timed_rope_tables", *change.split())
    with torch.no_grad():
        whole = net(x, t, cond)
        for block in net.blocks:
            without = block.register_forward_pre_hook(lambda _, given: (*given[:2], replace(given[2], offset=None)))
            assert not torch.allclose(net(x, t, cond), whole)
            without.remove()


def test_channels_that_the_axes_cannot_share_equally_are_an_error() -> None:
    family = next(family for family in FAMILIES if family.preset == "cogvideox_tiny")
    x, t, cond = arguments(family, build(family))
    with pytest.raises(ValueError, match="a head of 32 channels is not 3 equal parts of pairs; nearest: 30, 36"):
        build(family, "net/position=rope3d_interpolated")(x, t, cond)
