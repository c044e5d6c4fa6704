"""Sequences that are no single grid: clips packed together, a rank's part, a stream that began long ago. The network is
the same, and so is what comes out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from torch import Tensor

from dit.interop.families import FAMILIES
from dit.interop.family import Family
from dit.interop.presets import compose
from dit.net.backbone import Backbone
from dit.net.context import Context
from dit.net.coordinates import Coordinates
from dit.net.kernels.flex import Flex
from dit.net.kernels.sdpa import SDPA
from dit.net.layout import BlockCausal, Full, Layout, Spatial, Temporal, Windowed
from dit.net.patches import Grid, token_grid, unpatchify
from dit.net.position.base import Position
from dit.net.runner import Blocks, Runner, Streams, running
from scripts.twins.examples import Draw, example
from tests.interop.reference import randomise
from tests.net.conftest import Build
from tests.net.contexts import context_of
from tests.net.test_net_backbone import COMBINATIONS

SIZES = ((4, 6, 5), (2, 4, 3), (6, 2, 7))  # latents of three clips
DOUBLE = torch.float64
Clip = tuple[Tensor, dict[str, Tensor]]


def draw(seed: int) -> Callable[..., Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(shape, generator=generator, dtype=DOUBLE)


def clips(lengths: tuple[int, ...] = (3, 5, 2)) -> list[Clip]:
    """x and every conditioning key of three clips; `lengths` of their 5 text tokens are real."""
    found = []
    for i, (size, length) in enumerate(zip(SIZES, lengths, strict=True)):
        randn = draw(i)
        cond = {"text": randn(1, 5, 10), "text_mask": (torch.arange(5) < length)[None], "pooled": randn(1, 10)}
        cond |= {"label": torch.tensor([i]), "fps": torch.tensor([8.0 + 8 * i], dtype=DOUBLE)}
        found.append((randn(1, 3, *size), cond | {"given": (randn(1, 1, *size) > 0).double()}))
    return found


def levels(per_frame: bool) -> Tensor:
    """(3, 1), or (3, 6) for the longest of the clips."""
    generator = torch.Generator().manual_seed(9)
    return torch.rand(3, 6 if per_frame else 1, generator=generator, dtype=DOUBLE)


def together(net: Backbone, given: list[Clip], t: Tensor) -> list[Tensor]:
    """The outputs of clips that are one sequence for the network."""
    grids = [token_grid(net.patch, *x.shape[2:]) for x, _ in given]
    tokens = torch.cat([net.patches(x, cond) for x, cond in given], dim=1)
    shared = {key: torch.cat([cond[key] for _, cond in given]) for key in given[0][1] if key != "given"}
    where = Coordinates.packed(grids, "cpu")
    out = net(tokens, t, shared, where)
    assert where.lengths is not None
    parts = out.split(where.lengths, dim=1)
    return [unpatchify(part, net.patch, grid) for part, grid in zip(parts, grids, strict=True)]


def apart(net: Backbone, given: list[Clip], t: Tensor) -> list[Tensor]:
    """The outputs of clips one by one."""
    frames = [x.shape[2] if t.shape[1] > 1 else 1 for x, _ in given]
    return [net(x, t[i : i + 1, : frames[i]], cond) for i, (x, cond) in enumerate(given)]


def with_gradients(net: Backbone, outputs: list[Tensor]) -> list[Tensor]:
    loss = sum((out * torch.linspace(-1, 1, out.numel(), dtype=DOUBLE).view_as(out)).sum() for out in outputs)
    assert isinstance(loss, Tensor)
    grads = torch.autograd.grad(loss, list(net.parameters()), allow_unused=True)
    zeros = (torch.zeros(()) if grad is None else grad for grad in grads)
    return [*(out.detach() for out in outputs), *zeros]


PACKED = COMBINATIONS | {
    "block-causal": ["net.pattern=CF", "net.templates.C.layout.block=2"],
    "positions of one frame": ["net/position=sincos", "net.position._target_=dit.net.position.sincos.ClipSinCos"],
}


@pytest.mark.parametrize("per_frame", [False, True], ids=["one level", "levels of frames"])
@pytest.mark.parametrize("parts", PACKED.values(), ids=PACKED)
def test_packed_clips_are_separate_clips(randomised: Build, parts: list[str], per_frame: bool) -> None:
    net, given, t = randomised(*parts), clips(), levels(per_frame)
    torch.testing.assert_close(
        with_gradients(net, together(net, given, t)), with_gradients(net, apart(net, given, t)), rtol=1e-8, atol=1e-8
    )


@pytest.mark.parametrize("choices", [[], ["net/text=refined_last_frame", "net/final=adaln_last_frame"]], ids=str)
def test_packed_text_takes_the_levels_of_its_own_clip(randomised: Build, choices: list[str]) -> None:
    """Text that is refined at the clip's levels, and a final layer that takes the last frame's for all."""
    sizes = [
        "net.width=32",
        "net.depth=2",
        "net.heads=2",
        "net.text_width=10",
        "net.in_channels=3",
        "net.out_channels=3",
    ]
    net = randomised(*sizes, "net.out_channels=3", "net.pattern=DF", *choices, preset="hunyuan_video_tiny", tiny=False)
    given = []
    for i, (frames, length) in enumerate(((3, 5), (1, 2), (2, 4))):
        randn = draw(i)
        cond = {"text": randn(1, 5, 10), "text_mask": (torch.arange(5) < length)[None], "pooled": randn(1, 768)}
        given.append((randn(1, 3, frames, 4, 2 + 2 * i), cond | {"guidance": torch.tensor([2.0 + i])}))
    t = levels(True)[:, :3]
    torch.testing.assert_close(
        with_gradients(net, together(net, given, t)), with_gradients(net, apart(net, given, t)), rtol=1e-8, atol=1e-8
    )


def test_packed_clips_without_padding(randomised: Build) -> None:
    """Text of equal lengths needs no mask of all pairs; a clip of padding alone reads nothing."""
    net, t = randomised("net.depth=1"), levels(False)
    for given in (clips(), clips((3, 0, 5))):
        torch.testing.assert_close(together(net, given, t), apart(net, given, t), rtol=1e-9, atol=1e-9)
        bare = [(x, {key: value for key, value in cond.items() if key != "text_mask"}) for x, cond in given]
        torch.testing.assert_close(together(net, bare, t), apart(net, bare, t), rtol=1e-9, atol=1e-9)


each_family = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.preset)


def published(family: Family, *overrides: str) -> Backbone:
    net: Any = instantiate(compose(family.preset, ["net/kernel=sdpa", *overrides]), _convert_="all").double()
    return randomise(net)  # type: ignore[return-value]


def published_clip(family: Family, net: Backbone, size: Grid, seed: int) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    given = Draw(torch.Generator().manual_seed(seed), DOUBLE)
    frames = 1 if family.preset == "dit_tiny" else size[0]
    settings = family.settings(family.config(net))
    x, t, cond = family.call(net, example(family, settings, 1, (frames, *size[1:]), 5, given))
    return x, t, dict(cond)


@each_family
def test_packed_clips_of_published_networks(family: Family) -> None:
    net = published(family)
    sizes = [(2, 4, 6), (2, 8, 4)] if family.preset != "latte_tiny" else [(2, 4, 6), (3, 8, 4)]
    found = [published_clip(family, net, size, seed) for seed, size in enumerate(sizes)]
    if any(t.shape[1] > 1 for _, t, _ in found):
        t = torch.zeros(2, max(x.shape[2] for x, _, _ in found), dtype=DOUBLE)
        for row, (_, own, _) in zip(t, found, strict=True):
            row[: own.shape[1]] = own[0]
    else:
        t = torch.cat([t for _, t, _ in found])
    channels = set(net.concat_channels)
    tokens = torch.cat([net.patches(x, cond) for x, _, cond in found], dim=1)
    grids = [token_grid(net.patch, *x.shape[2:]) for x, _, _ in found]
    own = {key: [cond[key] for _, _, cond in found] for key in found[0][2] if key not in channels}
    shared = {key: torch.cat(values, dim=2 if key == "coordinates" else 0) for key, values in own.items()}
    out = net(tokens, t, shared, Coordinates.packed(grids, "cpu"))
    for (x, level, cond), part, grid in zip(found, out.split([f * h * w for f, h, w in grids], 1), grids, strict=True):
        wanted = net(x, level, cond)
        torch.testing.assert_close(unpatchify(part, net.patch, grid), wanted, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("pattern", ["F", "ST", "C", "WW"])
def test_a_stream_at_frame_1000_is_one_at_frame_0(randomised: Build, pattern: str) -> None:
    """Where positions are relative; absolute ones differ."""
    more = ["net.templates.W.layout.window=[2,3,2]"] if "W" in pattern else []
    (x, cond), t = clips()[2], levels(True)[2:]
    for position, same in (("rope3d", True), ("none", True), ("sincos", False)):
        net = randomised(f"net/position={position}", f"net.pattern={pattern}", *more)
        out = net(x, t, cond)
        later = net(x, t, cond, Coordinates.of_clip((3, 1, 7), first=1000))
        assert torch.allclose(later, out, rtol=1e-8, atol=1e-8) == same
        packed = Coordinates.packed([(3, 1, 7)], "cpu", first=[1000])
        by_table = net(net.patches(x, cond), t, cond, packed)
        torch.testing.assert_close(unpatchify(by_table, net.patch, (3, 1, 7)), later, rtol=1e-8, atol=1e-8)


LAYOUTS: list[Layout] = [
    Full(), Spatial(), Temporal(), BlockCausal(2), BlockCausal(3), Windowed([2, 3, 2]), Windowed([2, 3, 2]).at(1),
    Windowed([9, 2, 9]).at(1),
]  # fmt: skip


@pytest.mark.parametrize("text", [False, True], ids=["video", "joint"])
@pytest.mark.parametrize("layout", LAYOUTS, ids=repr)
@pytest.mark.parametrize("first", [0, 6])
def test_a_layout_by_coordinates_is_that_of_a_grid(layout: Layout, text: bool, first: int) -> None:
    """Of tokens in another order, by every kernel that runs here."""
    if text and isinstance(layout, BlockCausal):
        return
    whole = Coordinates.of_clip((5, 4, 5), first)
    q, k, v = draw(0)(3, 2, 100 + 4 * text, 2, 8)
    stream = torch.zeros(2, 4, 1) if text else None
    mask = torch.tensor([[True] * 4, [True, True, False, False]]) if text else None
    wanted = layout.of_grid(SDPA(), q, k, v, context_of(whole, text=stream, mask=mask))
    order = torch.randperm(100, generator=torch.Generator().manual_seed(1))
    index = torch.cat([torch.arange(4 * text), 4 * text + order])
    context = context_of(whole.part(order, "cpu"), text=stream, mask=mask)
    for kernel, near in ((SDPA(), 1e-10), (Flex(), 1e-5)):
        out = layout(kernel, q[:, index], k[:, index], v[:, index], context)
        torch.testing.assert_close(out, wanted[:, index], rtol=near, atol=near)


@pytest.mark.parametrize("layout", [BlockCausal(2), Windowed([2, 9, 9]), Windowed([2, 9, 9]).at(1)], ids=repr)
def test_blocks_and_windows_are_counted_from_frame_0(layout: Layout) -> None:
    """Also where a stream goes on in the middle of one: frames 5 to 8, in blocks of two from frame 0 on."""
    q, k, v = draw(0)(3, 2, 4, 2, 8)
    block = (torch.arange(5, 9) + getattr(layout, "shifted", False)) // 2
    allowed = block[:, None] >= block if isinstance(layout, BlockCausal) else block[:, None] == block
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / 8**0.5
    wanted = torch.einsum("bhqk,bkhd->bqhd", scores.masked_fill(~allowed, -torch.inf).softmax(-1), v)
    found = layout(SDPA(), q, k, v, context_of(Coordinates.of_clip((4, 1, 1), first=5)))
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)


class Others:
    """Keys of other ranks: what they were in a run of the whole sequence, in front of a rank's own or behind them."""

    def __init__(self, coordinates: Coordinates, others: tuple[Tensor, Tensor]) -> None:
        self.coordinates, self.others = coordinates, others

    def __call__(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        return torch.cat([k, self.others[0]], dim=1), torch.cat([v, self.others[1]], dim=1)


class Record:
    """Runs blocks and keeps the keys and values of all video tokens."""

    def __init__(self, runner: Runner) -> None:
        self.runner, self.kept = runner, dict[int, tuple[Tensor, Tensor]]()

    def __call__(self, blocks: Blocks, streams: Streams, context: Context) -> Streams:
        for index, block in blocks.items():

            class Keep:
                coordinates = context.coordinates

                def __call__(own, k: Tensor, v: Tensor, index: int = index) -> tuple[Tensor, Tensor]:  # noqa: N805
                    self.kept[index] = k, v
                    return k, v

            streams = self.runner({index: block}, streams, context.reading(Keep()))
        return streams


class Rank:
    """Runs blocks on a part of the tokens, with the keys of the others from a record."""

    def __init__(self, runner: Runner, kept: dict[int, tuple[Tensor, Tensor]], whole: Coordinates, own: Tensor) -> None:
        self.runner, self.kept = runner, kept
        self.others = torch.tensor([i for i in range(whole.num_tokens) if i not in own.tolist()])
        self.coordinates = whole.part(torch.cat([own, self.others]), "cpu")

    def __call__(self, blocks: Blocks, streams: Streams, context: Context) -> Streams:
        for index, block in blocks.items():
            own = context
            if index in self.kept:  # a block of the text alone has no keys of the video
                k, v = self.kept[index]
                own = context.reading(Others(self.coordinates, (k[:, self.others], v[:, self.others])))
            streams = self.runner({index: block}, streams, own)
        return streams


CUT = {
    "full": ["net/position=rope3d"],
    "all layouts": ["net.pattern=STWWC", "net.depth=5", "net.templates.W.layout.window=[2,2,2]"],
    "learned": ["net/position=learned", "net/modulation=adaln_single"],
    "parallel, cross-attention": ["net.pattern=P", "net/position=rope3d"],
}


@pytest.mark.parametrize("per_frame", [False, True], ids=["one level", "levels of frames"])
@pytest.mark.parametrize("parts", CUT.values(), ids=CUT)
def test_a_sequence_cut_over_two_ranks(randomised: Build, parts: list[str], per_frame: bool) -> None:
    """In the middle of a row, each rank with the keys that the other would send."""
    net, (x, cond) = randomised(*parts), clips()[0]
    t = levels(True)[:1, :4] if per_frame else levels(False)[:1]
    x, t = torch.cat([x, 1 - x]), torch.cat([t, 1 - t])
    cond = {key: torch.cat([value, value.flip(-1)]) for key, value in cond.items()}
    whole, tokens = Coordinates.of_clip((2, 3, 5)), net.patches(x, cond)
    record = Record(net.runner)
    with running(net, record):
        wanted = net(x, t, cond)
    torch.testing.assert_close(wanted, net(x, t, cond), rtol=1e-9, atol=1e-9)
    found = torch.empty(2, 30, tokens.shape[2] // 4 * 5, dtype=DOUBLE)
    for own in (torch.arange(13), torch.arange(13, 30)):
        with running(net, Rank(net.runner, record.kept, whole, own)):
            found[:, own] = net(tokens[:, own], t, cond, whole.part(own, "cpu"))
    torch.testing.assert_close(unpatchify(found, net.patch, (2, 3, 5)), wanted, rtol=1e-9, atol=1e-9)


@each_family
def test_published_networks_cut_over_two_ranks(family: Family) -> None:
    net = published(family)
    x, t, cond = published_clip(family, net, (2, 4, 6), 0)
    grid = token_grid(net.patch, *x.shape[2:])
    whole, tokens, record = Coordinates.of_clip(grid), net.patches(x, cond), Record(net.runner)
    with running(net, record):
        wanted = net(x, t, cond)
    torch.testing.assert_close(wanted, net(x, t, cond), rtol=1e-8, atol=1e-8)
    parts = []
    for own in torch.arange(whole.num_tokens).tensor_split([whole.num_tokens // 2 - 1]):
        given = {key: value[..., own] if key == "coordinates" else value for key, value in cond.items()}
        with running(net, Rank(net.runner, record.kept, whole, own)):
            parts.append(net(tokens[:, own], t, given, whole.part(own, "cpu")))
    found = unpatchify(torch.cat(parts, dim=1), net.patch, grid)
    torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-8)


def test_positions_by_a_table_are_those_of_the_grid(randomised: Build) -> None:
    """Of every kind of position that a config names."""
    for family in FAMILIES:
        position: Position = published(family).position
        grid = (1 if family.preset == "dit_tiny" else 3, 2, 4)
        whole = Coordinates.of_clip(grid)
        order = torch.randperm(whole.num_tokens, generator=torch.Generator().manual_seed(0))
        some, like = whole.part(order, "cpu"), torch.zeros(1, 1, dtype=DOUBLE)
        rotation, by_table = position.rotation(whole, like, {}), position.rotation(some, like, {})
        assert (rotation is None) == (by_table is None)
        if rotation is not None and by_table is not None:
            torch.testing.assert_close(by_table.cos, rotation.cos[:, order], rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(by_table.sin, rotation.sin[:, order], rtol=1e-12, atol=1e-12)


def test_numbers_of_tokens() -> None:
    packed = Coordinates.packed([(2, 1, 2), (1, 2, 1)], "cpu", first=[7, 0])
    rows = [[0, 7, 0, 0], [0, 7, 0, 1], [0, 8, 0, 0], [0, 8, 0, 1], [1, 0, 0, 0], [1, 0, 1, 0]]
    assert packed.rows("cpu").tolist() == rows and packed.lengths == (4, 2)
    assert packed.run_of_token(2, torch.device("cpu")).tolist() == [0, 0, 1, 1, 2, 2]
    assert packed.run_of_token(2, torch.device("cpu"), others=1).tolist() == [1, 1, 2, 2, 4, 4]
    last = packed.part(slice(3, None), "cpu")
    assert last.rows("cpu").tolist() == rows[3:] and last.lengths is None and last.grids == packed.grids
    later = Coordinates.of_clip((1, 2, 2), 3)
    assert later.of_tokens(torch.zeros(1, dtype=DOUBLE)).tolist() == [[3, 0, 0], [3, 0, 1], [3, 1, 0], [3, 1, 1]]


def test_sequences_that_do_not_fit_are_one_line(build: Build) -> None:
    net, (x, cond) = build(), clips()[0]
    tokens, t, where = net.patches(x, cond), levels(False)[:1], Coordinates.of_clip((2, 3, 5))
    with pytest.raises(ValueError, match=r"x \(1, 30, 16\) is a sequence of tokens: `coordinates` must say where"):
        net(tokens, t, cond)
    with pytest.raises(ValueError, match="x has 29 tokens, and `coordinates` are of 30"):
        net(tokens[:, :29], t, cond, where)
    two = Coordinates.packed([(1, 3, 5), (1, 3, 5)], "cpu")
    with pytest.raises(ValueError, match="x has 1 rows and t 1; 2 packed clips are 1 row, with a level for each"):
        net(tokens, t, cond, two)
    learned = build("net/position=learned")
    with pytest.raises(ValueError, match="a learned table is of whole clips, not of one that begins at frame 4"):
        learned(x, t, cond, replace(where, first=(4,)))
