"""diffusers as a reference: tiny models with every parameter random, and true float64 where diffusers rounds down."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

ROUNDED = (torch.float32, torch.bfloat16)


class Double(TorchFunctionMode):
    """Whoever asks for float32 or bfloat16 gets float64."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is Tensor.float:
            return args[0].double()
        given = {name: precise(value) for name, value in (kwargs or {}).items()}
        return func(*(precise(value) for value in args), **given)


def precise(value: Any) -> Any:
    """float64 for a dtype that rounds; any other value as it is."""
    return torch.float64 if isinstance(value, torch.dtype) and value in ROUNDED else value


@contextlib.contextmanager
def exact() -> Iterator[None]:
    """True float64: diffusers computes norms, timesteps and rotary tables in float32 on purpose, which no exact
    comparison survives. Build and call the reference inside."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with Double():
            yield
    finally:
        torch.set_default_dtype(default)


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Every parameter random: zero gates, unit norms and zero frequencies would hide what they multiply."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        values = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        scale = 0.5 if parameter.dim() < 2 else parameter[0].numel() ** -0.5
        parameter.data.copy_(scale * values)
    return model.eval()


def relative(found: Tensor, wanted: Tensor) -> float:
    """The largest difference over the largest value."""
    assert found.shape == wanted.shape, (found.shape, wanted.shape)
    assert wanted.abs().max() > 1e-3, "the reference says nothing"
    return ((found - wanted).abs().max() / wanted.abs().max()).item()


def gradients(out: Tensor, leaves: list[Tensor], seed: int = 9) -> list[Tensor]:
    """The gradients of a random projection of the output; zeros for leaves that do not reach it."""
    direction = torch.randn(out.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    found = torch.autograd.grad((out * direction.to(out.dtype)).sum(), leaves, allow_unused=True)
    return [torch.zeros_like(leaf) if grad is None else grad for leaf, grad in zip(leaves, found, strict=True)]
