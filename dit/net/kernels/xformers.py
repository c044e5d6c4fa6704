"""Attention through xformers' memory_efficient_attention: flash kernels that also take sequences of many lengths.

xformers is optional and is imported at the first call only. An import that succeeds proves nothing: built for another
torch it imports with a warning and fails in the call.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dit.net.kernels.base import KernelError, Stateless, first_line
from dit.net.kernels.masks import ByCoordinates, KeyPadding, Mask, Packed
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
            raise KernelError("xformers", q, f"it does not import: {first_line(error)}") from error
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
    order = _gathered(mask, q.shape[0], q.shape[1], q.device)
    tokens, keys, values = (x.flatten(0, 1) for x in (q, k, v))  # (B * N, heads, head_dim) each
    if order.queries is not None:
        tokens = tokens.index_select(0, order.queries)
    if order.some_empty:
        zero = keys.new_zeros(1, *keys.shape[1:])
        keys, values = torch.cat([keys, zero]), torch.cat([values, zero])
    if order.keys is not None:
        keys, values = (x.index_select(0, order.keys) for x in (keys, values))
    out = memory_efficient_attention(tokens[None], keys[None], values[None], attn_bias=order.bias)[0]
    return (out if order.back is None else out.index_select(0, order.back)).view_as(q)


class Gathered(NamedTuple):
    """Samples, or packed clips, as one block-diagonal sequence: the tokens of each side by side, without padding.

    queries, back: (B * Nq,) int64, the order in which queries go in, and the way back; None: as they are. keys: (any,)
    int64, likewise, of the flattened (B * Nk); None: as they are. some_empty: a clip has no key and reads one of zeros,
    which stands behind the others: zero output, no gradient. bias: xformers'.
    """

    queries: Tensor | None
    back: Tensor | None
    keys: Tensor | None
    some_empty: bool
    bias: Any


@lru_cache(maxsize=8)
@torch.inference_mode(False)  # a mask first met while sampling must serve training too
def _gathered(mask: Mask, batch: int, num_queries: int, device: torch.device) -> Gathered:
    """Real keys alone go in. BlockDiagonalPaddedKeysMask has no backward, and wants the padding at the end of each row.
    Cached, since it waits for the device where keys are padded or tokens change places: once a mask, not once a layer.
    """
    from xformers.ops.fmha import BlockDiagonalMask

    if isinstance(mask, KeyPadding):  # the samples of a batch, flattened, are packed clips
        real = mask.real.expand(batch, -1)
        mask, batch = Packed.of((num_queries,) * batch, (real.shape[1],) * batch, real.reshape(1, -1)), 1
    assert isinstance(mask, Packed)
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
    some_empty = 0 in counts
    if some_empty:
        zero = torch.tensor([batch * num_keys])
        places = torch.cat([part if len(part) else zero for part in places.split(counts)])
    bias = BlockDiagonalMask.from_seqlens(lengths, [max(count, 1) for count in counts], device=device)
    ordered = torch.equal(queries, torch.arange(batch * num_queries))
    whole = torch.equal(places, torch.arange(batch * num_keys))
    return Gathered(
        queries=None if ordered else queries.to(device),
        back=None if ordered else queries.argsort().to(device),
        keys=None if whole else places.to(device),
        some_empty=some_empty,
        bias=bias,
    )


def _last_reason(error: Exception) -> str:
    """xformers lists every operator and why it refuses, over many lines; the last operator is the least demanding."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    refusals = [i for i, line in enumerate(lines) if "is not supported because" in line]
    return "; ".join(lines[refusals[-1] + 1 :]) if refusals else first_line(error)
