"""torch.compile: every published family is one graph that computes the same, and nothing is compiled twice in vain.

`aot_eager` traces forward and backward as inductor would have them, and generates no code: seconds a network.
"""

from __future__ import annotations

import shutil
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch._inductor import config as inductor
from torch._inductor.utils import fresh_cache

from dit.engine.blocks import compile_blocks
from dit.interop.families import FAMILIES
from dit.interop.family import Family
from dit.interop.presets import compose
from dit.net import runner
from dit.net.backbone import Backbone
from dit.net.coordinates import Coordinates
from dit.net.kernels import auto
from dit.net.patches import token_grid
from scripts.twins.examples import Draw, example
from tests.interop.reference import randomise

Call = tuple[Tensor, Tensor, dict[str, Tensor]]

# Tracing takes as long as there are blocks: one of each kind of a family's.
SHORTEST = {
    "hunyuan_video_tiny": ("net.depth=2", "net.pattern=DP"),
    "kandinsky5_tiny": ("net.depth=2", "net.pattern=XR"),
    "latte_tiny": ("net.depth=2",),
    "mochi_tiny": (),
}
each_family = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.preset)
WAN = next(family for family in FAMILIES if family.preset == "wan21_tiny")


@pytest.fixture(autouse=True)
def as_new(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is compiled yet, and no attention kernel chosen: the question which one must not cut a graph."""
    monkeypatch.setattr(auto, "_choices", {})
    torch._dynamo.reset()
    counters.clear()


def network(family: Family, *overrides: str) -> Backbone:
    """The family's miniature with random weights, in float64."""
    net: Any = instantiate(compose(family.preset, list(overrides)), _convert_="all").double()
    return randomise(net)  # type: ignore[return-value]


def call(family: Family, net: Backbone, batch: int = 2, size: tuple[int, ...] = (2, 4, 6), text: int = 5) -> Call:
    """x, t and cond as the published model has them. DiT knows single images alone."""
    settings = family.settings(family.config(net))
    draw = Draw(torch.Generator().manual_seed(3), torch.float64)
    frames = 1 if family.preset == "dit_tiny" else size[0]
    return family.call(net, example(family, settings, batch, (frames, *size[1:]), text, draw))  # type: ignore[arg-type]


def graphs() -> int:
    """How many graphs were compiled so far."""
    return counters["stats"]["unique_graphs"]


def results(function: Any, net: Backbone, given: Call) -> list[Tensor]:
    """Output, and gradients to x and every parameter (zeros where there is none)."""
    x, t, cond = given
    x = x.detach().requires_grad_()
    out = function(x, t, cond)
    slope = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    leaves = [x, *net.parameters()]
    grads = torch.autograd.grad((out * slope).sum(), leaves, allow_unused=True)
    return [out.detach(), *(torch.zeros_like(a) if g is None else g for a, g in zip(leaves, grads, strict=True))]


def assert_same(found: list[Tensor], wanted: list[Tensor], near: float = 1e-9) -> None:
    for mine, other in zip(found, wanted, strict=True):
        scale = max(other.abs().max().item(), 1e-3)
        assert (mine - other).abs().max().item() < near * scale


@each_family
def test_one_graph_forward_and_backward(family: Family) -> None:
    net = network(family, *SHORTEST.get(family.preset, ("net.depth=1",)))
    x, t, cond = call(family, net)
    compiled = torch.compile(net, backend="aot_eager", fullgraph=True)  # an error where the graph is cut
    assert_same(results(compiled, net, (x, t, cond)), results(net, net, (x, t, cond)))
    other = x, 1 - t, cond  # another level is another number, not another graph
    assert_same(results(compiled, net, other), results(net, net, other))
    assert graphs() == 1


def test_sizes_are_compiled_once_each_and_then_any() -> None:
    """The first change of an axis makes it a variable of the graph; from then on no size is compiled again."""
    family = WAN
    net = network(family, "net.depth=1")
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    changes: list[dict[str, Any]] = [{}, {"batch": 3, "size": (3, 6, 8), "text": 7}]
    changes += [{"batch": 4, "size": (5, 8, 10), "text": 9}]
    counts = []
    with torch.no_grad():
        for change in changes:
            x, t, cond = call(family, net, **change)
            assert_same([compiled(x, t, cond)], [net(x, t, cond)])
            counts.append(graphs())
        for scale in (1.0, 0.5):  # a level for each frame is a graph of its own, and any such level
            levels = scale * torch.rand(t.shape[0], x.shape[2], dtype=t.dtype)
            assert_same([compiled(x, levels, cond)], [net(x, levels, cond)])
            counts.append(graphs())
    assert counts == [1, 2, 2, 3, 3]


def by_blocks(net: Backbone, backend: str = "aot_eager") -> Backbone:
    """As training compiles, with a backend that takes no time."""
    own = nn.Module.compile
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.Module, "compile", lambda self, **given: own(self, **given, backend=backend, fullgraph=True))
        compile_blocks(net, "default")
    return net


@pytest.mark.parametrize(
    ("preset", "overrides", "kinds"),
    [
        ("latte_tiny", ("net.depth=4",), 3),  # spatial, temporal, and the first temporal one, which adds positions
        ("mochi_tiny", ("net.depth=3", "net.pattern=DDE"), 2),
        ("wan21_tiny", ("net.depth=2", "net/checkpointing=blocks"), 1),
    ],
)
def test_blocks_of_one_kind_share_their_graph(preset: str, overrides: tuple[str, ...], kinds: int) -> None:
    family = next(family for family in FAMILIES if family.preset == preset)
    net = network(family, *overrides)
    given = call(family, net)
    wanted = results(net, net, given)
    by_blocks(net)
    for _ in range(2):
        assert_same(results(net, net, given), wanted)
        assert graphs() == kinds


def test_no_block_is_left_uncompiled() -> None:
    """Latte's three kinds of blocks, in previews of one size and in training of any, are 9 graphs of one class, and
    torch's own limit is 8. Here it is 2, and the first 3 are made."""
    family = next(family for family in FAMILIES if family.preset == "latte_tiny")
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True, recompile_limit=2), torch.no_grad():
        net = by_blocks(network(family, "net.depth=4"), "eager")
        net(*call(family, net))
        assert torch._dynamo.config.recompile_limit >= 12
    assert graphs() == 3


@pytest.mark.parametrize("way", ["whole", "blocks", "blocks, checkpointed"])
def test_hooks_into_a_compiled_network(way: str) -> None:
    """A tapped block's tokens (REPA) and skipped blocks (skip-layer guidance), again and again: compiled once each."""
    family = WAN
    net = network(family, "net.depth=2", "net/checkpointing=blocks" if "checkpointed" in way else "net.pattern=F")
    x, t, cond = call(family, net)

    def tapped(function: Any) -> list[Tensor]:
        with runner.tapped(net, 1) as tap:
            loss = function(x, t, cond).sum() + tap.tokens.square().sum()
        return [tap.tokens.detach(), *torch.autograd.grad(loss, list(net.blocks[1].parameters()))]

    def skipped(function: Any) -> list[Tensor]:
        with torch.no_grad(), runner.skipping(net, [1]):
            return [function(x, t, cond)]

    wanted = tapped(net), skipped(net), results(net, net, (x, t, cond))
    compiled = torch.compile(net, backend="aot_eager", fullgraph=True) if way == "whole" else by_blocks(net)
    counts = []
    for _ in range(2):
        for found, want in zip((tapped(compiled), skipped(compiled)), wanted, strict=False):
            assert_same(found, want)
        assert_same(results(compiled, net, (x, t, cond)), wanted[2])
        counts.append(graphs())
    assert counts == ([3, 3] if way == "whole" else [2, 2])  # by blocks: with gradients, and without


@pytest.mark.parametrize("way", ["whole", "blocks"])
def test_a_stream_in_a_compiled_network(way: str) -> None:
    """Frame 1,000, then 1,002 and so on: another number, not another graph each."""
    net = network(WAN)
    x, t, cond = call(WAN, net)
    grid = token_grid(net.patch, *x.shape[2:])
    wanted = {first: net(x, t, cond, Coordinates.of_clip(grid, first)) for first in (1000, 1002, 1004, 1006)}
    compiled = torch.compile(net, backend="eager", fullgraph=True) if way == "whole" else by_blocks(net, "eager")
    counts = []
    with torch.no_grad():
        for first, want in wanted.items():
            assert_same([compiled(x, t, cond, Coordinates.of_clip(grid, first))], [want])
            counts.append(graphs())
    assert counts[-1] == counts[1] <= 2  # the first change makes it a variable of the graph


def test_adapters_in_a_compiled_network() -> None:
    pytest.importorskip("peft")
    from dit.adapters import LoRA

    family = WAN
    net = network(family)
    LoRA(rank=3, alpha=4.0, dropout=0.0, rslora=False, targets=["attention.qkv", "mlp.*"])(net)
    randomise(net.double().requires_grad_(True))
    given = call(family, net)
    wanted = results(net, net, given)
    assert_same(results(by_blocks(net), net, given), wanted)
    assert graphs() == 1


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no compiler for the CPU")
def test_generated_code_computes_the_same() -> None:
    """Inductor's own code, block by block as in training. In float32: in float64 torch 2.10 generates code that its own
    attention refuses ("expected scalar type Double but found Float", the log-sum-exp). In a cache of its own: torch's
    keeps code for the processor that made it under a key that does not name the processor, and another may crash in it.
    For AVX2 where the processor has that, without trying first which of six sets of instructions the compiler knows.
    Not optimised by the compiler, which saves a quarter of the time.
    """
    family = WAN
    net = network(family, "net.depth=1").float()
    x, t, cond = call(family, net)
    given = (x.float(), t, {key: value.float() for key, value in cond.items()})
    wanted = results(net, net, given)
    quick = {"cpp.vec_isa_ok": True, "cpp.simdlen": 256, "aot_inductor.debug_compile": True}
    with fresh_cache(), inductor.patch(quick):
        compile_blocks(net, "default")
        assert_same(results(net, net, given), wanted, 1e-4)
    assert graphs() == 1


def pack(net: Backbone, groups: list[tuple[int, tuple[int, ...]]], text: int) -> tuple[Any, ...]:
    """Groups of so many clips of a size, for `of_groups`, whose texts are padded to so many tokens."""
    generator = torch.Generator().manual_seed(text)
    clips = sum(count for count, _ in groups)
    xs = [
        torch.randn(count, net.in_channels, *size, generator=generator, dtype=torch.float64) for count, size in groups
    ]
    ts = [torch.rand(count, 1, generator=generator, dtype=torch.float64) for count, _ in groups]
    features = torch.randn(clips, text, net.text.text_width, generator=generator, dtype=torch.float64)
    real = torch.arange(text) < torch.randint(1, text + 1, (clips, 1), generator=generator)
    return xs, ts, {"text": features, "text_mask": real}, [{}] * len(groups)


@pytest.mark.parametrize("preset", ["wan21_tiny", "latte_tiny"])
def test_packed_clips_are_compiled_twice_and_then_any(preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No graph is of one set of clips: attention among clips stands between graphs, and all else takes any lengths."""
    family = next(family for family in FAMILIES if family.preset == preset)
    net = network(family, f"net.depth={2 if preset == 'latte_tiny' else 1}", "net/kernel=sdpa")
    sets: list[Any] = [
        ([(2, (2, 4, 6)), (1, (4, 2, 2))], 5), ([(1, (3, 4, 4)), (3, (2, 2, 4)), (1, (4, 4, 4))], 7),
        ([(1, (2, 8, 2)), (5, (3, 4, 2)), (2, (5, 2, 2)), (1, (2, 2, 2))], 3),
    ]  # fmt: skip
    packs = [pack(net, *each) for each in sets]

    def outputs_and_gradients(given: Any) -> list[Tensor]:
        made = net.of_groups(*given)
        total = torch.stack([(out * out.detach().cos()).sum() for out in made]).sum()
        grads = torch.autograd.grad(total, list(net.parameters()), allow_unused=True)
        return [*(out.detach() for out in made), *(grad for grad in grads if grad is not None)]

    wanted = [outputs_and_gradients(each) for each in packs]
    own = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self, **given: own(self, **given, backend="eager"))
    compile_blocks(net, "default")
    counts = []
    for given, want in zip(packs, wanted, strict=True):
        assert_same(outputs_and_gradients(given), want)
        counts.append(graphs())
    assert counts[0] < counts[1] == counts[2]
