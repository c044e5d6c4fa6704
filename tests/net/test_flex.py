"""FlexAttention's block masks against torch's own, which walk all pairs of tokens; and how often it is compiled."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters
from torch.nn.attention import flex_attention
from torch.utils._python_dispatch import TorchDispatchMode

from dit.net.kernels import flex
from dit.net.kernels.masks import ByCoordinates, KeyPadding, Mask, Packed

CPU = torch.device("cpu")
LENGTHS = (1, 9, 127, 128, 129, 256, 300, 500)  # around multiples of a block
draw = random.Random(0)


def padding(batch: int, num_keys: int) -> KeyPadding:
    """Holes anywhere, or padding at the end; whole blocks of it among them."""
    share = draw.choice([0.0, 0.01, 0.5, 0.99, 1.0])
    real = torch.rand(batch, num_keys, generator=torch.Generator().manual_seed(draw.randrange(1000))) < share
    real[0, : draw.randint(0, num_keys)] = True
    return KeyPadding(real)


def test_block_masks_are_those_that_torch_makes() -> None:
    for _ in range(60):
        queries, keys = draw.choice(LENGTHS), draw.choice(LENGTHS)
        mask = padding(draw.choice([1, 3]), keys)
        wanted = flex_attention.create_block_mask(
            flex._predicate(mask, 3, CPU), B=3, H=None, Q_LEN=queries, KV_LEN=keys, device=CPU
        )
        found = flex._block_mask(mask, 3, queries, keys, CPU)
        for mine, other in zip(found.as_tuple(), wanted.as_tuple(), strict=True):
            if isinstance(other, Tensor):
                assert mine.dtype is other.dtype
                assert torch.equal(mine, other), (mask, queries, keys)
            elif not callable(other):
                assert mine == other


def by_coordinates() -> tuple[ByCoordinates, int, int]:
    """Runs of equal numbers, as clips and frames are, with some tokens of all groups."""

    def numbers(count: int) -> Tensor:
        runs = [draw.choice([1, 40, 128, 300]) for _ in range(count)]
        rows = [[draw.randint(0, 1), draw.choice([0, 1, ByCoordinates.ANY]), draw.randint(0, 2)] for _ in runs]
        return torch.tensor(rows).repeat_interleave(torch.tensor(runs), dim=0).T.contiguous()

    query, key = numbers(draw.randint(1, 5)), numbers(draw.randint(1, 5))
    real = draw.choice([None, padding(3, key.shape[1]).real])
    return ByCoordinates(query, key, real), query.shape[1], key.shape[1]


def packed() -> tuple[ByCoordinates, int, int]:
    """Clips one after another, and texts of some of them, perhaps behind the clips in one sequence."""
    lengths = tuple(draw.choice([1, 5, 128, 130, 300]) for _ in range(draw.randint(1, 6)))
    texts = tuple(draw.choice([0, 0, 5, 77, 128, 256]) for _ in lengths)
    joint = (lengths, tuple(draw.choice([5, 77]) for _ in lengths))
    mask = draw.choice([Packed.of(lengths), Packed.of(lengths, texts if sum(texts) else None), Packed(joint, joint)])
    return mask.by_coordinates(CPU), *mask.size


def test_blocks_by_coordinates_leave_nothing_out_and_let_nothing_in() -> None:
    seen = torch.zeros(3, dtype=torch.int64)
    for count in range(90):
        mask, queries, keys = packed() if count % 3 == 0 else by_coordinates()
        some, every = flex._blocks(mask, 3, queries, keys, CPU)
        pairs = torch.nn.functional.pad(mask.dense(CPU).expand(3, -1, -1, -1), (0, -keys % 128, 0, -queries % 128))
        blocks = pairs.unflatten(3, (-1, 128)).unflatten(2, (-1, 128))
        any_pair, all_pairs = blocks.any(5).any(3), blocks.all(5).all(3)
        assert not (any_pair & ~some).any() and not (every & ~all_pairs).any()
        seen += torch.tensor([(~some).sum(), (some & ~every).sum(), every.sum()])
    assert seen.min() > 20  # blocks of each kind


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that an operator made."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        made = [each for each in (out if isinstance(out, tuple) else (out,)) if isinstance(each, Tensor)]
        self.numel = max(self.numel, *(each.untyped_storage().size() // each.element_size() for each in made), 0)
        return out


LONG = [KeyPadding(torch.arange(9000)[None] < 8000), Packed.of((4000, 5000))]
LONG += [ByCoordinates(*[torch.arange(9000).expand(3, -1) // 100] * 2, None)]


@pytest.mark.parametrize("mask", LONG, ids=lambda mask: type(mask).__name__)
def test_a_block_mask_never_holds_all_pairs_of_tokens(mask: Mask) -> None:
    with Largest() as largest:
        flex._block_mask(mask, 1, 9000, 9000, CPU)
    assert 1000 < largest.numel < 9000**2 / 1000


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """FlexAttention is compiled on the CPU too, by a backend that generates no code."""
    torch._dynamo.reset()
    counters.clear()
    own = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function: own(function, backend="eager"))
    monkeypatch.setattr(flex_attention, "_validate_device", lambda *_: None)  # torch 2.11: no gradients on the CPU
    flex._compiled.cache_clear()
    with torch._dynamo.config.patch(recompile_limit=8):  # torch's own, whatever ran before
        monkeypatch.setattr(flex, "_eager", flex._compiled())
        yield
    flex._compiled.cache_clear()
    torch._dynamo.reset()


def test_no_run_comes_to_the_limit_of_graphs(compiled: None) -> None:
    """Training, validation clip by clip and previews of a network that reads text in two ways, in two dtypes: past
    torch's limit FlexAttention would run uncompiled, and hold all scores."""

    def attend(context: AbstractContextManager[None], batch: int, queries: int, keys: int, dtype: torch.dtype) -> None:
        q, k, v = (torch.randn(batch, 2, n, 16, dtype=dtype) for n in (queries, keys, keys))
        mask = KeyPadding(torch.arange(keys).expand(batch, -1) < keys - 1)
        with context:
            flex.Flex()(q.requires_grad_(torch.is_grad_enabled()), k, v, mask)

    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        for dtype in (torch.float32, torch.bfloat16):
            for text in (17, 23, 31):  # the longest caption of each batch
                for context, batch in (
                    (torch.enable_grad, 4), (torch.no_grad, 1), (torch.no_grad, 6), (torch.inference_mode, 2)
                ):  # fmt: skip
                    attend(context(), batch, 64, text, dtype)  # video reads text
                    attend(context(), batch, text, text, dtype)  # text alone
    assert counters["stats"]["unique_graphs"] > 8
