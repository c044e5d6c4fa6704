"""A GPU that is not there: shapes, dtypes and devices of everything that a network would do on one, and no numbers.

torch's fake tensors say which device they are on and refuse operators whose tensors are on different ones. What they
leave out is added here: autocast, the choice of an attention kernel, a backward pass (torch's own engine asks the
driver about streams), and a watch for places where the host would wait for the device or copy to it.
"""

from __future__ import annotations

import heapq
import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import get_gradient_edge
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

aten = torch.ops.aten

# How the host learns numbers of the device: it stands still until the device has come so far.
WAITS = {aten._local_scalar_dense, aten.nonzero, aten.equal, aten.is_nonzero, aten.masked_select, aten.unique_dim}
COPIES = {aten._to_copy, aten.copy_}
STAGED = 2**16  # bytes that the driver takes over at once, whatever memory they come from


@contextmanager
def fake_cuda(strict: bool = True) -> Iterator[FakeTensorMode]:
    """Within: tensors made with device="cuda" need none. strict: real tensors are refused.

    Networks should have `net/kernel=sdpa`, since `auto` tries its candidates out on the real device.
    """
    with ExitStack() as stack:
        for place, value in (
            ("torch.cuda.amp.common.amp_definitely_not_available", lambda: False),
            ("torch.cuda.is_bf16_supported", lambda *_, **__: True),
            ("torch.nn.functional.scaled_dot_product_attention", attention),
        ):
            stack.enter_context(mock.patch(place, value))
        yield stack.enter_context(FakeTensorMode(allow_non_fake_inputs=not strict))


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """What `scaled_dot_product_attention` runs on a GPU: flash in half precision without a mask, else the kernel that
    takes scores to add, which a mask of bools becomes first."""
    assert not enable_gqa
    q, k, v = query, key, value
    if torch.is_autocast_enabled("cuda"):
        dtype = torch.get_autocast_dtype("cuda")
        q, k, v = q.to(dtype), k.to(dtype), v.to(dtype)
    if attn_mask is None and q.dtype in (torch.bfloat16, torch.float16):
        return aten._scaled_dot_product_flash_attention(q, k, v, dropout_p, is_causal, scale=scale)[0]
    if attn_mask is not None:
        if attn_mask.dtype is torch.bool:
            attn_mask = torch.where(attn_mask, 0.0, float("-inf"))
        attn_mask = attn_mask.to(q.dtype).expand(*q.shape[:3], k.shape[2])
    # The log of each row's sum is kept where a gradient is wanted.
    kept = torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v))
    return aten._scaled_dot_product_efficient_attention(q, k, v, attn_mask, kept, dropout_p, is_causal, scale=scale)[0]


def on_cuda(net: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The network with fake parameters and buffers on the device, as `net.to("cuda", dtype)` would leave a real one:
    tensors that are neither stay where they are. Call it within `fake_cuda`."""
    for module in net.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(placed(parameter, dtype), parameter.requires_grad)
        for name, buffer in module._buffers.items():
            module._buffers[name] = None if buffer is None else placed(buffer, dtype)
    return net


def placed(tensor: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """A fake tensor on the device like this one; `dtype`: of floating-point ones, None keeps theirs."""
    kind = dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
    return torch.empty(tensor.shape, dtype=kind, device="cuda")


def all_placed(values: Any, dtype: torch.dtype | None = None) -> Any:
    """The same for every tensor in a tree."""
    return tree_map_only(Tensor, lambda tensor: placed(tensor, dtype), values)


class Watch(TorchDispatchMode):
    """Raises RuntimeError where the host would wait for the device, copy to it, or hand it tensors of the host.

    Numbers of the host (0-dim tensors) travel with the call of a kernel and are free. draws: allow small tensors to be
    sent without waiting (`non_blocking`), which is how random draws of the host reach the device.
    """

    def __init__(self, draws: bool = False) -> None:
        super().__init__()
        self.draws = draws

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if func.namespace == "prim":  # questions about a tensor
            return func(*args, **kwargs)
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        devices = {tensor.device.type for tensor in tensors if tensor.dim()}
        if func.overloadpacket in WAITS and any(tensor.is_cuda for tensor in tensors):
            raise RuntimeError(f"the host waits for the device in {func}")
        if len(devices) > 1 and func.overloadpacket not in COPIES:
            raise RuntimeError(f"tensors of host and device meet in {func}")
        out = func(*args, **kwargs)
        if func.overloadpacket in COPIES:
            source = args[1] if func.overloadpacket is aten.copy_ else args[0]
            small = out.numel() * out.element_size() < STAGED
            sent = self.draws and out.is_cuda and small and kwargs.get("non_blocking", False)
            if source.device.type != out.device.type and not sent:
                raise RuntimeError(f"{func} copies {tuple(source.shape)} from {source.device} to {out.device}")
        return out


def backward(out: Tensor, grad: Tensor) -> dict[Tensor, Tensor]:
    """The gradient of out to every leaf that it depends on, from `grad`, that to out itself."""
    leaves = [node.variable for node in behind([out.grad_fn]) if hasattr(node, "variable")]
    found = gradients([out], [grad], leaves)
    return {leaf: value for leaf, value in zip(leaves, found, strict=True) if value is not None}


def behind(starts: Iterable[Any], ends: Set[Any] = frozenset()) -> set[Any]:
    """The nodes of a graph that can be reached from some, with these, and without going past `ends`."""
    found = set(starts)
    todo = list(found - ends)
    while todo:
        new = {node for node, _ in todo.pop().next_functions if node is not None} - found
        found |= new
        todo += new - ends
    return found


def gradients(outs: Sequence[Tensor], grads: Sequence[Tensor], inputs: Sequence[Tensor]) -> list[Tensor | None]:
    """The gradients of outs to inputs, from `grads`, those to outs themselves; None where nothing depends on an input.

    Walks the graph as torch's engine does: nodes that were recorded last come first, gradients are brought to the
    shape and dtype of what they belong to, and added up where paths meet. No hooks are called.
    """
    edges = [get_gradient_edge(x) for x in inputs]
    wanted = {(edge.node, edge.output_nr): x for edge, x in zip(edges, inputs, strict=True)}
    ends = {edge.node for edge in edges}
    starts = [get_gradient_edge(out) for out in outs]
    waiting: dict[Any, int] = defaultdict(int)
    for node in behind((start.node for start in starts), ends) - ends:
        for following, _ in node.next_functions:
            waiting[following] += 1
    arrived: dict[Any, dict[int, Tensor]] = defaultdict(dict)
    for start, grad in zip(starts, grads, strict=True):
        arrived[start.node][start.output_nr] = grad
    order = itertools.count()
    ready = [(0, next(order), node) for node in {start.node for start in starts} if not waiting[node]]
    with torch.no_grad():
        while ready:
            node = heapq.heappop(ready)[-1]
            if node in ends:
                continue
            given = arrived.pop(node, {})
            outputs = run(node, given) if given and node.next_functions else [None] * len(node.next_functions)
            for (following, place), value in zip(node.next_functions, outputs, strict=True):
                if following is None:
                    continue
                if value is not None:
                    like = wanted.get((following, place))
                    value = fitting(value, following._input_metadata[place] if like is None else like)
                    sums = arrived[following]
                    sums[place] = value if place not in sums else sums[place] + value
                waiting[following] -= 1
                if not waiting[following]:
                    heapq.heappush(ready, (-following._sequence_nr(), next(order), following))
    return [arrived.get(edge.node, {}).get(edge.output_nr) for edge in edges]


def run(node: Any, grads: Mapping[int, Tensor]) -> Sequence[Tensor | None]:
    """One node of the graph: gradients of its outputs to those of its inputs."""
    given = [grads.get(place) for place in range(len(node._input_metadata))]
    outputs = node.apply(*given) if hasattr(node, "apply") else node(*given)
    return outputs if isinstance(outputs, tuple) else (outputs,)


def fitting(grad: Tensor, wanted: Any) -> Tensor:
    """A gradient in the shape and dtype of what it belongs to."""
    if grad.shape != tuple(wanted.shape):
        grad = grad.sum_to_size(tuple(wanted.shape))
    return grad if grad.dtype == wanted.dtype else grad.to(wanted.dtype)
