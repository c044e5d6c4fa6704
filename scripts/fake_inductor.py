"""torch.compile for a GPU that is not there: what inductor would launch on it, up to the code, which is not generated.

A network on fake tensors (`scripts/fake_device.py`) goes the way of `torch.compile`: one graph of forward and backward,
cut where the least must be kept, inductor's own passes, lowering and fusion. What it asks the driver meanwhile is
answered for an H200. Two of its passes run on a real device and are left out: products are not padded, and numbers that
are constant are not folded.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._functorch.aot_autograd import aot_function
from torch._inductor import compile_fx, config
from torch._inductor.decomposition import select_decomp_table
from torch._inductor.graph import GraphLowering
from torch._inductor.ir import MultiOutput
from torch._inductor.scheduler import BaseSchedulerNode, ExternKernelSchedulerNode, NopKernelSchedulerNode
from torch.fx import GraphModule, Node
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten

from scripts.fake_device import gradients

H200 = SimpleNamespace(
    name="NVIDIA H200",
    major=9,
    minor=0,
    warp_size=32,
    multi_processor_count=132,
    regs_per_multiprocessor=65536,
    max_threads_per_block=1024,
    max_threads_per_multi_processor=2048,
    shared_memory_per_block=49152,
    shared_memory_per_block_optin=232448,
    shared_memory_per_multiprocessor=233472,
    L2_cache_size=50 * 2**20,
    total_memory=141 * 10**9,
)


@dataclass(frozen=True)
class Launch:
    """One kernel: a library's (`operator`, with its arguments and its result) or one that inductor writes (None).

    bytes: read and written by one that inductor writes.
    """

    name: str
    operator: Any = None
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    out: Any = None
    bytes: int = 0


def launches(net: nn.Module, arguments: Sequence[Any], train: bool) -> list[Launch]:
    """What `torch.compile(net)(*arguments)` launches, without gradients, or (`train`) with the backward pass to all
    parameters. Call it within `fake_cuda`, and under the autocast that is meant."""
    graphs: list[tuple[GraphModule, Sequence[Any], dict[str, bool]]] = []

    def keep(graph: GraphModule, inputs: Sequence[Any], **kind: bool) -> None:
        graphs.append((graph, inputs, kind))

    def part(joint: GraphModule, inputs: Sequence[Any], **given: Any) -> tuple[GraphModule, GraphModule]:
        forward, back = compile_fx.partition_fn(joint, inputs, **given)
        for graph, is_backward in ((forward, False), (back, True)):
            keep(
                graph, [node.meta["val"] for node in graph.graph.find_nodes(op="placeholder")], is_backward=is_backward
            )
        raise Enough

    def infer(graph: GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
        keep(graph, inputs, is_inference=True)
        raise Enough

    state = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    leaves, shape = tree_flatten(tuple(arguments))
    tensors = {place: leaf for place, leaf in enumerate(leaves) if isinstance(leaf, Tensor)}

    def call(state: dict[str, Tensor], tensors: dict[int, Tensor]) -> Any:
        arguments = tree_unflatten([tensors.get(place, leaf) for place, leaf in enumerate(leaves)], shape)
        return torch.func.functional_call(net, state, arguments)

    traced = aot_function(call, fw_compiler=infer, partition_fn=part, decompositions=select_decomp_table())
    with driver(), torch.set_grad_enabled(train):
        with suppress(Enough):
            traced(state, tensors)
        return [launch for graph, inputs, kind in graphs for launch in lowered(graph, inputs, **kind)]


def lowered(graph: GraphModule, inputs: Sequence[Any], **kind: bool) -> list[Launch]:
    """The kernels that inductor makes of one graph."""
    found: list[Launch] = []

    def scheduled(lowering: GraphLowering) -> None:
        lowering._update_scheduler()
        for node in lowering.scheduler.nodes:
            found.extend(launched(node))
        raise Enough

    with mock.patch.object(GraphLowering, "compile_to_module", scheduled), suppress(Enough):
        compile_fx.compile_fx_inner(graph, inputs, **kind)
    return found


def launched(node: BaseSchedulerNode) -> list[Launch]:
    """A node of inductor's schedule is one kernel, but for those that name parts of another's result."""
    if isinstance(node, NopKernelSchedulerNode) or isinstance(node.node, MultiOutput):
        return []
    if not isinstance(node, ExternKernelSchedulerNode):
        return [Launch("triton", bytes=moved(node))]
    kernel: Any = node.node
    # Where several operators went into one call, its own is among them.
    origin = kernel.get_origin_node() or next(node for node in kernel.origins if node.target == kernel.op_overload)
    args, kwargs = tree_map_only(Node, lambda given: given.meta["val"], (origin.args, origin.kwargs))
    operator = origin.target.overloadpacket
    return [Launch(operator.__name__, operator, args, kwargs, origin.meta["val"])]


def moved(node: BaseSchedulerNode) -> int:
    """Bytes that a kernel of inductor's own reads and writes: of a part of a buffer, that part alone."""
    whole = node.get_read_write_buffer_accesses(include_reads=True, include_writes=True)
    touched: dict[str, int] = defaultdict(int)
    for dep in node.read_writes.reads | node.read_writes.writes:
        touched[dep.name] += dep.numbytes_hint()
    return sum(min(size, touched[name]) for name, size in whole.items())


class Enough(BaseException):
    """What was wanted is known. Not an Exception, of which inductor would make its own."""


@contextmanager
def driver() -> Iterator[None]:
    """Within: questions to the driver are answered for `H200`, and nothing asks the device itself."""
    ask = staticmethod(lambda *_, **__: H200)
    interface = "torch._dynamo.device_interface.CudaInterface"
    with ExitStack() as stack:
        for place, value in (
            ("torch.cuda.get_device_properties", lambda *_: H200),
            ("torch.cuda.get_device_capability", lambda *_: (H200.major, H200.minor)),
            ("torch.cuda.current_device", lambda: 0),
            (f"{interface}.get_device_properties", ask),
            (f"{interface}.Worker.get_device_properties", ask),
            ("torch._inductor.scheduler.has_triton", lambda: True),
            ("torch._inductor.compile_fx.get_cuda_device_context", lambda _: nullcontext()),
            ("torch._inductor.compile_fx.is_tf32_warning_applicable", lambda _: False),
            ("torch._inductor.compile_fx._check_triton_bf16_support", lambda _: None),
            ("torch._dynamo.utils.assert_no_fake_params_or_buffers", lambda _: None),
            ("torch.autograd.grad", differentiated),
        ):
            stack.enter_context(mock.patch(place, value))
        stack.enter_context(config.patch(joint_graph_constant_folding=False, shape_padding=False))
        yield


def differentiated(outs: Sequence[Tensor], inputs: Sequence[Tensor], grad_outputs: Sequence[Any], **_: Any) -> Any:
    """`torch.autograd.grad` without torch's engine."""
    pairs = [(out, grad) for out, grad in zip(outs, grad_outputs, strict=True) if grad is not None]
    return tuple(gradients(*zip(*pairs, strict=True), inputs))  # type: ignore[arg-type]
