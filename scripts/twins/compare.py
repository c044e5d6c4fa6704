"""A published model of ours beside diffusers' class: equal weights, equal arguments, in turn."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from datetime import date
from typing import Any

import torch
from torch import Tensor, nn

from dit.interop.diffusers import recognise
from dit.net.kernels import auto
from dit.onednn import accelerate
from scripts.clock import autocast, machine, measure, spread, subject_of, with_weights
from scripts.settings import PRECISIONS, build, compose, parse
from scripts.twins import published


@dataclass(frozen=True)
class Ratios:
    """Ours / diffusers, turn by turn: median and quartiles in words."""

    name: str
    forward: str
    backward: str


def compare_all(arguments: list[str]) -> None:
    """Every published model after another, and a table of their ratios. `arguments` hold `twin=all`.

    One that fails, as for want of memory, says so and does not cost the others; SystemExit at the end.
    """
    rows, failed = [], []
    for name in published.EXAMPLES:
        try:
            rows.append(compare(published.for_one(name, arguments)))
        except ValueError:  # a mistake in what was asked, which is the same for all
            raise
        except Exception:
            traceback.print_exc()
            failed.append(name)
        print(flush=True)
    print("| ours / diffusers | forward | forward + backward |\n| --- | --- | --- |")
    for row in rows:
        print(f"| {row.name} | {row.forward} | {row.backward} |")
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


def compare(arguments: list[str]) -> Ratios:
    """Prints the times of one model, how far the outputs are apart, and how much both need for their products."""
    settings, overrides = parse(arguments)
    print(f"command: python scripts/bench.py {' '.join(arguments)}")
    print(f"machine: {machine(torch.device(settings.device))}, torch {torch.__version__}, {date.today()}")
    print(f"settings: {settings}")
    net: Any = with_weights(build(compose(settings, overrides)), settings)
    theirs = published.reference(net)
    if not settings.compile:
        accelerate(net)
    size = (settings.frames, settings.height, settings.width)
    given = published.arguments_for(net, settings.batch, size, settings.text_tokens, settings.device)
    if settings.precision == "bf16-true":
        net, theirs = net.bfloat16(), theirs.bfloat16()
        given = {name: in_dtype(value, PRECISIONS[settings.precision]) for name, value in given.items()}
    inputs = (given, recognise(net).call(net, given))
    # Weights stay equal, and no optimizer's state stands beside two large networks.
    still = [torch.optim.SGD(part.parameters(), lr=0.0) for part in (net, theirs)]
    subjects = [
        subject_of(f"ours: {settings.net}", published.Ours(net), settings, still[0]),
        subject_of(f"diffusers: {type(theirs).__name__}", published.Theirs(theirs), settings, still[1]),
    ]
    with (
        torch.no_grad(),
        autocast(settings),
    ):  # in another precision they would be compiled again
        ours, wanted = (subject.net(*inputs) for subject in subjects)
    counts = f"{parameters(net):,} (ours) and {parameters(theirs):,}"
    print(f"tokens: {settings.batch * net.num_tokens(*size)}, parameters: {counts}")
    apart = ((ours - wanted).abs().max() / wanted.abs().max()).item()
    print(f"largest difference of the outputs: {apart:.1e} relative")
    print(f"attention kernels that auto chose so far: {'; '.join(auto.chosen()) or 'none'}", flush=True)
    rates = measure(subjects, inputs, settings)
    print(f"matmul: {spread([rate / 1e9 for rate in rates])} GFLOP/s\n")
    print("| network | forward ms | forward + backward ms |\n| --- | --- | --- |")
    for subject in subjects:
        times = [spread([1e3 * s for s in column]) for column in (subject.forward, subject.backward)]
        print(f"| {subject.name} | {' | '.join(times)} |")
    mine, other = subjects
    forward, backward = (
        spread([a / b for a, b in zip(getattr(mine, name), getattr(other, name), strict=True)], ".3f")
        for name in ("forward", "backward")
    )
    print(f"| ours / diffusers, turn by turn | {forward} | {backward} |\n\nmedian [quartiles]")
    if settings.device == "cpu" and settings.precision == "fp32" and not settings.compile:
        print(f"diffusers spends {product_share(other.net, inputs):.0%} of a forward pass in products of linear layers")
    return Ratios(settings.twin, forward, backward)


def in_dtype(value: Any, dtype: torch.dtype) -> Any:
    """A floating tensor in another dtype; everything else, such as a pair of rotary tables, as it is."""
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


def product_share(net: nn.Module, inputs: tuple[Any, ...]) -> float:
    """The share of a forward pass on the CPU that goes into products of linear layers, which both networks need."""
    with (
        torch.no_grad(),
        torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], acc_events=True) as profile,
    ):
        net(*inputs)
    times = {event.key: event.self_cpu_time_total for event in profile.key_averages()}
    return sum(times.get(f"aten::{name}", 0.0) for name in ("addmm", "mm")) / sum(times.values())


def parameters(net: nn.Module) -> int:
    """How many numbers a network learns."""
    return sum(p.numel() for p in net.parameters())
