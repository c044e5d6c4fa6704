"""A run that no machine of this size can hold is refused before anything of its size is made."""

from __future__ import annotations

from typing import Any

import hydra
import pytest
import torch
from omegaconf import OmegaConf

from dit.config.build import build
from dit.engine import memory
from dit.entry import CONFIGS


def config(*overrides: str) -> dict[str, Any]:
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        composed: Any = OmegaConf.to_container(hydra.compose("train", ["experiment=demo", *overrides]), resolve=True)
    return composed


def test_the_estimate_is_the_network() -> None:
    for pattern, depth in (("F", 7), ("ST", 6)):
        node = config(f"net.depth={depth}", f"net.pattern={pattern}")["net"]
        with torch.device("meta"):
            net = build(node)
        assert memory.size_of("net", node) == sum(p.numel() * p.element_size() for p in net.parameters())


@pytest.mark.parametrize(
    "override, said",
    [
        ("net.depth=1000000007", "net and text need at least .* PB for weights"),
        ("net.width=600000", "net and text need at least .* TB for weights"),
        ("net.width=6000000000", "net has a tensor of more numbers than can be counted"),
        ("text.depth=1000000007", "text has more than 2,000 tensors of weights"),
        ("data.batch_size=1000000007", "a batch of data.batch_size=1000000007 clips of 8 frames of 32x32 is .* TB"),
    ],
)
def test_sizes_that_no_machine_has(override: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "memory", lambda: 64 * 10**9)
    monkeypatch.setattr(memory, "MOST_TENSORS", 2_000)
    with pytest.raises(ValueError, match=said):
        memory.check(config(override), on_cpu=True)
    memory.check(config(), on_cpu=True)
