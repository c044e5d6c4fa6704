"""Each layout against full attention under a dense mask that is written down from coordinates."""

from typing import Any

import pytest
import torch
from torch import Tensor

from dit.net.kernels.sdpa import SDPA
from dit.net.layout import Full, Layout, Spatial, Temporal, Windowed
from dit.net.patches import Grid
from dit.net.sequence import JointSequence, TextFirst, VideoFirst
from tests.net.contexts import context_of

GRID = (3, 4, 5)


def window_of(window: tuple[int, int, int], shifted: bool, grid: Grid) -> Any:
    """place -> which window it is in; the sizes are cut to the grid, and a cut axis is not shifted."""
    size = [min(w, n) for w, n in zip(window, grid, strict=True)]
    move = [s // 2 if shifted and s < n else 0 for s, n in zip(size, grid, strict=True)]
    return lambda place: tuple((p + m) // s for p, m, s in zip(place, move, size, strict=True))


CASES = {
    "full": (Full(), lambda place: 0),
    "spatial": (Spatial(), lambda place: place[0]),
    "temporal": (Temporal(), lambda place: place[1:]),
    "windows that divide": (Windowed([3, 2, 5]).at(0), window_of((3, 2, 5), False, GRID)),
    "windows over the border": (Windowed([2, 3, 2]).at(2), window_of((2, 3, 2), False, GRID)),
    "shifted windows": (Windowed([2, 3, 2]).at(1), window_of((2, 3, 2), True, GRID)),
    "windows larger than the grid": (Windowed([9, 2, 9]).at(1), window_of((9, 2, 9), True, GRID)),
}


def reference(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor) -> Tensor:
    """q, k, v (B, N, heads, d), allowed (B, N, N) bool."""
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / q.shape[-1] ** 0.5
    weights = scores.masked_fill(~allowed[:, None], -torch.inf).softmax(-1)
    return torch.einsum("bhqk,bkhd->bqhd", weights, v)


def allowed_among_video(group_of: Any) -> Tensor:
    places = [(f, h, w) for f in range(GRID[0]) for h in range(GRID[1]) for w in range(GRID[2])]
    return torch.tensor([[group_of(a) == group_of(b) for b in places] for a in places])


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("sequence", [TextFirst(), VideoFirst()], ids=["text first", "video first"])
@pytest.mark.parametrize("text", ["none", "all real", "padded"])
def test_layout_is_full_attention_under_its_mask(case: str, sequence: JointSequence, text: str) -> None:
    layout, group_of = CASES[case]
    length = 0 if text == "none" else 4
    mask = torch.tensor([[True, True, False, False], [False] * 4]) if text == "padded" else None
    q, k, v = torch.randn(3, 2, 60 + length, 2, 8, dtype=torch.float64)
    allowed = torch.ones(60 + length, 60 + length, dtype=torch.bool)
    first = length if isinstance(sequence, TextFirst) else 0
    allowed[first : first + 60, first : first + 60] = allowed_among_video(group_of)
    allowed = allowed.repeat(2, 1, 1)
    if mask is not None:
        allowed &= sequence.join(torch.ones(2, 60, dtype=torch.bool), mask)[:, None, :]
    stream = torch.zeros(2, length, 1) if length else None
    out = layout(SDPA(), q, k, v, context_of(GRID, text=stream, mask=mask, sequence=sequence))
    torch.testing.assert_close(out, reference(q, k, v, allowed), rtol=1e-10, atol=1e-10)
    if case != "full":
        assert not torch.allclose(out, reference(q, k, v, allowed | True)), "the mask must matter"


@pytest.mark.parametrize("layout", [Spatial(), Temporal(), Windowed([2, 3, 2]).at(1)])
def test_ungroup_undoes_group(layout: Any) -> None:
    x = torch.randn(2, 60, 3, 4)
    torch.testing.assert_close(layout.ungroup(layout.group(x, GRID), GRID), x, rtol=0, atol=0)


def test_every_other_windowed_block_is_shifted(build) -> None:
    net = build("net.pattern=WF", "net.depth=6", "net.templates.W.layout.window=[1,2,2]")
    windowed = [block.attention.layout for block in net.blocks][::2]
    assert [layout.shifted for layout in windowed] == [False, True, False]
    assert all(isinstance(block.attention.layout, Full) for block in net.blocks[1::2])


@pytest.mark.parametrize("window", [[2, 2], [0, 2, 2]])
def test_an_impossible_window_is_an_error(window: list[int]) -> None:
    with pytest.raises(ValueError, match="window="):
        Windowed(window)


def test_layouts_other_than_windows_are_the_same_in_every_block() -> None:
    layout: Layout = Spatial()
    assert layout.at(3) is layout
