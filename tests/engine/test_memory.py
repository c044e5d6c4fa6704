"""A run that no machine of this size can hold is refused before anything of its size is made."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dit.config.build import build
from dit.engine import memory
from tests.engine import small
from tests.engine.runs import composed


def config(*overrides: str) -> dict[str, Any]:
    return composed("experiment=demo", *overrides)


def test_the_estimate_is_the_network() -> None:
    for pattern, depth in (("F", 7), ("ST", 6), ("S2T", 9)):
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


def test_what_a_recipe_has_beside_the_network_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trained critic takes weights, gradients and a moment, a frozen teacher weights, and the text encoder is frozen,
    too: 4 + 3 + 1 networks and 1 text encoder, where denoising takes 4 and 4."""
    plain, distilled = config(), config("recipe=distribution_matching")
    net, text = (memory.size_of(name, plain[name]) for name in ("net", "text"))
    for asked, on_cpu, needed, who in (
        (plain, True, 4 * net + 4 * text, "net and text need"),
        (distilled, True, 8 * net + text, "net, text, critic and teacher need"),
        (distilled, False, 3 * net + text, "net, text, critic and teacher need"),
    ):
        monkeypatch.setattr(memory, "memory", lambda: needed)  # noqa: B023
        memory.check(asked, on_cpu)
        monkeypatch.setattr(memory, "memory", lambda: needed - 1)  # noqa: B023
        with pytest.raises(ValueError, match=f"^{who} at least "):
            memory.check(asked, on_cpu)


def test_a_recipe_has_the_copies_that_it_declares() -> None:
    for module in (small.distilled(), small.model()):
        parts = {name: part.optimizer for name, part in module.parts.items()}
        assert parts == module.recipe.copies
        size = sum(p.numel() for p in module.net.parameters())
        assert all(sum(p.numel() for p in part.module.parameters()) == size for part in module.parts.values())
