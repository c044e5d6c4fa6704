"""Attention through xformers' memory_efficient_attention: flash kernels that also take sequences of many lengths.

xformers is optional and is imported at the first call only. An import that succeeds proves nothing: built for another
torch it imports with a warning and fails in the call.
"""

from functools import lru_cache

import torch
from torch import Tensor

from dit.net.kernels.base import KernelError, Stateless
from dit.net.kernels.masks import ByCoordinates, KeyPadding, Mask, Spans
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
    assert isinstance(mask, Spans)
    if mask.disjoint:
        return _packed(q, k, v, mask)
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


def _packed(q: Tensor, k: Tensor, v: Tensor, mask: Spans) -> Tensor:
    batch = q.shape[0]
    lengths, key_lengths = mask.lengths * batch, mask.key_lengths * batch
    k, v = k.flatten(0, 1)[None], v.flatten(0, 1)[None]
    if 0 in key_lengths:  # a sample without keys gets one of zeros: zero output
        k, v = (_fill_empty(x, key_lengths) for x in (k, v))
        key_lengths = tuple(max(length, 1) for length in key_lengths)
    return _varlen(q.flatten(0, 1)[None], k, v, lengths, key_lengths).view_as(q)


def _fill_empty(x: Tensor, lengths: tuple[int, ...]) -> Tensor:
    zero = x.new_zeros(1, 1, *x.shape[2:])
    return torch.cat([part if part.shape[1] else zero for part in x.split(lengths, dim=1)], dim=1)


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
