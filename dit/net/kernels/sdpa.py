"""Attention through torch's own scaled_dot_product_attention: runs everywhere, so it is what `auto` falls back to."""

import torch
from torch import Tensor
from torch.nn import functional

from dit.net.kernels.base import Stateless
from dit.net.kernels.masks import KeyPadding, Mask, Packed


class SDPA(Stateless):
    """softmax(q k^T / sqrt(head_dim)) v with torch's fused kernels.

    Packed clips become one call for all that stand side by side and are as long: exact, no work on forbidden keys, and
    the flash kernels, which take no mask, stay available. A mask by coordinates is written out, Nq * Nk bytes.
    """

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Mask | None) -> Tensor:
        # isinstance, not match: torch.compile cannot trace class patterns.
        if mask is None:
            return functional.scaled_dot_product_attention(q, k, v)
        if isinstance(mask, KeyPadding):
            return _padded(q, k, v, mask)
        if isinstance(mask, Packed):
            return _packed(q, k, v, mask)
        allowed = mask.dense(q.device)  # (1 or B, 1, Nq, Nk)
        empty = ~allowed.any(dim=-1, keepdim=True)
        out = functional.scaled_dot_product_attention(q, k, v, attn_mask=allowed | empty)
        return out.masked_fill(empty, 0.0)


def _padded(q: Tensor, k: Tensor, v: Tensor, mask: KeyPadding) -> Tensor:
    real = mask.dense(q.device)  # (B, 1, 1, Nk)
    if mask.never_empty:
        return functional.scaled_dot_product_attention(q, k, v, attn_mask=real)
    empty = ~real.any(dim=-1, keepdim=True)  # (B, 1, 1, 1)
    # What a row without keys gives differs between torch's backends (NaN in some). Here it attends to everything, and
    # everything is zero: output zero, and no gradient to q, k or v.
    v = v.masked_fill(empty, 0.0)
    return functional.scaled_dot_product_attention(q, k, v, attn_mask=real | empty)


def _packed(q: Tensor, k: Tensor, v: Tensor, mask: Packed) -> Tensor:
    counts, reals = mask.alike, None
    if mask.real is not None:
        reals = mask.batches(mask.real.to(q.device).expand(len(q), -1), mask.key, counts)
    tokens = zip((q, k, v), (mask.query, mask.key, mask.key), strict=True)
    batches = zip(*(mask.batches(x.transpose(1, 2), parts, counts) for x, parts in tokens), strict=True)
    outputs = []
    for i, batch in enumerate(batches):
        qs, ks, vs = (x.transpose(1, 2) for x in batch)  # (B * clips, heads, tokens of a clip, head_dim)
        padding = None if reals is None else KeyPadding(reals[i], mask.never_empty)
        out = SDPA().attend(qs, ks, vs, padding) if ks.shape[2] else torch.zeros_like(qs)
        outputs.append(out.transpose(1, 2))
    return mask.sequence(outputs, counts).transpose(1, 2)
