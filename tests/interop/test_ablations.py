"""Each published model with one part exchanged from the command line: it builds, runs, and is another network."""

from __future__ import annotations

import pytest
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate

from dit.interop.diffusers import recognise
from dit.interop.families import FAMILIES
from dit.interop.family import Draw, Family
from dit.interop.presets import compose
from dit.net.backbone import Backbone
from tests.interop.reference import randomise

CHANGES = ["net/position=sincos", "net/modulation=adaln_zero", "net/qk_norm=none", "net/norm=rmsnorm", "net.pattern=ST"]


def build(family: Family, *overrides: str) -> Backbone:
    net = instantiate(compose(family.preset, ["net/kernel=sdpa", *overrides]), _convert_="all").double()
    return randomise(net)  # type: ignore[return-value]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.preset)
def test_one_part_exchanged(family: Family, change: str) -> None:
    whole = build(family)
    draw = Draw(torch.Generator().manual_seed(0), torch.float64)
    settings = family.settings(family.config(whole))
    arguments = family.example(settings, 2, (4, 8, 8), 5, draw)
    x, t, cond = family.call(whole, arguments)
    if change == "net.pattern=ST" and "S" not in compose(family.preset)["templates"]:
        with pytest.raises(InstantiationException, match="pattern='ST' must be of block templates D, E"):
            build(family, change)  # streams of two widths: there is no block that reads them as one sequence
        change = "net.pattern=D"
    net = build(family, change)
    with torch.no_grad():
        out, before = net(x, t, cond), whole(x, t, cond)
    assert out.shape == before.shape and bool(out.isfinite().all())
    if compose(family.preset) == compose(family.preset, [change]):
        return  # it has that part already
    assert not torch.allclose(out, before)
    try:
        assert recognise(net) is family and family.config(net) != family.config(whole)  # the class has that setting
    except ValueError as error:
        assert "none of diffusers' classes" in str(error)
