"""How many kernels does a network launch, and how many bytes do they move? Counted; nothing is computed or measured.

    python scripts/traffic.py twin=wan precision=bf16                    # ours beside diffusers' class, a few blocks
    python scripts/traffic.py twin=wan net.depth=30 frames=21 height=60 width=104 batch=1 text_tokens=512
    python scripts/traffic.py twin=all precision=bf16 height=64 width=64

Settings are those of scripts/bench.py, though those about time have no use here, and those of the device (`Device`
below). With precision=bf16 there are two networks of each kind: autocast over fp32 weights, and weights in bf16, which
precision=bf16-true counts alone. With compile=true it is the program that torch.compile makes of each (where it is one:
a network that asks the device for numbers is cut into several, and is not counted).

A kernel is an operator of torch that is not a view and not an allocation, or of a compiled program one that inductor
writes. It reads its inputs and writes its outputs once. Products are matrix products, convolutions and attention;
everything else is "other". The bound is the sum over all kernels of max(FLOPs / peak, bytes / bandwidth), and of the
time between two launches: a count in units of time, below which a device that keeps nothing in its caches between
kernels cannot be.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from scripts.fake_device import COPIES, WAITS, all_placed, backward, fake_cuda, on_cuda
from scripts.fake_inductor import Launch, launches
from scripts.settings import build, compose, example_named, parse, run

aten = torch.ops.aten
FREE = {aten._unsafe_view, aten.empty, aten.empty_like, aten.empty_strided, aten.new_empty, aten.new_empty_strided}
FREE |= {aten.lift_fresh, aten.is_same_size, aten.sym_size, aten.sym_stride, aten.sym_numel}
# They read of one input only what they write.
GATHERS = {aten.embedding, aten.index_select, aten.index, aten.gather, aten.embedding_dense_backward}
OVERWRITES = {aten.copy_, aten.fill_, aten.zero_, aten.normal_, aten.uniform_}
# A kernel that fills or copies the whole output, and one that works on a part of it.
TWO_KERNELS = {aten.constant_pad_nd, aten.masked_fill, aten.slice_backward, aten.select_backward, aten.index_put}


@dataclass(frozen=True)
class Device:
    """What the bound is for: an H200, of whose data sheet's 989 TFLOP/s about 790 are seen in large products."""

    peak: float = 790e12  # FLOP/s in half precision
    peak_fp32: float = 60e12  # FLOP/s in float32, without TF32
    bandwidth: float = 4.8e12  # bytes/s
    launch: float = 2e-6  # seconds from one kernel to the next, at least


@dataclass(frozen=True)
class Kernel:
    """One launch. flops is 0 for whatever is not a product; half: whether a product is of half precision."""

    name: str
    flops: int
    bytes: int
    half: bool

    def seconds(self, device: Device) -> float:
        """At least."""
        peak = device.peak if self.half else device.peak_fp32
        return max(self.flops / peak, self.bytes / device.bandwidth) + device.launch


class Counted:
    """kernels: in their order. waits: how often the host waits for a number of the device. copies: between the two."""

    kernels: list[Kernel]
    waits = copies = 0

    def total(self, of: Callable[[Kernel], float]) -> float:
        """The sum of something over all kernels."""
        return sum(map(of, self.kernels))

    def other_bytes(self) -> float:
        """Read and written by everything that is not a product."""
        return self.total(lambda kernel: 0 if kernel.flops else kernel.bytes)

    def product_bytes(self) -> float:
        """Read and written by products."""
        return self.total(lambda kernel: kernel.bytes if kernel.flops else 0)

    def bound(self, device: Device) -> float:
        """Seconds, at least."""
        return self.total(lambda kernel: kernel.seconds(device))


class Compiled(Counted):
    """What a compiled program launches. It waits for nothing, or it would be several."""

    def __init__(self, found: Iterable[Launch]) -> None:
        self.kernels = []
        for launch in found:
            if launch.operator is None:
                self.kernels.append(Kernel(launch.name, 0, launch.bytes, half=False))
            else:
                self.kernels.append(library(launch.operator, launch.args, launch.kwargs, launch.out))


class Count(Counted, TorchDispatchMode):
    """Counts what runs on the device within. A host that asks for a number of the device is told `length` for a whole
    number, 1 for a fraction, true, and that everything is nonzero."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.length = length
        self.kernels = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if func.namespace == "prim":  # questions about a tensor
            return func(*args, **kwargs)
        packet, inputs = func.overloadpacket, on_device((args, kwargs))
        if packet in WAITS and inputs:
            self.waits += 1
            return self.told(packet, inputs[0])
        out = func(*args, **kwargs)
        outputs = on_device(out)
        if func.is_view or packet in FREE or not (inputs or outputs):
            return out
        if packet in COPIES:
            self.copies += any(x.device.type != "cuda" for x in tree_leaves((args, out)) if isinstance(x, Tensor))
        if outputs and not any(map(size, outputs)):  # torch launches nothing for tensors without elements
            return out
        self.kernels.append(library(packet, args, kwargs, out))
        if packet in TWO_KERNELS:
            self.kernels.append(Kernel(packet.__name__, 0, sum(map(size, outputs)), self.kernels[-1].half))
        return out

    def told(self, packet: Any, tensor: Tensor) -> Any:
        """What the host believes that the device has said."""
        if packet is aten.nonzero:
            return torch.empty(tensor.numel(), tensor.dim(), dtype=torch.int64, device=tensor.device)
        if packet is not aten._local_scalar_dense or tensor.dtype is torch.bool:
            return True
        return 1.0 if tensor.is_floating_point() else self.length


def library(packet: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> Kernel:
    """The kernel behind one operator of torch."""
    inputs, outputs = on_device((args, kwargs)), on_device(out)
    formula = flop_registry.get(packet)
    flops = 0 if formula is None else formula(*args, **kwargs, out_val=out)
    if packet in OVERWRITES:
        inputs = inputs[1:]
    written = sum(map(size, outputs))
    read = written + size(min(inputs, key=size)) if packet in GATHERS else sum(map(size, inputs))
    return Kernel(packet.__name__, flops, read + written, half=bool(inputs) and inputs[0].element_size() == 2)


def on_device(values: Any) -> list[Tensor]:
    """The tensors of a tree that are on the device, each once."""
    found = {id(x): x for x in tree_leaves(values) if isinstance(x, Tensor) and x.device.type == "cuda"}
    return list(found.values())


def size(tensor: Tensor) -> int:
    """Bytes that a kernel reads or writes; what is expanded is there once."""
    places = 1
    for length, stride in zip(tensor.shape, tensor.stride(), strict=True):
        places *= length if stride else min(length, 1)
    return places * tensor.element_size()


def count(net: nn.Module, arguments: Any, autocast: bool, train: bool, length: int) -> Count:
    """What `net(*arguments)` launches, without gradients, or (`train`) with the backward pass to all parameters."""
    with Count(length) as counted:
        with torch.set_grad_enabled(train), torch.autocast("cuda", torch.bfloat16, enabled=autocast):
            out = net(*arguments)
        if train:
            backward(out, torch.empty_like(out))
    return counted


def count_compiled(net: nn.Module, arguments: Any, autocast: bool, train: bool) -> Compiled | None:
    """The same of `torch.compile(net)`; None where that is not one program."""
    with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
        try:
            return Compiled(launches(net, arguments, train))
        except (DataDependentOutputException, DynamicOutputShapeException):
            return None


def split(arguments: list[str]) -> tuple[list[str], Device]:
    """Arguments of the benchmark, and the device."""
    known = {field.name for field in fields(Device)}
    mine = {name: value for name, _, value in (a.partition("=") for a in arguments) if name in known}
    try:
        device = Device(**{name: float(value) for name, value in mine.items()})
    except ValueError:
        raise ValueError(f"{', '.join(f'{k}={v}' for k, v in mine.items())}: these must be numbers") from None
    return [a for a in arguments if a.partition("=")[0] not in known], device


def rows(arguments: list[str], device: Device) -> list[str]:
    """The table's rows for one twin."""
    from dit.interop.diffusers import recognise
    from scripts.twins import published

    settings, overrides = parse(arguments)
    config = compose(settings, overrides)
    with torch.device("meta"):
        net: Any = build(config, kernel="sdpa")
    shape = (settings.frames, settings.height, settings.width)
    given = published.arguments_for(net, settings.batch, shape, settings.text_tokens, "cpu")
    x, t, cond = recognise(net).call(net, given)
    found = []
    kinds = {"fp32": ["fp32"], "bf16": ["autocast", "bf16"], "bf16-true": ["bf16"]}
    for kind in kinds[settings.precision]:
        autocast = kind == "autocast"
        dtype = torch.bfloat16 if kind == "bf16" else torch.float32
        with fake_cuda(strict=False):
            theirs = on_cuda(published.blank(net), dtype).eval()
            ours = on_cuda(build(config, kernel="sdpa"), dtype)
            arguments = all_placed(given, dtype)
            call = (*all_placed((x,), dtype), all_placed(t), all_placed(cond, dtype))
            for train in (False, True):
                both = ((ours, call), (published.Theirs(theirs), (arguments,)))
                pair: list[Counted | None]
                if settings.compile:
                    pair = [count_compiled(net, given, autocast, train) for net, given in both]
                else:
                    pair = [count(net, given, autocast, train, settings.text_tokens) for net, given in both]
                name = f"{settings.twin} {kind}{', compiled' * settings.compile}"
                found.append(row(name, "forward + backward" if train else "forward", pair, device))
    return found


def row(name: str, what: str, pair: list[Counted | None], device: Device) -> str:
    """One line of the table; a dash where nothing could be counted."""

    def each(shown: Callable[[Counted], str]) -> list[str]:
        return ["-" if counted is None else shown(counted) for counted in pair]

    cells = [
        name,
        what,
        *each(lambda counted: f"{len(counted.kernels)}"),
        *each(lambda counted: f"{counted.waits} + {counted.copies}"),
        *each(lambda counted: f"{counted.other_bytes() / 1e9:.3g}"),
        *each(lambda counted: f"{counted.product_bytes() / 1e9:.3g}"),
        *each(lambda counted: f"{1e3 * counted.bound(device):.3g}"),
    ]
    mine, other = pair
    cells.append("-" if mine is None or other is None else f"{mine.bound(device) / other.bound(device):.3f}")
    return f"| {' | '.join(cells)} |"


def main(arguments: list[str]) -> None:
    rest, device = split(arguments)
    twins = [a.removeprefix("twin=") for a in rest if a.startswith("twin=")]
    if len(twins) != 1:
        raise ValueError("what is counted is a published model: twin=wan, or twin=all")
    example_named("wan")  # says so without diffusers
    from scripts.twins.published import EXAMPLES, for_one

    print(f"command: python scripts/traffic.py {' '.join(arguments)}\nbound for: {device}\n")
    columns = ["kernels", "waits + copies of the host", "other GB", "product GB", "bound ms"]
    names = [f"{column}, {whose}" for column in columns for whose in ("ours", "diffusers")]
    print(f"| twin | pass | {' | '.join(names)} | bound, ours / diffusers |")
    print("| --- " * (3 + len(names)) + "|", flush=True)
    everyone = [for_one(name, rest) for name in EXAMPLES] if twins == ["all"] else [rest]
    for own in everyone:
        print("\n".join(rows(own, device)), flush=True)


if __name__ == "__main__":
    run(main, __doc__, Device)
