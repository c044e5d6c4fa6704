"""Attention through torch's own scaled_dot_product_attention: runs everywhere, so it is what `auto` falls back to."""

import torch
from torch import Tensor
from torch.nn import functional

from dit.net.kernels.door import Stateless
from dit.net.kernels.masks import BlockCausal, ByCoordinates, KeyPadding, Mask, Packed


class SDPA(Stateless):
    """softmax(q k^T / sqrt(head_dim)) v with torch's fused kernels.

    Packed and block-causal masks become one call a block without any mask: exact, no work on forbidden keys, and the
    flash kernels, which take no mask, stay available. A mask by coordinates is written out, Nq * Nk bytes.
    """

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, mask: Mask | None = None) -> Tensor:
        """q (B, heads, Nq, head_dim), k and v (B, heads, Nk, head_dim) -> (B, heads, Nq, head_dim)."""
        q, k = q.to(v.dtype), k.to(v.dtype)
        if mask is None:
            return functional.scaled_dot_product_attention(q, k, v)
        mask.check(q, k)
        # isinstance, not match: torch.compile cannot trace class patterns.
        if isinstance(mask, KeyPadding):
            return _padded(q, k, v, mask)
        if isinstance(mask, BlockCausal):
            return _block_causal(q, k, v, mask)
        if isinstance(mask, ByCoordinates):
            return _by_coordinates(q, k, v, mask)
        return _packed(q, k, v, mask)

    def unfit(self, device_type: str, mask_type: type[Mask] | None) -> str | None:
        """Fits everywhere."""
        return None


def _padded(q: Tensor, k: Tensor, v: Tensor, mask: KeyPadding) -> Tensor:
    keep = mask.dense(q.device)  # (B, 1, 1, Nk)
    if mask.never_empty:
        return functional.scaled_dot_product_attention(q, k, v, attn_mask=keep)
    empty = ~keep.any(dim=-1, keepdim=True)  # (B, 1, 1, 1)
    # What a row without keys gives differs between torch's backends (NaN in some). Here it attends to everything, and
    # everything is zero: output zero, and no gradient to q, k or v.
    v = v.masked_fill(empty, 0.0)
    return functional.scaled_dot_product_attention(q, k, v, attn_mask=keep | empty)


def _block_causal(q: Tensor, k: Tensor, v: Tensor, mask: BlockCausal) -> Tensor:
    outputs = [
        functional.scaled_dot_product_attention(q[:, :, start:stop], k[:, :, :stop], v[:, :, :stop])
        for start, stop in mask.spans()
    ]
    return torch.cat(outputs, dim=2)


def _by_coordinates(q: Tensor, k: Tensor, v: Tensor, mask: ByCoordinates) -> Tensor:
    allowed = mask.dense(q.device)  # (1 or B, 1, Nq, Nk)
    empty = ~allowed.any(dim=-1, keepdim=True)
    out = functional.scaled_dot_product_attention(q, k, v, attn_mask=allowed | empty)
    return out.masked_fill(empty, 0.0)


def _packed(q: Tensor, k: Tensor, v: Tensor, mask: Packed) -> Tensor:
    queries, keys, values = q.split(mask.lengths, dim=2), k.split(mask.keys, dim=2), v.split(mask.keys, dim=2)
    outputs = [
        functional.scaled_dot_product_attention(qs, ks, vs) if ks.shape[2] else torch.zeros_like(qs)
        for qs, ks, vs in zip(queries, keys, values, strict=True)
    ]
    return torch.cat(outputs, dim=2)
