"""How much arithmetic a device can do in a second: what its data sheet says, or what it does now."""

import re
import time
from statistics import median

import torch

from dit.onednn import mkl_is_slow, product

# Dense bf16 tensor-core rate with fp32 accumulation, FLOP/s, by the words of the device's name; the first match counts.
# From NVIDIA's data sheets (A100, H100, H200, HGX B200, L40S, L4, A40) and the appendices of its architecture
# whitepapers (GA102: 3090, A6000; Ada: 4090, RTX 6000; Blackwell: 5090). Where a sheet quotes sparse rates, half.
PEAK_BF16: tuple[tuple[str, float], ...] = (
    ("B200", 2250e12),
    ("H200 NVL", 835.5e12),
    ("H200", 989.4e12),
    ("GH200", 989.4e12),
    ("H100 NVL", 835.5e12),
    ("H100 PCIe", 756.5e12),
    ("H100", 989.4e12),
    ("A100", 312e12),
    ("L40S", 362.05e12),
    ("L4", 121e12),
    ("A40", 149.7e12),
    ("RTX A6000", 154.8e12),
    ("RTX 6000 Ada", 364.2e12),
    ("RTX 5090", 209.5e12),
    ("RTX 4090", 165.2e12),
    ("RTX 3090", 71e12),
)

STATED, MEASURED = "data sheet", "measured"


def peak_rate(device_name: str) -> float | None:
    """The data sheet's dense bf16 rate in FLOP/s for a name such as `NVIDIA H100 80GB HBM3`; None if unknown."""
    words = set(re.split(r"[\s\-]+", device_name))
    return next((rate for key, rate in PEAK_BF16 if words.issuperset(key.split())), None)


def measured_matmul_rate(device: torch.device | str, dtype: torch.dtype, seconds: float = 1.0) -> float:
    """What this machine does now in FLOP/s: the median of repeated square matmuls, as large as the time allows.

    Up to 2048^3 on a CPU and 8192^3 on a GPU. A CPU without vector units for bfloat16 may take a minute for one of
    those: sizes grow from 256 while a product of the next one, eight times as much, fits into a quarter of `seconds`.
    """
    device = torch.device(device)
    size, largest = 256, 8192 if device.type == "cuda" else 2048
    fast = device.type == "cpu" and dtype is torch.float32 and mkl_is_slow()  # the rate that the network can have

    def times(size: int, count: int) -> list[float]:
        a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
        taken = []
        for _ in range(count):
            synchronize(device)
            start = time.perf_counter()
            product(a, b, None) if fast else torch.mm(a, b)
            synchronize(device)
            taken.append(time.perf_counter() - start)
        return taken

    once = times(size, 2)[-1]  # the first one warms up
    while size < largest and 8 * once < seconds / 4:
        size *= 2
        once = times(size, 2)[-1]
    repeats = max(1, min(7, int(seconds / once)))
    return 2 * size**3 / median(times(size, 1 + repeats)[1:])


def reference_rate(device: torch.device | str, dtype: torch.dtype) -> tuple[float, str]:
    """The FLOP/s that MFU is a share of, and where it is from: `STATED` for GPUs that are known, else `MEASURED`.

    In float32 a GPU's data sheet counts where torch may use TF32: half the rate of bfloat16 on all of the table. No CPU
    has one: neither its clock under load nor how many wide units it has can be read from the system.
    """
    device = torch.device(device)
    tf32 = dtype is torch.float32 and torch.get_float32_matmul_precision() != "highest"
    if device.type == "cuda" and (dtype in (torch.bfloat16, torch.float16) or tf32):
        rate = peak_rate(torch.cuda.get_device_name(device))
        if rate is not None:
            return (rate / 2 if tf32 else rate), STATED
    return measured_matmul_rate(device, dtype), MEASURED


def synchronize(device: torch.device) -> None:
    """Wait for the device, before a clock is read."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
