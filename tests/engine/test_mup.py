"""net/init=mup: nothing changes at the base width; away from it, activations change as much at every width."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hydra
import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from dit.config.build import build
from dit.engine.coordinate_check import OUTPUT, changes, slopes
from dit.engine.optim import adamw, muon
from dit.net.backbone import Backbone
from dit.statistics import Estimate

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
HEAD = 8
SIZES = ["net.depth=2", "net.patch=[2,4,4]", "net.text_width=12", "net/kernel=sdpa"]
BASE = ["net/init=mup", "net.init.base_width=16", "net.init.base_heads=2"]
ADAMW: dict[str, Any] = {"lr": 0.01, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.1, "fused": False}
MUON: dict[str, Any] = {
    "lr": 0.05, "momentum": 0.9, "nesterov": True, "ns_steps": 5, "ns_smallest": None, "weight_decay": 0.1,
    "adjust_lr": "original",
    "adamw_lr": 0.01, "adamw_betas": (0.9, 0.99), "adamw_eps": 1e-8, "adamw_weight_decay": 0.1,
}  # fmt: skip


def network(width: int, *overrides: str, seed: int = 0) -> Backbone:
    sizes = [f"net.width={width}", f"net.heads={width // HEAD}", *SIZES]
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = hydra.compose(overrides=["+net=demo", *sizes, *overrides])
    torch.manual_seed(seed)
    return build(OmegaConf.to_container(config.net, resolve=True))


def by_name(net: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, tuple[float, float]]:
    """Parameter -> its rate and weight decay."""
    of = {id(p): name for name, p in net.named_parameters()}
    return {of[id(p)]: (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}


def test_at_the_base_width_nothing_changes() -> None:
    plain, scaled = network(16), network(16, *BASE)
    for (name, here), there in zip(plain.named_parameters(), scaled.parameters(), strict=True):
        assert torch.equal(here, there), name
    for rule, settings in ((adamw, ADAMW), (muon, MUON)):
        one, other = (rule(net, **settings).state_dict()["param_groups"] for net in (plain, scaled))
        assert one == other


def test_variances_and_rates_follow_the_inputs() -> None:
    """At 4 times the base's width."""
    base, net = network(16, *BASE), network(64, *BASE)
    rates = by_name(net, adamw(net, **ADAMW))
    hidden = ["blocks.0.attention.qkv.weight", "blocks.1.mlp.down.weight", "level.out.weight"]
    spread = {name: (net.get_parameter(name).std() / base.get_parameter(name).std()).item() for name in rates
              if name.endswith("weight") and net.get_parameter(name).any()}  # fmt: skip
    for name in (*hidden, "final.linear.weight"):
        assert rates[name] == pytest.approx((0.0025, 0.4)), name
    for name in ("embed.weight", "level.hidden.weight"):
        assert rates[name] == pytest.approx((0.01, 0.1)) and spread[name] == pytest.approx(1, abs=0.1), name
    for name in hidden:
        assert spread[name] == pytest.approx(0.5, abs=0.08), name
    assert rates["blocks.0.mlp.up.bias"] == (0.01, 0.0)


def test_muon_keeps_its_rates_or_is_brought_to_grow_alike() -> None:
    net, name = network(64, *BASE), "blocks.0.attention.out.weight"
    assert by_name(net, muon(net, **MUON))[name] == (0.05, 0.1)
    rates = by_name(net, muon(net, **{**MUON, "adjust_lr": "match_rms_adamw"}))
    assert rates[name] == pytest.approx((0.025, 0.2))  # torch's own factor grows twofold
    assert rates["final.linear.weight"] == pytest.approx((0.0025, 0.4))


def test_heads_of_another_size_are_refused() -> None:
    with pytest.raises(Exception, match=r"heads of one size; net.heads=8 is nearest"):
        network(64, *BASE, "net.heads=4")


def measured(rule: Any, settings: dict[str, Any], *overrides: str) -> dict[str, Estimate]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 4, 8, 8, generator=generator)
    cond = {"given": torch.zeros(2, 1, 4, 8, 8), "pooled": torch.randn(2, 12, generator=generator)}
    inputs, target = (x, torch.rand(2, 1, generator=generator), cond), torch.randn(x.shape, generator=generator)
    return slopes(
        {
            width: [
                changes(network(width, *overrides, seed=seed), lambda net: rule(net, **settings), inputs, target, 5)
                for seed in range(2)
            ]
            for width in (16, 32, 64)
        }
    )


@pytest.mark.parametrize("rule, settings", [(adamw, ADAMW), (muon, MUON)], ids=["adamw", "muon"])
def test_activations_change_as_much_at_every_width(rule: Any, settings: dict[str, Any]) -> None:
    for name, slope in measured(rule, settings, *BASE).items():
        assert abs(slope.mean) < 0.12, (name, slope)


def test_without_it_they_do_not() -> None:
    found = measured(adamw, ADAMW)
    assert found[OUTPUT].mean > 0.2 and found["embed"].mean < -0.12


def test_a_slope_has_its_exponent() -> None:
    found = slopes({width: [{"a": 3 * width**0.5 * noise} for noise in (0.99, 1.01)] for width in (8, 16, 32)})
    low, high = found["a"].low, found["a"].high
    assert found["a"].mean == pytest.approx(0.5) and low is not None and high is not None and low < 0.5 < high
    with pytest.raises(ValueError, match="2 widths are too few"):
        slopes({8: [{"a": 1.0}], 16: [{"a": 1.0}]})
    with pytest.raises(ValueError, match=r"change of a at width 16 is 0; try another optim.lr"):
        slopes({8: [{"a": 1.0}], 16: [{"a": 0.0}], 32: [{"a": 1.0}]})
