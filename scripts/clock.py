"""Networks under one clock: timed in turn, in one process, so that a busy machine slows them all down alike."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from dit.rates import measured_matmul_rate, synchronize
from scripts.settings import PRECISIONS, Settings, optimizer


@dataclass
class Subject:
    """One network under the clock, with its times in seconds, one for each turn."""

    name: str
    net: nn.Module
    optimizer: torch.optim.Optimizer
    forward: list[float]
    backward: list[float]
    step: list[float]

    def update(self) -> list[float]:
        """Seconds of the optimizer in each turn."""
        return [step - backward for step, backward in zip(self.step, self.backward, strict=True)]


def make_subject(name: str, net: nn.Module, settings: Settings, optim: str = "adamw") -> Subject:
    """A network with random weights, and an optimizer of configs/optim."""
    net = with_weights(net, settings)
    return subject_of(name, net, settings, optimizer(optim, net))


def with_weights(net: nn.Module, settings: Settings) -> nn.Module:
    """A network with weights that matter: zero-initialised gates would let kernels see zeros only."""
    net = net.to(settings.device).train()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(std=0.02)
    return net


def subject_of(name: str, net: nn.Module, settings: Settings, optimizer: torch.optim.Optimizer) -> Subject:
    """A network as it is."""
    runnable = torch.compile(net) if settings.compile else net
    return Subject(name, runnable, optimizer, [], [], [])  # type: ignore[arg-type]


def autocast(settings: Settings) -> torch.autocast:
    """bfloat16 arithmetic over float32 weights, where that is asked for."""
    return torch.autocast(torch.device(settings.device).type, torch.bfloat16, enabled=settings.precision == "bf16")


def turn(subject: Subject, inputs: tuple[Any, ...], settings: Settings) -> None:
    """One forward pass without gradients and one training step, both timed."""
    device = torch.device(settings.device)
    with torch.no_grad(), autocast(settings):
        subject.forward.append(seconds(lambda: subject.net(*inputs), device))

    def backward() -> None:
        with autocast(settings):
            out = subject.net(*inputs)
        out.float().square().mean().backward()

    def update() -> None:
        subject.optimizer.step()
        subject.optimizer.zero_grad(set_to_none=True)

    subject.backward.append(seconds(backward, device))
    subject.step.append(subject.backward[-1] + seconds(update, device))


def seconds(work: Callable[[], Any], device: torch.device) -> float:
    """Wall-clock seconds of `work`, with the device's queue empty before and after."""
    synchronize(device)
    start = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - start


def measure(subjects: list[Subject], inputs: tuple[Any, ...], settings: Settings) -> list[float]:
    """Times every subject in turn; the machine's matmul rate in FLOP/s at each turn that counts."""
    dtype, rates = PRECISIONS[settings.precision], []
    for index in range(settings.warmup + settings.repeats):
        # The order turns around, so that nobody always follows the one that heats the caches.
        for subject in subjects[:: 1 if index % 2 else -1]:
            turn(subject, inputs, settings)
        rates.append(measured_matmul_rate(settings.device, dtype))
        if sys.stderr.isatty():
            print(f"\rturn {index + 1}/{settings.warmup + settings.repeats}", end="", file=sys.stderr)
    if sys.stderr.isatty():
        print("\r", end="", file=sys.stderr)
    for subject in subjects:
        for times in (subject.forward, subject.backward, subject.step):
            del times[: -settings.repeats]
    return rates[-settings.repeats :]


def spread(values: list[float], form: str = ".1f") -> str:
    """`median [lower quartile, upper quartile]`."""
    low, middle, high = (
        torch.tensor(values, dtype=torch.float64).quantile(torch.tensor([0.25, 0.5, 0.75]).double()).tolist()
    )
    return f"{middle:{form}} [{low:{form}}, {high:{form}}]"


def machine(device: torch.device) -> str:
    """The device in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU with {torch.get_num_threads()} threads ({torch.backends.cpu.get_cpu_capability()})"
