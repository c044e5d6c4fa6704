"""What this machine has, and what it is slow at."""

from __future__ import annotations

import os
import time
from pathlib import Path

import torch

CGROUP = Path("/sys/fs/cgroup/memory.max")
SIZE = 256  # of the matrices: without units for bfloat16 large ones take many seconds


def memory() -> int:
    """Bytes of memory that this process may use: the machine's, or its container's."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = CGROUP.read_text().strip() if CGROUP.is_file() else ""
    return min(machine, int(limit)) if limit.isdigit() else machine


def size_in_words(size: float) -> str:
    """Bytes as one would say them: 1.5 GB."""
    units = ("B", "kB", "MB", "GB", "TB", "PB")
    step = 0
    while size >= 1000 and step < len(units) - 1:
        size, step = size / 1000, step + 1
    return f"{size:,.3g} {units[step]}"


def bfloat16_slowdown() -> float:
    """How many times as long a product of small matrices takes in bfloat16 as in float32, on this CPU now."""
    return _seconds(torch.bfloat16) / _seconds(torch.float32)


def bfloat16_warning(setting: str, instead: str, device: str) -> str | None:
    """One line for a setting that computes in bfloat16 on a CPU that is slower so; None where it is not.

    Args:
        setting, instead: as the command line writes them. device: `cpu`, or anything else, which is not looked at.
    """
    slower = bfloat16_slowdown() if device == "cpu" else 0.0
    if slower <= 1:
        return None
    return f"{setting}: on this CPU a product takes {slower:.2g} times as long in bfloat16 as in float32; use {instead}"


def _seconds(dtype: torch.dtype) -> float:
    """Of one product, the fastest of three."""
    a = torch.randn(SIZE, SIZE, generator=torch.Generator().manual_seed(0)).to(dtype)
    taken = []
    for _ in range(1 + 3):
        start = time.perf_counter()
        torch.mm(a, a)
        taken.append(time.perf_counter() - start)
    return min(taken[1:])
