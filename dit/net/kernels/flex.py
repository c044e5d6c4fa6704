"""Attention through torch's FlexAttention: masks as functions, compiled into one kernel that skips empty blocks."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional

from dit.graphs import allow_many_graphs
from dit.net.kernels.base import KernelError, Stateless, first_line
from dit.net.kernels.masks import ByCoordinates, Mask, Packed
from dit.net.kernels.sdpa import SDPA

BLOCK = 128  # queries, and keys, that FlexAttention takes or skips together


class Flex(Stateless):
    """FlexAttention (arXiv 2412.05496): compiled on an accelerator; on the CPU eager, exact and slow.

    The CPU's compiled version has no backward, so there it stays a check of the masks and nothing more; from torch 2.11
    on it has none at all, which is a KernelError.
    """

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Mask | None) -> Tensor:
        if q.device.type == "meta":  # nothing to compute, only shapes and FLOPs to count
            return SDPA()(q, k, v, mask)
        attend = _eager if q.device.type == "cpu" else _compiled()
        block_mask = None if mask is None else _block_mask(mask, q.shape[0], q.shape[2], k.shape[2], q.device)
        return attend(q, k, v, block_mask=block_mask)

    def unfit(self, device_type: str, mask_type: type[Mask] | None) -> str | None:
        """Not for the CPU, and not without a mask."""
        if device_type == "cpu":
            return "on the CPU FlexAttention runs eagerly and holds all scores: right, but slow"
        if mask_type is None:
            return "without a mask torch's flash kernels do the same and need no compilation"
        return None


@torch.compiler.disable
def _eager(q: Tensor, k: Tensor, v: Tensor, block_mask: Any) -> Tensor:
    from torch.nn.attention.flex_attention import flex_attention

    try:
        out = flex_attention(q, k, v, block_mask=block_mask)
    except NotImplementedError as error:  # torch 2.11 has no gradients of it on the CPU
        raise KernelError("flex", q, first_line(error)) from error
    assert isinstance(out, Tensor)  # a tuple only when the log-sum-exp is asked for
    return out


@lru_cache(maxsize=1)
def _compiled() -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    allow_many_graphs()
    return cast(Callable[..., Tensor], torch.compile(flex_attention))


# Cached: every layer asks for the same mask. The cache is the module's, since block masks hold closures, which would
# keep a network from being copied or pickled.
@torch.compiler.disable
@lru_cache(maxsize=8)
@torch.inference_mode(False)  # a mask first met while sampling must serve training too
def _block_mask(mask: Mask, batch: int, num_queries: int, num_keys: int, device: torch.device) -> Any:
    """What torch's `create_block_mask` would make, without its tensor of all pairs of tokens: 14 GB for the 119,000
    tokens of a HunyuanVideo clip of 129 frames."""
    from torch.nn.attention.flex_attention import BlockMask

    if isinstance(mask, Packed):
        mask = mask.by_coordinates(device)
    some, every = _blocks(mask, batch, num_queries, num_keys, device)
    return BlockMask.from_kv_blocks(
        *_listed(some & ~every),
        *_listed(every),
        BLOCK_SIZE=BLOCK,
        mask_mod=_predicate(mask, batch, device),
        seq_lengths=(num_queries, num_keys),
    )


def _listed(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """bool (..., blocks of keys) -> how many are set, and which: the set ones first, in order."""
    order = blocks.to(torch.int8).argsort(dim=-1, descending=True, stable=True)
    return blocks.sum(-1, dtype=torch.int32), order.to(torch.int32)


def _blocks(mask: Mask, batch: int, num_queries: int, num_keys: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Of each block of queries and block of keys: whether some of its pairs may attend, and whether all may.

    (samples or 1, 1, blocks of queries, blocks of keys) bool each. A block that ends outside of the sequence is never
    whole. By coordinates, `some` may be said of a block that has none.
    """
    queries, keys = (torch.arange(BLOCK, n + BLOCK, BLOCK, device=device) <= n for n in (num_queries, num_keys))
    every = queries[:, None] & keys  # the block ends inside
    some = torch.ones_like(every)
    if isinstance(mask, ByCoordinates):
        some, all_pairs = _blocks_by_coordinates(mask, device)
        every = every & all_pairs
    if mask.real is None:
        return some[None, None], every[None, None]
    real = functional.pad(mask.real.to(device).expand(batch, -1), (0, -num_keys % BLOCK)).unflatten(1, (-1, BLOCK))
    return some & real.any(-1)[:, None, None], every & real.all(-1)[:, None, None]


def _blocks_by_coordinates(mask: ByCoordinates, device: torch.device) -> tuple[Tensor, Tensor]:
    """From the least and largest numbers of each block: whether some pairs may attend (none too few, perhaps some too
    many), and whether all surely may; padding left aside."""
    (q_low, q_high), (k_low, k_high) = (_range(numbers.to(device)) for numbers in (mask.query, mask.key))
    q_low, q_high, k_low, k_high = q_low[:, :, None], q_high[:, :, None], k_low[:, None], k_high[:, None]
    overlap, equal = (q_low <= k_high) & (k_low <= q_high), (q_low == k_high) & (k_low == q_high)
    some_any = (q_low[1] == mask.ANY) | (k_low[1] == mask.ANY)  # the least number of all
    every_any = (q_high[1] == mask.ANY) | (k_high[1] == mask.ANY)
    some = overlap[0] & (overlap[1] | some_any) & (q_high[2] >= k_low[2])
    return some, equal[0] & (equal[1] | every_any) & (q_low[2] >= k_high[2])


def _range(numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers of tokens (..., n) -> the least and the largest of each block, (..., blocks) each."""
    last = numbers[..., -1:].expand(*numbers.shape[:-1], -numbers.shape[-1] % BLOCK)
    blocks = torch.cat([numbers, last], dim=-1).unflatten(-1, (-1, BLOCK))
    return blocks.amin(-1), blocks.amax(-1)


def _predicate(mask: Mask, batch: int, device: torch.device) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """The mask as FlexAttention asks for it: (sample, head, query, key) -> may attend."""
    real = None if mask.real is None else mask.real.to(device).expand(batch, -1).contiguous()
    if not isinstance(mask, ByCoordinates):
        assert real is not None  # KeyPadding
        return lambda sample, head, query, key: real[sample, key]
    queries, keys = (tuple(numbers.to(device).contiguous().unbind(0)) for numbers in (mask.query, mask.key))

    def may_attend(sample: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return mask.allowed([numbers[query] for numbers in queries], [numbers[key] for numbers in keys])

    if real is None:
        return may_attend
    return lambda sample, head, query, key: may_attend(sample, head, query, key) & real[sample, key]
