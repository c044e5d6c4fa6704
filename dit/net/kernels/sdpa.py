"""Attention through torch's own scaled_dot_product_attention: runs everywhere, so it is what `auto` falls back to."""

import torch
from torch import Tensor
from torch.nn import functional

from dit.net.kernels.base import Stateless
from dit.net.kernels.masks import KeyPadding, Mask, Spans


class SDPA(Stateless):
    """softmax(q k^T / sqrt(head_dim)) v with torch's fused kernels.

    Spans become one call a run without any mask: exact, no work on forbidden keys, and the flash kernels, which take no
    mask, stay available. A mask by coordinates is written out, Nq * Nk bytes.
    """

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Mask | None) -> Tensor:
        # isinstance, not match: torch.compile cannot trace class patterns.
        if mask is None:
            return functional.scaled_dot_product_attention(q, k, v)
        if isinstance(mask, KeyPadding):
            return _padded(q, k, v, mask)
        if isinstance(mask, Spans):
            return _spans(q, k, v, mask)
        allowed = mask.dense(q.device)  # (1 or B, 1, Nq, Nk)
        empty = ~allowed.any(dim=-1, keepdim=True)
        out = functional.scaled_dot_product_attention(q, k, v, attn_mask=allowed | empty)
        return out.masked_fill(empty, 0.0)

    def unfit(self, device_type: str, mask_type: type[Mask] | None) -> str | None:
        """Fits everywhere."""
        return None


def _padded(q: Tensor, k: Tensor, v: Tensor, mask: KeyPadding) -> Tensor:
    real = mask.dense(q.device)  # (B, 1, 1, Nk)
    if mask.never_empty:
        return functional.scaled_dot_product_attention(q, k, v, attn_mask=real)
    empty = ~real.any(dim=-1, keepdim=True)  # (B, 1, 1, 1)
    # What a row without keys gives differs between torch's backends (NaN in some). Here it attends to everything, and
    # everything is zero: output zero, and no gradient to q, k or v.
    v = v.masked_fill(empty, 0.0)
    return functional.scaled_dot_product_attention(q, k, v, attn_mask=real | empty)


def _spans(q: Tensor, k: Tensor, v: Tensor, mask: Spans) -> Tensor:
    if mask.disjoint:  # the backward pass of split is one cat, that of a slice fills the whole with zeros
        keys, values = (x.split(mask.key_lengths, dim=2) for x in (k, v))
    else:
        keys, values = ([x[:, :, start:stop] for start, stop in mask.keys] for x in (k, v))
    outputs = [
        functional.scaled_dot_product_attention(qs, ks, vs) if ks.shape[2] else torch.zeros_like(qs)
        for qs, ks, vs in zip(q.split(mask.lengths, dim=2), keys, values, strict=True)
    ]
    return torch.cat(outputs, dim=2)
