"""The arithmetic of a training step: float32, or bfloat16 over float32 weights."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch.plugins.precision import MixedPrecision, Precision


class BFloat16Autocast(MixedPrecision):
    """bfloat16 arithmetic over fp32 weights. Batches stay as they come: codecs and noise levels want fp32."""

    def __init__(self, device: str) -> None:
        super().__init__("bf16-mixed", device)

    def convert_input(self, data: Any) -> Any:
        return data


def resolved(precision: str, device: str) -> str:
    """What `auto` stands for: `bf16-mixed` on a GPU with units for bfloat16, else `32-true`. Others are themselves."""
    if precision != "auto":
        return precision
    has_units = device == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16-mixed" if has_units else "32-true"


def plugin(precision: str, device: str) -> Precision:
    """For `32-true` or `bf16-mixed`; ValueError for another (fp16 overflows in attention; loss scaling hides it)."""
    if precision == "32-true":
        return Precision()
    if precision == "bf16-mixed":
        return BFloat16Autocast(device)
    raise ValueError(f"trainer.precision={precision} is not supported; use 32-true, bf16-mixed or auto")
