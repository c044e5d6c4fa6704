"""Where sampling runs and what it costs: devices, dtypes, memory, time, evaluation mode."""

from __future__ import annotations

import logging
import os
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TypeVar

import torch
from torch import nn
from tqdm import tqdm  # type: ignore[import-untyped]

from dit.machine import bfloat16_warning

log = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")
Progress = Callable[[int, int], None]  # (steps done, steps in all)


def pick_device(name: str) -> torch.device:
    """`auto`: a GPU where there is one, another one for each rank. ValueError for a device that torch does not have."""
    if name == "auto":
        if not torch.cuda.is_available():
            return torch.device("cpu")
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
    try:
        torch.empty(0, device=name)
    except Exception as error:  # torch raises several kinds for unknown, absent and broken devices
        first = str(error).strip().splitlines()[0]
        raise ValueError(f"device={name} cannot be used here ({first[:80]}); device=auto takes what is there") from None
    if (device := torch.device(name)).type == "meta":
        raise ValueError("device=meta holds no values to sample with; device=auto takes what is there")
    return device


def device_name(device: torch.device) -> str:
    """`cpu`, or the kind of GPU: what can change a sample's last bits, but not which of several it was."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def pick_dtype(name: str | torch.dtype | None) -> torch.dtype | None:
    """A torch dtype, by name or as it is; None stays. ValueError for one that is not of floating-point numbers."""
    dtype = getattr(torch, name, None) if isinstance(name, str) else name
    if name is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise ValueError(f"precision={name} is no floating-point dtype of torch; for example bfloat16, or null")
    return dtype


def own_precision(net: nn.Module) -> torch.dtype | None:
    """The dtype of 16 bits that most of a network's weights have; None: they are float32 or more."""
    held: Counter[torch.dtype] = Counter()
    for parameter in net.parameters():
        held[parameter.dtype] += parameter.numel()
    most = max(held, key=lambda dtype: held[dtype], default=torch.float32)
    return most if most in (torch.bfloat16, torch.float16) else None


def dtype_of(net: nn.Module) -> torch.dtype:
    """The dtype of arithmetic on samples outside of the network: float32, or float64 where its weights are float64."""
    own = next((parameter.dtype for parameter in net.parameters()), torch.float32)
    return torch.promote_types(own, torch.float32)


def warn_of_precision(dtype: str | torch.dtype | None, device: torch.device) -> None:
    """Says so of a dtype that the device is slow in."""
    if dtype is torch.bfloat16 and (said := bfloat16_warning("precision=bfloat16", "precision=null", device.type)):
        log.warning(said)


def peak_memory(device: torch.device) -> int:
    """Bytes: of the GPU since the last reset, of the whole process on the CPU."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else host_peak_memory()


def host_peak_memory() -> int:
    """Bytes that this process has held at once of the machine's own memory, files that it reads in place included."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def peak_in_words(device: torch.device, of_device: int) -> str:
    """`2.31 GB of the host`, and what a GPU held at most: `, 9.8 GB on cuda:0`."""
    host = f"{host_peak_memory() / 1e9:.2f} GB of the host"
    return host if device.type != "cuda" else f"{host}, {of_device / 1e9:.2f} GB on {device}"


@contextmanager
def evaluating(*modules: nn.Module | None) -> Iterator[None]:
    """Puts modules and all their parts into evaluation mode; at the end each is put back into the mode that it had."""
    before = [(part, part.training) for module in modules if module is not None for part in module.modules()]
    try:
        for part, _ in before:
            part.training = False
        yield
    finally:
        for part, training in before:
            part.training = training


def exhausted(steps: Generator[T, None, R]) -> R:
    """What a generator returns, when it has yielded all."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def stepwise(steps: Generator[T, None, R], context: Callable[[], AbstractContextManager[None]]) -> Iterator[T]:
    """What a generator yields. It runs inside of a context that ends before anything is handed out: whoever takes it is
    outside, and may compute gradients, or train."""
    try:
        while True:
            with context():
                try:
                    step = next(steps)
                except StopIteration:
                    return
            yield step
    finally:
        steps.close()


@contextmanager
def progress_bar(title: str) -> Iterator[Progress]:
    """A bar on stderr with speed and time left, from the first step on: mistakes that are found before need none."""
    with tqdm(desc=title, unit="step", delay=0.01) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield show


class Timer:
    """Seconds inside its blocks, and steps done in them out of `total`."""

    def __init__(self, total: int, progress: Progress | None, device: torch.device) -> None:
        self.total, self.progress, self.device = total, progress, device
        self.seconds, self.done = 0.0, 0

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.seconds += time.perf_counter() - self._started

    def step(self) -> None:
        self.done += 1
        if self.progress is not None:
            self.progress(self.done, self.total)
