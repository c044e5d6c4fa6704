"""diffusers as a reference: tiny models with every parameter random."""

from __future__ import annotations

import torch
from torch import Tensor, nn


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
