"""Attention through torch's FlexAttention: masks as functions, compiled into one kernel that skips empty blocks."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, cast

import torch
from torch import Tensor

from dit.net.kernels.door import Stateless
from dit.net.kernels.masks import BlockCausal, KeyPadding, Mask
from dit.net.kernels.sdpa import SDPA


class Flex(Stateless):
    """FlexAttention (arXiv 2412.05496): compiled on an accelerator; on the CPU eager, exact and slow.

    The CPU's compiled version has no backward, so there it stays a check of the masks and nothing more.
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

    out = flex_attention(q, k, v, block_mask=block_mask)
    assert isinstance(out, Tensor)  # a tuple only when the log-sum-exp is asked for
    return out


@lru_cache(maxsize=1)
def _compiled() -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    return cast(Callable[..., Tensor], torch.compile(flex_attention))


# Cached: building walks all pairs of blocks, and every layer asks for the same mask. The cache is the module's, since
# block masks hold closures, which would keep a network from being copied or pickled.
@torch.compiler.disable
@lru_cache(maxsize=8)
@torch.inference_mode(False)  # a mask first met while sampling must serve training too
def _block_mask(mask: Mask, batch: int, num_queries: int, num_keys: int, device: torch.device) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    may_attend = _predicate(mask, batch, device)
    rows = batch if isinstance(mask, KeyPadding) else None
    return create_block_mask(may_attend, B=rows, H=None, Q_LEN=num_queries, KV_LEN=num_keys, device=str(device))


def _predicate(mask: Mask, batch: int, device: torch.device) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """The mask as FlexAttention asks for it: (sample, head, query, key) -> may attend."""
    if isinstance(mask, KeyPadding):
        keep = mask.keep.to(device).expand(batch, -1).contiguous()
        return lambda sample, head, query, key: keep[sample, key]
    if isinstance(mask, BlockCausal):
        size = mask.block_tokens
        return lambda sample, head, query, key: query // size >= key // size
    query_sample, key_sample = mask.query_samples(device), mask.key_samples(device)
    return lambda sample, head, query, key: query_sample[query] == key_sample[key]
