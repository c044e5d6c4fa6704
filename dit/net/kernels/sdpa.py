"""Attention through torch's own scaled_dot_product_attention: runs everywhere, so it is what `auto` falls back to."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from dit.net.kernels.base import Stateless
from dit.net.kernels.masks import KeyPadding, Mask, Packed, Spans


class SDPA(Stateless):
    """softmax(q k^T / sqrt(head_dim)) v with torch's fused kernels.

    Spans become one call a run without any mask, packed clips one for all that stand side by side and are as long:
    exact, no work on forbidden keys, and the flash kernels, which take no mask, stay available. A mask by coordinates
    is written out, Nq * Nk bytes.
    """

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Mask | None) -> Tensor:
        # isinstance, not match: torch.compile cannot trace class patterns.
        if mask is None:
            return functional.scaled_dot_product_attention(q, k, v)
        if isinstance(mask, KeyPadding):
            return _padded(q, k, v, mask)
        if isinstance(mask, Spans):
            return _spans(q, k, v, mask)
        if isinstance(mask, Packed):
            return _packed(q, k, v, mask)
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
    outputs = [
        functional.scaled_dot_product_attention(qs, k[:, :, start:stop], v[:, :, start:stop])
        for qs, (start, stop) in zip(q.split(mask.lengths, dim=2), mask.keys, strict=True)
    ]
    return torch.cat(outputs, dim=2)


def _packed(q: Tensor, k: Tensor, v: Tensor, mask: Packed) -> Tensor:
    counts, queries, keys = zip(*mask.groups, strict=True)
    grouped = zip(*(_batches(x, counts, lengths) for x, lengths in ((q, queries), (k, keys), (v, keys))), strict=True)
    real = None
    if mask.real is not None:
        real = _batches(mask.real.to(q.device).expand(len(q), -1)[:, None, :, None], counts, keys)
    outputs = []
    for i, (qs, ks, vs) in enumerate(grouped):
        if not ks.shape[2]:
            outputs.append(torch.zeros_like(qs))
        elif real is None:
            outputs.append(functional.scaled_dot_product_attention(qs, ks, vs))
        else:
            outputs.append(_padded(qs, ks, vs, KeyPadding(real[i][:, 0, :, 0], mask.never_empty)))
    return _sequence(outputs, len(q), counts, queries)


def _batches(x: Tensor, counts: Sequence[int], lengths: Sequence[tuple[int, ...]]) -> list[Tensor]:
    """A packed sequence (B, heads, N, any) -> for each group of clips (B * clips, heads, tokens of a clip, any).

    counts: clips of each group. lengths: of the runs of one of its clips, part by part.
    """
    num_parts = len(lengths[0])
    sizes = [count * own[part] for part in range(num_parts) for count, own in zip(counts, lengths, strict=True)]
    # split, not slices: its backward is one cat, that of a slice fills the whole with zeros
    pieces = x.split(sizes, dim=2)
    made = []
    for group, count in enumerate(counts):
        runs = [piece.unflatten(2, (count, -1)) for piece in pieces[group :: len(counts)] if piece.shape[2]]
        runs = runs or [x[:, :, None, :0].expand(-1, -1, count, -1, -1)]  # no token at all
        clips = torch.cat(runs, dim=3) if len(runs) > 1 else runs[0]  # (B, heads, clips, tokens of a clip, any)
        made.append(clips.transpose(1, 2).flatten(0, 1))
    return made


def _sequence(
    batches: Sequence[Tensor], batch: int, counts: Sequence[int], lengths: Sequence[tuple[int, ...]]
) -> Tensor:
    """The way back from `_batches`: (B, heads, N, any)."""
    parts: list[list[Tensor]] = [[] for _ in lengths[0]]
    for x, count, own in zip(batches, counts, lengths, strict=True):
        clips = x.unflatten(0, (batch, count)).transpose(1, 2)  # (B, heads, clips, tokens of a clip, any)
        for part, run in zip(parts, clips.split(own, dim=3), strict=True):
            part.append(run.flatten(2, 3))
    return torch.cat([run for part in parts for run in part], dim=2)
