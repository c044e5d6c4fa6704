"""More sequences than a flash kernel takes in one call, as in temporal attention, are cut into several calls."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dit.net import layout
from dit.net.kernels.masks import KeyPadding, Mask, Packed
from dit.net.kernels.sdpa import SDPA
from dit.net.layout import attend, most_sequences

HEADS, HEAD_DIM = 2, 8


class Recorder(SDPA):
    """Notes how many sequences each call has."""

    def __init__(self) -> None:
        self.sequences: list[int] = []

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, mask: Mask | None = None) -> Tensor:
        self.sequences.append(len(q))
        return super().__call__(q, k, v, mask)


@pytest.mark.parametrize("sequences", [65_536, 70_000])
def test_no_call_has_more_sequences_than_a_grid_has_blocks(sequences: int) -> None:
    q = torch.empty(sequences, 4, 1, 16, device="meta")
    kernel = Recorder()
    assert attend(kernel, q, q, q, None).shape == q.shape
    assert kernel.sequences == [65_535, sequences - 65_535]


def test_no_call_has_more_numbers_than_an_index_can_count() -> None:
    """Latte-XL/2, temporal, on 16 clips of 16 frames of 32x32 tokens: the backward pass counts 128 queries a sequence,
    and 96 channels a head."""
    q = torch.empty(16 * 32 * 32, 16, 16, 72, device="meta")
    kernel = Recorder()
    attend(kernel, q, q, q, None)
    assert sum(kernel.sequences) == len(q) and len(kernel.sequences) == 2
    assert all(count * 16 * 128 * 96 < 2**31 for count in kernel.sequences)
    assert most_sequences(2_000_000, 24, 128) == 1  # a sequence that is too long all by itself


def test_ordinary_sizes_are_one_call() -> None:
    for shape in ((8, 1024, 16, 72), (2, 75_600, 12, 128), (2, 119_056, 24, 128), (4096, 16, 16, 72)):
        q, kernel = torch.empty(shape, device="meta"), Recorder()
        attend(kernel, q, q, q, None)
        assert kernel.sequences == [shape[0]]


MASKS: dict[str, Mask | None] = {
    "none": None,
    "padding": KeyPadding(torch.arange(6) <= torch.arange(7)[:, None] % 6),
    "the same padding": KeyPadding((torch.arange(6) < 4)[None]),
    "never empty": KeyPadding(torch.arange(6) <= torch.arange(7)[:, None] % 6, never_empty=True),
    "packed": Packed.of((2, 4)),
}


@pytest.mark.parametrize("name", MASKS)
def test_cut_into_calls_it_is_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = (torch.randn(7, 6, HEADS, HEAD_DIM, dtype=torch.float64, requires_grad=True) for _ in range(3))
    results = []
    for most in (65_535, 3):
        monkeypatch.setattr(layout, "MOST_BLOCKS", most)
        kernel = Recorder()
        out = attend(kernel, q, k, v, MASKS[name])
        results.append([out, *torch.autograd.grad(out.square().sum(), (q, k, v))])
    assert kernel.sequences == [3, 3, 1]
    for whole, cut in zip(*results, strict=True):
        torch.testing.assert_close(cut, whole)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(("shape", "gigabytes"), [((70_000, 4, 1, 16), 1), ((16_384, 16, 16, 72), 40)])
def test_many_sequences_on_the_gpu(shape: tuple[int, ...], gigabytes: int) -> None:
    """Forward and backward, the last sequences against float64."""
    if torch.cuda.get_device_properties(0).total_memory < gigabytes * 1e9:
        pytest.skip(f"needs {gigabytes} GB")
    q, k, v = (torch.randn(shape, device="cuda", dtype=torch.bfloat16, requires_grad=True) for _ in range(3))
    slope = torch.randn_like(q)
    out = attend(SDPA(), q, k, v, None)
    found = [out, *torch.autograd.grad(out, (q, k, v), slope)]
    last = [x[-8:].detach().double().requires_grad_() for x in (q, k, v)]
    exact = attend(SDPA(), *last, None)
    wanted = [exact, *torch.autograd.grad(exact, last, slope[-8:].double())]
    for mine, other in zip(found, wanted, strict=True):
        assert (mine[-8:].double() - other).norm() < 2e-2 * other.norm() + 1e-6
