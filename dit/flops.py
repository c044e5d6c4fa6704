"""How much arithmetic a network needs.

One multiply-add counts as two. Only matrix products and convolutions count, as is usual for model FLOPs utilisation
(MFU; PaLM, arXiv 2204.02311, appendix B).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


def count_flops(
    net: nn.Module,
    x_shape: Sequence[int],
    t_shape: Sequence[int],
    cond: Mapping[str, Tensor],
    backward: bool,
) -> int:
    """FLOPs of `net(x, t, cond)`, with the backward pass to all parameters that train if `backward`.

    x_shape: (B, C, F, H, W); t_shape: (B, 1) or (B, F); cond: of which shapes and kinds count, on any device.
    Counted on the meta device: nothing is computed, no memory is used, and `net` keeps its weights and place. (On the
    CPU torch's counter leaves out flash attention: a tenth of DiT-S/2 at 256 tokens.) What activation checkpointing
    computes again is not counted: MFU is about the work that the model needs.
    """
    return sum(count_flops_by_op(net, x_shape, t_shape, cond, backward).values())


def count_flops_by_op(
    net: nn.Module,
    x_shape: Sequence[int],
    t_shape: Sequence[int],
    cond: Mapping[str, Tensor],
    backward: bool,
) -> dict[str, int]:
    """The same by operator: `bmm` is attention, `mm` and `addmm` the linear layers, `convolution` patches."""
    with torch.inference_mode(False), torch.set_grad_enabled(backward), torch.autocast("cpu", enabled=False):
        dtype = next((p.dtype for p in net.parameters() if p.is_floating_point()), torch.float32)
        x, t = (torch.empty(tuple(shape), dtype=dtype, device="meta") for shape in (x_shape, t_shape))
        meta_cond = {
            key: torch.empty_like(value, dtype=dtype if value.is_floating_point() else value.dtype, device="meta")
            for key, value in cond.items()
        }
        step = _Step(net, backward)
        state = {
            name: torch.empty_like(value, device="meta").requires_grad_(value.requires_grad)
            for name, value in [*step.named_parameters(), *step.named_buffers()]
        }
        return dict(functional_call(step, state, (x, t, meta_cond)))


class _Step(nn.Module):
    """Forward and backward within one `forward`, so that recomputed layers meet the meta weights too."""

    def __init__(self, net: nn.Module, backward: bool) -> None:
        super().__init__()
        self.net = net
        self.backward = backward

    def forward(self, x: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Counter[str]:
        with _ModelFlops() as counter:
            out = self.net(x, t, cond)
            total = out.sum() if isinstance(out, Tensor) else torch.stack([each.sum() for each in out]).sum()
            if self.backward:
                counter.in_backward = True
                trained = [p for p in self.net.parameters() if p.requires_grad]
                torch.autograd.grad(total, trained, allow_unused=True)
        return counter.by_op


class _ModelFlops(TorchDispatchMode):
    """Adds up torch's own formulas, but not over forward work that happens during the backward pass: recomputation.

    Recomputation builds a graph, so gradients are on; the backward's own products are computed with gradients off.
    """

    def __init__(self) -> None:
        super().__init__()
        self.by_op: Counter[str] = Counter()
        self.in_backward = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        formula = flop_registry.get(func.overloadpacket)
        if formula is not None and not (self.in_backward and torch.is_grad_enabled()):
            self.by_op[func.overloadpacket.__name__] += formula(*args, **kwargs, out_val=out)
        return out
