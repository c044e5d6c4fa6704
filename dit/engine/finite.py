"""Whether numbers are finite, asked once for many tensors and agreed on by all ranks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor
from torch.optim import Optimizer

from dit.engine import ranks, shards
from dit.engine.module import VideoDiffusion
from dit.recipes.base import NET


class NonFinite(ValueError):
    """Training has diverged: a loss, gradient, weight, moment or average is NaN or infinite."""


def check(named: Mapping[str, Iterable[Tensor]], step: int, device: torch.device) -> None:
    """Raises `NonFinite` on all ranks if one of them holds a number that is not finite.

    Args:
        named: what they are, in words, and the tensors, of a sharded one this rank's part. Each iterable is read once,
            and the device is waited for once.
        step: number of the last update.
    """
    largest = torch.stack([_largest(tensors, device) for tensors in named.values()])
    flags = ranks.any_rank(largest.isfinite().logical_not()).tolist()
    if wrong := [name for name, flag in zip(named, flags, strict=True) if flag]:
        raise NonFinite(f"{' and '.join(wrong)} are not finite after step {step}")


def weights(module: VideoDiffusion) -> dict[str, list[Tensor]]:
    """The weights that are trained, by optimizer, as `check` takes them; this rank's part of each."""
    return {
        f"the weights{of(name)}": [shards.local(p) for p in module.parameters_of(name) if p.requires_grad]
        for name in module.optimizers_by_name
    }


def of(optimizer: str) -> str:
    """What a message adds to "the loss" and the like: "" for the optimizer of `net`, " of <name>" for the others."""
    return "" if optimizer == NET else f" of {optimizer}"


def moments(optimizers: Iterable[Optimizer]) -> Iterator[Tensor]:
    """The tensors in the state of optimizers; this rank's part of each."""
    for optimizer in optimizers:
        for state in optimizer.state.values():
            yield from (shards.local(each) for each in state.values() if isinstance(each, Tensor))


def _largest(tensors: Iterable[Tensor], device: torch.device) -> Tensor:
    """The largest magnitude, 0-dim float32 on `device`; NaN where there is one."""
    groups: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for tensor in tensors:
        if tensor.is_floating_point() and tensor.numel():
            groups.setdefault((tensor.device, tensor.dtype), []).append(tensor)
    norms = [torch.stack(torch._foreach_norm(group, math.inf)).max() for group in groups.values()]
    return torch.stack([torch.zeros((), device=device), *(norm.to(device, torch.float32) for norm in norms)]).max()
