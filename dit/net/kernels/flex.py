"""Attention through torch's FlexAttention: masks as functions, compiled into one kernel that skips empty blocks."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional

from dit.net.graphs import allow_many_graphs
from dit.net.kernels.door import KernelError, Stateless
from dit.net.kernels.masks import BlockCausal, ByCoordinates, KeyPadding, Mask
from dit.net.kernels.sdpa import SDPA

BLOCK = 128  # queries, and keys, that FlexAttention takes or skips together


class Flex(Stateless):
    """FlexAttention (arXiv 2412.05496): compiled on an accelerator; on the CPU eager, exact and slow.

    The CPU's compiled version has no backward, so there it stays a check of the masks and nothing more; from torch 2.11
    on it has none at all, which is a KernelError.
    """

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, mask: Mask | None = None) -> Tensor:
        """q (B, heads, Nq, head_dim), k and v (B, heads, Nk, head_dim) -> (B, heads, Nq, head_dim)."""
        q, k = q.to(v.dtype), k.to(v.dtype)
        if mask is not None:
            mask.check(q, k)
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
        raise KernelError("flex", q, str(error).strip().partition("\n")[0]) from error
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
    whole.
    """
    first_query, last_query, whole_query = _ends(num_queries, device)
    first_key, last_key, whole_key = _ends(num_keys, device)
    whole = whole_query[:, None] & whole_key
    if isinstance(mask, KeyPadding):
        padded = functional.pad(mask.keep.to(device), (0, -num_keys % BLOCK)).unflatten(1, (-1, BLOCK))
        some, every = (found.expand(batch, -1)[:, None, None] for found in (padded.any(-1), padded.all(-1)))
        return some.expand(-1, -1, len(whole), -1), every & whole
    if isinstance(mask, BlockCausal):
        size = mask.block_tokens
        some = (last_query // size)[:, None] >= first_key // size
        every = (first_query // size)[:, None] >= last_key // size
        return some[None, None], (every & whole)[None, None]
    if isinstance(mask, ByCoordinates):
        return _blocks_by_coordinates(mask, device, whole)
    query_samples, key_samples = mask.query_samples(device), mask.key_samples(device)
    sample = torch.arange(len(mask.lengths), device=device)
    has_keys = (key_samples[:, None] == sample).any(0)
    of_query = _within(query_samples[first_query], sample, query_samples[last_query])
    of_key = _within(key_samples[first_key], sample, key_samples[last_key]) & has_keys
    some = (of_query[:, None] & of_key).any(-1)
    alone = (of_query.sum(-1) == 1)[:, None] & (of_key.sum(-1) == 1)
    return some[None, None], (some & alone & whole)[None, None]


def _blocks_by_coordinates(mask: ByCoordinates, device: torch.device, whole: Tensor) -> tuple[Tensor, Tensor]:
    """As `_blocks`, from the least and largest numbers of each block: none too few, perhaps some too many; a block that
    is said to be whole, is."""
    (q_low, q_high), (k_low, k_high) = (_range(numbers.to(device)) for numbers in (mask.query, mask.key))
    q_low, q_high, k_low, k_high = q_low[:, :, None], q_high[:, :, None], k_low[:, None], k_high[:, None]
    overlap, equal = (q_low <= k_high) & (k_low <= q_high), (q_low == k_high) & (k_low == q_high)
    some_any = (q_low[1] == mask.ANY) | (k_low[1] == mask.ANY)  # the least number of all
    every_any = (q_high[1] == mask.ANY) | (k_high[1] == mask.ANY)
    some = overlap[0] & (overlap[1] | some_any) & (q_high[2] >= k_low[2])
    every = equal[0] & (equal[1] | every_any) & (q_low[2] >= k_high[2]) & whole
    if mask.real is None:
        return some[None, None], every[None, None]
    real = functional.pad(mask.real.to(device), (0, -mask.real.shape[1] % BLOCK)).unflatten(1, (-1, BLOCK))
    some_real, every_real = (found[:, None, None] for found in (real.any(-1), real.all(-1)))
    return some & some_real, every & every_real


def _range(numbers: Tensor) -> tuple[Tensor, Tensor]:
    """(3, n) -> the least and the largest of each block, (3, blocks) each."""
    last = numbers[:, -1:].expand(-1, -numbers.shape[1] % BLOCK)
    blocks = torch.cat([numbers, last], dim=1).unflatten(1, (-1, BLOCK))
    return blocks.amin(-1), blocks.amax(-1)


def _ends(num_tokens: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """First token of each block, its last one, and whether it is whole."""
    first = torch.arange(0, num_tokens, BLOCK, device=device)
    return first, (first + BLOCK - 1).clamp(max=num_tokens - 1), first + BLOCK <= num_tokens


def _within(first: Tensor, number: Tensor, last: Tensor) -> Tensor:
    """first and last (n,), number (m,) -> (n, m) bool, whether the number lies between them, both included."""
    return (first[:, None] <= number) & (number <= last[:, None])


def _predicate(mask: Mask, batch: int, device: torch.device) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """The mask as FlexAttention asks for it: (sample, head, query, key) -> may attend."""
    if isinstance(mask, KeyPadding):
        keep = mask.keep.to(device).expand(batch, -1).contiguous()
        return lambda sample, head, query, key: keep[sample, key]
    if isinstance(mask, BlockCausal):
        size = mask.block_tokens
        return lambda sample, head, query, key: query // size >= key // size
    if isinstance(mask, ByCoordinates):
        return _predicate_by_coordinates(mask, batch, device)
    query_sample, key_sample = mask.query_samples(device), mask.key_samples(device)
    return lambda sample, head, query, key: query_sample[query] == key_sample[key]


def _predicate_by_coordinates(mask: ByCoordinates, batch: int, device: torch.device) -> Callable[..., Tensor]:
    queries, keys = (tuple(numbers.to(device).contiguous().unbind(0)) for numbers in (mask.query, mask.key))

    def may_attend(sample: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return mask.allowed([numbers[query] for numbers in queries], [numbers[key] for numbers in keys])

    if mask.real is None:
        return may_attend
    real = mask.real.to(device).expand(batch, -1).contiguous()
    return lambda sample, head, query, key: may_attend(sample, head, query, key) & real[sample, key]
