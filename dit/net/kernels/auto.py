"""The attention kernel that really runs here, found out by running it."""

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import _disable_current_modes

from dit.net.kernels.base import Kernel, KernelError, first_line, short
from dit.net.kernels.masks import ByCoordinates, KeyPadding, Mask, Packed
from dit.net.kernels.sdpa import SDPA

log = logging.getLogger(__name__)

FALLBACK = SDPA()
MASK_TYPES: tuple[type[Mask] | None, ...] = (None, KeyPadding, Packed, ByCoordinates)

# The answers, for the life of the process: candidates, device type, dtype, head size, kind of mask -> kernel.
_choices: dict[tuple[Any, ...], Kernel] = {}


class Auto:
    """The first of `candidates` that passes `probe` for the tensors at hand, else SDPA.

    candidates: kernels in order of preference. The order in `configs/net/kernel/auto.yaml` is xformers (variable-length
    flash attention wastes nothing on padding or between samples), FlexAttention (one kernel for any mask, after a
    compilation; passed by on the CPU and without a mask), SDPA.
    The choice is made once for each device type, dtype, head size and kind of mask, and is logged once.
    """

    def __init__(self, *, candidates: Sequence[Kernel]) -> None:
        self.candidates = tuple(candidates)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, mask: Mask | None = None) -> Tensor:
        """q (B, heads, Nq, head_dim), k and v (B, heads, Nk, head_dim) -> (B, heads, Nq, head_dim)."""
        mask_type = None if mask is None else type(mask)
        kernel = choose(self.candidates, q.device.type, v.dtype, q.shape[-1], mask_type)
        return kernel(q, k, v, mask)

    def unfit(self, device_type: str, mask_type: type[Mask] | None) -> str | None:
        """Fits everywhere, since it falls back."""
        return None


def choose(
    candidates: tuple[Kernel, ...],
    device_type: str,
    dtype: torch.dtype,
    head_dim: int,
    mask_type: type[Mask] | None,
) -> Kernel:
    """The kernel of `Auto`, probed at the first question and remembered."""
    if device_type == "meta":  # nothing to compute, only shapes and FLOPs to count
        return FALLBACK
    if torch.compiler.is_compiling():  # to ask would cut the graph: not where nothing but the fallback fits
        fit = [kernel for kernel in candidates if kernel.unfit(device_type, mask_type) is None]
        if not fit or fit[0] == FALLBACK:
            return FALLBACK
    key = (candidates, device_type, dtype, head_dim, mask_type)
    if key not in _choices:
        _choose(key)
    return _choices[key]


def chosen() -> list[str]:
    """What was chosen so far, in words: `cuda, bfloat16, head_dim=64, no mask: SDPA`."""
    return [f"{_words(*case)}: {type(kernel).__name__}" for (_, *case), kernel in _choices.items()]


def _words(device_type: str, dtype: torch.dtype, head_dim: int, mask_type: type[Mask] | None) -> str:
    mask = "no mask" if mask_type is None else mask_type.__name__
    return f"{device_type}, {short(dtype)}, head_dim={head_dim}, {mask}"


@torch.compiler.disable  # a question that comes up while torch.compile traces is answered outside of the graph
def _choose(key: tuple[Any, ...]) -> None:
    candidates, *case = key
    refusals = []
    _choices[key] = FALLBACK
    for kernel in candidates:
        why_not = probe(kernel, *case)
        if why_not is None:
            _choices[key] = kernel
            break
        refusals.append(f"{type(kernel).__name__}: {why_not}")
    log.info(
        "attention on %s: %s%s",
        _words(*case),
        type(_choices[key]).__name__,
        f" (not {'; not '.join(refusals)})" if refusals else "",
    )


def probe(
    kernel: Kernel, device_type: str, dtype: torch.dtype, head_dim: int, mask_type: type[Mask] | None
) -> str | None:
    """Why `kernel` should not be used for this case, in one line, or None if it serves.

    It runs forward and backward on small random tensors of the real device, dtype, head size and kind of mask, and its
    output and gradients must be near those of SDPA.
    """
    why_unfit = kernel.unfit(device_type, mask_type)
    if why_unfit is not None:
        return why_unfit
    # The first question may come up under autocast, inference mode, fake tensors, a FLOP counter, or in a checkpointed
    # block, where the tensors that are saved are counted: with hooks of its own the probe's are not. torch.func forbids
    # hooks, and then there are none.
    allowed = torch._C._autograd._saved_tensors_hooks_is_enabled()  # type: ignore[attr-defined]
    with (
        saved_tensors_hooks(lambda tensor: tensor, lambda tensor: tensor) if allowed else nullcontext(),
        _disable_current_modes(),
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast(device_type, enabled=False),
    ):
        try:
            found = _run(kernel, torch.device(device_type), dtype, head_dim, mask_type)
        except KernelError as error:
            return error.why
        except Exception as error:  # noqa: BLE001 - whatever a kernel dies of, the answer is another kernel
            return f"{type(error).__name__}: {first_line(error)}"
        expected = _run(FALLBACK, torch.device(device_type), dtype, head_dim, mask_type)
        for name, a, b in zip(("output", "dq", "dk", "dv"), found, expected, strict=True):
            # Coarse on purpose: a kernel that is wrong is far off, and one in bf16 differs by its rounding (2^-8).
            distance = float((a - b).abs().max() / b.abs().max())
            if not distance < 0.05:
                return f"its {name} is off by {distance:.1%} of SDPA's largest"
    return None


def _run(
    kernel: Kernel, device: torch.device, dtype: torch.dtype, head_dim: int, mask_type: type[Mask] | None
) -> list[Tensor]:
    """Output and gradients to q, k, v, in float32, for the same random input at each call."""
    batch, heads, tokens = 2, 2, 32
    generator = torch.Generator().manual_seed(0)
    shape = (4, batch, heads, tokens, head_dim)
    q, k, v, grad = torch.randn(shape, generator=generator).to(device, dtype).unbind()
    mask: Mask | None = None
    if mask_type is KeyPadding:
        mask = KeyPadding(torch.arange(tokens, device=device) < torch.tensor([[tokens], [tokens // 2]], device=device))
    elif mask_type is Packed:  # two clips, and text of each behind them
        parts = ((4, tokens - 12), (2, 6))
        mask = Packed(parts, parts, torch.arange(tokens, device=device)[None] < tokens - 2)
    elif mask_type is ByCoordinates:
        number = torch.arange(tokens, device=device)
        numbers = torch.stack([number % 2, number % 3, number // 8])
        mask = ByCoordinates(numbers, numbers, None)
    q, k, v = (x.requires_grad_() for x in (q, k, v))
    out = kernel(q, k, v, mask)
    return [x.detach().float() for x in (out, *torch.autograd.grad(out, (q, k, v), grad))]
