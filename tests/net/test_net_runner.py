"""Runners around a network's own: looking at a block's output, leaving blocks out, whatever needs them all in hand."""

from __future__ import annotations

import pytest
import torch

from dit.net.backbone import Backbone
from dit.net.context import Context
from dit.net.runner import Blocks, Runner, Streams, running, skipping, tapped
from tests.net.conftest import Build


def inputs(net: Backbone) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 4, 6, 5, generator=draw, dtype=torch.float64)
    t = torch.rand(2, 1, generator=draw, dtype=torch.float64)
    cond = {
        "text": torch.randn(2, 7, 10, generator=draw, dtype=torch.float64),
        "given": torch.zeros(2, 1, 4, 6, 5, dtype=torch.float64),
    }
    return x, t, cond


@pytest.mark.parametrize("checkpointing", ["none", "blocks"])
def test_a_tap_keeps_the_blocks_output_with_its_graph(randomised: Build, checkpointing: str) -> None:
    net = randomised("net.depth=3", f"net/checkpointing={checkpointing}")
    x, t, cond = inputs(net)
    plain = net(x, t, cond)
    seen: list[torch.Tensor] = []
    net.blocks[1].register_forward_hook(lambda module, given, out: seen.append(out[0]))
    with tapped(net, 1) as tap:
        out = net(x, t, cond)
    assert torch.equal(out, plain) and torch.equal(tap.tokens, seen[0])
    tap.tokens.square().sum().backward()
    assert net.blocks[1].mlp.down.weight.grad.abs().max() > 0  # type: ignore[union-attr]
    assert net.blocks[2].mlp.down.weight.grad is None  # type: ignore[union-attr]
    net(x + 1, t, cond)
    assert torch.equal(tap.tokens, seen[0])  # nothing is kept outside


def test_skipping_is_the_network_without_the_blocks(randomised: Build) -> None:
    net = randomised("net.depth=4")
    x, t, cond = inputs(net)
    plain = net(x, t, cond)
    with skipping(net, [1, 2]):
        without = net(x, t, cond)
    assert torch.equal(net(x, t, cond), plain)
    net.blocks = torch.nn.ModuleList([net.blocks[0], net.blocks[3]])
    assert torch.equal(without, net(x, t, cond)) and not torch.allclose(without, plain)


class Twice:
    """Runs all blocks, then all of them once more: what one block at a time cannot do."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner

    def __call__(self, blocks: Blocks, streams: Streams, context: Context) -> Streams:
        return self.runner(blocks, self.runner(blocks, streams, context), context)


@pytest.mark.parametrize("checkpointing", ["none", "blocks"])
def test_runners_stand_around_one_another(randomised: Build, checkpointing: str) -> None:
    net = randomised("net.depth=3", f"net/checkpointing={checkpointing}")
    x, t, cond = inputs(net)
    with skipping(net, [1]), tapped(net, 0) as tap, running(net, Twice(net.runner)):
        out = net(x, t, cond)
    net.blocks = torch.nn.ModuleList([net.blocks[i] for i in (0, 2, 0, 2)])
    with tapped(net, 2) as other:
        assert torch.equal(net(x, t, cond), out)
    assert torch.equal(tap.tokens, other.tokens)


def test_an_error_inside_leaves_the_network_whole(randomised: Build) -> None:
    net = randomised()
    x, t, cond = inputs(net)
    plain = net(x, t, cond)
    with pytest.raises(RuntimeError), skipping(net, [0]):
        raise RuntimeError
    assert torch.equal(net(x, t, cond), plain)


def test_mistakes(build: Build) -> None:
    net = build()
    with pytest.raises(ValueError, match="block 2 is not in this network: its blocks are 0 to 1"), skipping(net, [2]):
        pass
    with pytest.raises(ValueError, match="block 0.5 is not in this network"), skipping(net, [0.5]):  # type: ignore[list-item]
        pass
    with tapped(net, 0) as tap, pytest.raises(ValueError, match="has not run yet"):
        _ = tap.tokens
