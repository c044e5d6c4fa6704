"""Muon with its Newton-Schulz iteration in the precision that is fast where it runs, over stacks of equal matrices.

`torch.optim.Muon` iterates in bfloat16, one matrix after another. Most CPUs have no units for bfloat16 products: there
that is several times slower than float32, and can take longer than the rest of a training step (docs/benchmarks.md).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from dit.engine.parallel import part_of

# Numbers in one stack. More would only cost memory; one matrix that is larger is a stack of its own.
STACK_NUMEL = 2**24
# Iterations on one Gram matrix. What float32 rounds off it, 1e-7, grows up to twelvefold with each.
GRAM_STEPS = 5
# Columns a row from which on it takes fewer FLOPs to iterate on the Gram matrix than on the matrix itself.
GRAM_ASPECT = 1.5


class Muon(torch.optim.Muon):
    """`torch.optim.Muon`: the same rule, options, groups and state, so that checkpoints of either go on with the other.

    Matrices with the same two sides are orthogonalised together, in `iteration_dtype` of their device. Sharded ones
    (FSDP2) are gathered, shared out over the ranks whole, and cut again.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            matrices = [p for p in group["params"] if p.grad is not None]
            for p in matrices:
                state = self.state[p]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(p.grad, memory_format=torch.preserve_format)
                state["momentum_buffer"].lerp_(p.grad, 1 - group["momentum"])
            for stack in stacks(matrices):
                self._move(stack, group)
        return loss

    def _move(self, matrices: list[Tensor], group: dict[str, Any]) -> None:
        """One step of matrices that have the same two sides."""
        dtype = iteration_dtype(matrices[0].device)
        directions = torch.stack([wide(self._direction(p, group, dtype)) for p in matrices])

        def work(share: Tensor) -> Tensor:
            return orthogonalize(share, group["ns_coefficients"], group["ns_steps"], group["eps"])

        first = matrices[0]
        moves = shared_out(directions, first, work) if isinstance(first, DTensor) else work(directions)
        lr = float(group["lr"])
        for p, move in zip(matrices, moves, strict=True):
            move = move.mT if is_tall(p) else move
            p.mul_(1 - lr * group["weight_decay"])
            rate = lr * adjustment(group["adjust_lr_fn"], *p.shape)
            local = p.to_local() if isinstance(p, DTensor) else p
            local.add_(part_of(move, p) if isinstance(p, DTensor) else move, alpha=-rate)

    def _direction(self, p: Tensor, group: dict[str, Any], dtype: torch.dtype) -> Tensor:
        """What is orthogonalised, whole: the momentum, or with Nesterov's rule where it leads."""
        assert p.grad is not None
        buffer = self.state[p]["momentum_buffer"]
        direction = (p.grad.lerp(buffer, group["momentum"]) if group["nesterov"] else buffer).to(dtype)
        return direction.full_tensor() if isinstance(direction, DTensor) else direction


def iteration_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 on GPUs that have units for it, float32 elsewhere."""
    if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.bfloat16
    return torch.float32


def orthogonalize(x: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """Singular values of each matrix moved towards 1, between about 0.7 and 1.2, by `steps` of Newton-Schulz:
    X <- (a I + b X X^T + c (X X^T)^2) X from X / ||X||_F (Jordan et al. 2024, kellerjordan.github.io/posts/muon).

    Args:
        x: (N, rows, columns), not more rows than columns, in the dtype to compute in.
        coefficients: a, b, c.
        eps: least norm to divide by.
    """
    rows, columns = x.shape[1:]
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=eps)
    if columns < GRAM_ASPECT * rows or x.dtype.itemsize < 4:  # bfloat16 is too coarse for a Gram matrix's small values
        for _ in range(steps):
            x = torch.baddbmm(x, _polynomial(x @ x.mT, 0.0, coefficients), x, beta=coefficients[0])
        return x
    for start in range(0, steps, GRAM_STEPS):
        x = _gram_factor(x @ x.mT, coefficients, min(GRAM_STEPS, steps - start)) @ x
    return x


def _gram_factor(gram: Tensor, coefficients: tuple[float, float, float], steps: int) -> Tensor:
    """Q with Q X the result of `steps` iterations, from X X^T alone: each multiplies Q by a polynomial P of the Gram
    matrix, which becomes P X X^T P. All are (N, rows, rows), however long the rows of X are."""
    factor = None
    for step in range(steps):
        polynomial = _polynomial(gram, coefficients[0], coefficients)
        factor = polynomial if factor is None else factor @ polynomial
        if step < steps - 1:
            gram = polynomial @ gram @ polynomial
    assert factor is not None
    return factor


def _polynomial(gram: Tensor, constant: float, coefficients: tuple[float, float, float]) -> Tensor:
    """constant I + b G + c G^2."""
    _, b, c = coefficients
    out = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
    if constant:
        out.diagonal(dim1=1, dim2=2).add_(constant)
    return out


def stacks(matrices: list[Tensor]) -> Iterator[list[Tensor]]:
    """Matrices that can be orthogonalised together, at most STACK_NUMEL numbers at a time, in a fixed order."""
    alike: dict[Any, list[Tensor]] = defaultdict(list)
    for p in matrices:
        spread = (p.device_mesh, p.placements) if isinstance(p, DTensor) else None
        alike[(*sorted(p.shape), p.device, spread)].append(p)
    for equal in alike.values():
        size = max(1, STACK_NUMEL // equal[0].numel())
        yield from (equal[start : start + size] for start in range(0, len(equal), size))


def shared_out(x: Tensor, like: DTensor, work: Callable[[Tensor], Tensor]) -> Tensor:
    """`work(x)` for x (N, ...) that every rank of a mesh (of one dimension) holds: each does a share, all get all."""
    mesh = like.device_mesh
    ranks, rank = mesh.size(), mesh.get_local_rank()
    share = math.ceil(len(x) / ranks)
    mine = x.new_zeros(share, *x.shape[1:])
    given = x[rank * share : (rank + 1) * share]
    if len(given):
        mine[: len(given)] = work(given)
    out = x.new_empty(ranks * share, *x.shape[1:])
    dist.all_gather_into_tensor(out, mine, group=mesh.get_group())
    return out[: len(x)]


def adjustment(rule: str | None, rows: int, columns: int) -> float:
    """The factor on the learning rate of a matrix: sqrt(max(1, rows / columns)) (`original`), or the one that gives the
    update AdamW's usual size (`match_rms_adamw`; Liu et al. 2025, arXiv 2502.16982, eq. 4)."""
    if rule == "match_rms_adamw":
        return 0.2 * math.sqrt(max(rows, columns))
    return math.sqrt(max(1.0, rows / columns))


def is_tall(matrix: Tensor) -> bool:
    """Whether it has more rows than columns."""
    return matrix.shape[0] > matrix.shape[1]


def wide(matrix: Tensor) -> Tensor:
    """The matrix, or its transpose where that has fewer rows."""
    return matrix.mT if is_tall(matrix) else matrix
