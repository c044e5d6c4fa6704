"""Attention through xformers' memory_efficient_attention: flash kernels that also take sequences of many lengths.

xformers is optional and is imported at the first call only. An import that succeeds proves nothing: built for another
torch it imports with a warning and fails in the call.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dit.net.kernels.base import KernelError, Stateless
from dit.net.kernels.masks import ByCoordinates, KeyPadding, Mask, Packed, Spans
from dit.net.kernels.sdpa import SDPA

NO_TABLES = "it has no form of masks by coordinates"


class XFormers(Stateless):
    """Variable-length attention for masks that are blocks: padding keys are taken out, samples stay packed.

    Raises KernelError where xformers has no operator for the device, dtype or head size (it has none for the CPU).
    """

    # A graph break in place of a trace: what xformers decides from lengths in Python would be frozen into the graph.
    @torch.compiler.disable
    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Mask | None) -> Tensor:
        if q.device.type == "meta":  # nothing to compute, only shapes and FLOPs to count
            return SDPA()(q, k, v, mask)
        if isinstance(mask, ByCoordinates):
            raise KernelError("xformers", q, NO_TABLES)
        # xformers' order is (B, N, heads, head_dim).
        tokens = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        try:
            return _attend(*tokens, mask).transpose(1, 2)
        except ImportError as error:
            raise KernelError("xformers", q, f"it does not import: {_first_line(error)}") from error
        except NotImplementedError as error:
            raise KernelError("xformers", q, _last_reason(error)) from error

    def unfit(self, device_type: str, mask_type: type[Mask] | None) -> str | None:
        """Not for the CPU, and not without a mask while torch.compile traces, since it would cut the graph."""
        if device_type == "cpu":
            return "xformers has no operator for the CPU"
        if mask_type is ByCoordinates:
            return NO_TABLES
        if mask_type is None and torch.compiler.is_compiling():
            return "without a mask torch's flash kernels do the same, and stay in the compiled graph"
        return None


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Mask | None) -> Tensor:
    """As XFormers.attend, with q, k, v and the result (B, N, heads, head_dim)."""
    from xformers.ops import memory_efficient_attention

    if mask is None:
        return memory_efficient_attention(q, k, v)
    if isinstance(mask, KeyPadding):
        return _padded(q, k, v, mask)
    if isinstance(mask, Packed):
        return _packed(q, k, v, mask)
    assert isinstance(mask, Spans)
    runs = zip(q.split(mask.lengths, dim=1), mask.keys, strict=True)
    outputs = [memory_efficient_attention(qs, k[:, start:stop], v[:, start:stop]) for qs, (start, stop) in runs]
    return torch.cat(outputs, dim=1)


def _padded(q: Tensor, k: Tensor, v: Tensor, mask: KeyPadding) -> Tensor:
    # Only the real keys go in, one after another. BlockDiagonalPaddedKeysMask has no backward, and wants the padding
    # at the end of each row.
    batch, num_queries = q.shape[:2]
    kept, lengths, empty = _kept_keys(mask, batch, q.device)
    if not mask.never_empty:
        v = v.masked_fill(empty[:, None, None, None], 0.0)
    k, v = (x.flatten(0, 1).index_select(0, kept)[None] for x in (k, v))  # (1, real keys, heads, head_dim)
    return _varlen(q.flatten(0, 1)[None], k, v, (num_queries,) * batch, lengths).view_as(q)


@lru_cache(maxsize=8)
@torch.inference_mode(False)  # a mask first met while sampling must serve training too
def _kept_keys(mask: KeyPadding, batch: int, device: torch.device) -> tuple[Tensor, tuple[int, ...], Tensor]:
    """Places of the real keys in the flattened (B * Nk), their number in each sample, and (B,) bool: has none.

    A sample without keys keeps its first one, for which the caller sets the value to zero: zero output, no gradient.
    Cached, since it waits for the device: once a mask, not once a layer.
    """
    real = mask.real.to(device).expand(batch, -1)
    empty = ~real.any(dim=1)
    first = torch.arange(real.shape[1], device=device) == 0
    real = real | (empty[:, None] & first)
    return real.flatten().nonzero().squeeze(1), tuple(real.sum(dim=1).tolist()), empty


class Gathered(NamedTuple):
    """Packed clips as one block-diagonal sequence: every clip's tokens side by side, without padding.

    queries, back: (B * Nq,) int64, the order in which queries go in, and the way back; None: as they are. keys: (any,)
    int64, likewise, of the flattened (B * Nk) and one key of zeros behind them; None: as they are. bias: xformers'.
    """

    queries: Tensor | None
    back: Tensor | None
    keys: Tensor | None
    bias: Any


def _packed(q: Tensor, k: Tensor, v: Tensor, mask: Packed) -> Tensor:
    from xformers.ops import memory_efficient_attention

    order = _gathered(mask, q.shape[0], q.device)
    tokens, keys, values = (x.flatten(0, 1) for x in (q, k, v))  # (B * N, heads, head_dim) each
    if order.queries is not None:
        tokens = tokens.index_select(0, order.queries)
    if order.keys is not None:
        zero = keys.new_zeros(1, *keys.shape[1:])
        keys, values = (torch.cat([x, zero]).index_select(0, order.keys) for x in (keys, values))
    out = memory_efficient_attention(tokens[None], keys[None], values[None], attn_bias=order.bias)[0]
    return (out if order.back is None else out.index_select(0, order.back)).view_as(q)


@lru_cache(maxsize=8)
@torch.inference_mode(False)  # a mask first met while sampling must serve training too
def _gathered(mask: Packed, batch: int, device: torch.device) -> Gathered:
    """A clip without keys reads a key of zeros: zero output, no gradient. Cached, since it waits for the device where
    keys are padded or tokens change places: once a mask, not once a layer."""
    from xformers.ops.fmha import BlockDiagonalMask

    (num_queries, num_keys), num_clips = mask.size, len(mask.query[0])
    query_clip, key_clip = mask.clips(mask.query, "cpu"), mask.clips(mask.key, "cpu")
    rows = torch.arange(batch)[:, None]
    queries = (query_clip.argsort(stable=True) + rows * num_queries).flatten()
    lengths = query_clip.bincount(minlength=num_clips).tolist() * batch
    order = key_clip.argsort(stable=True)
    real = torch.ones(1, num_keys, dtype=torch.bool) if mask.real is None else mask.real.cpu()
    kept = real.expand(batch, -1)[:, order]  # (B, Nk), clip by clip
    places = (order + rows * num_keys)[kept]
    counts = torch.stack([key_clip[order][row].bincount(minlength=num_clips) for row in kept]).flatten().tolist()
    if 0 in counts:
        zero = torch.tensor([batch * num_keys])
        places = torch.cat([part if len(part) else zero for part in places.split(counts)])
    bias = BlockDiagonalMask.from_seqlens(lengths, [max(count, 1) for count in counts], device=device)
    ordered = torch.equal(queries, torch.arange(batch * num_queries))
    whole = torch.equal(places, torch.arange(batch * num_keys))
    return Gathered(
        queries=None if ordered else queries.to(device),
        back=None if ordered else queries.argsort().to(device),
        keys=None if whole else places.to(device),
        bias=bias,
    )


def _varlen(q: Tensor, k: Tensor, v: Tensor, lengths: tuple[int, ...], key_lengths: tuple[int, ...]) -> Tensor:
    """Block-diagonal attention over one packed sequence (1, N, heads, head_dim)."""
    from xformers.ops import memory_efficient_attention
    from xformers.ops.fmha import BlockDiagonalMask

    bias = BlockDiagonalMask.from_seqlens(list(lengths), list(key_lengths), device=q.device)
    return memory_efficient_attention(q, k, v, attn_bias=bias)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def _last_reason(error: Exception) -> str:
    """xformers lists every operator and why it refuses, over many lines; the last operator is the least demanding."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    refusals = [i for i, line in enumerate(lines) if "is not supported because" in line]
    return "; ".join(lines[refusals[-1] + 1 :]) if refusals else _first_line(error)
