"""Muon with its Newton-Schulz iteration in the precision that is fast where it runs, over stacks of equal matrices.

`torch.optim.Muon` iterates in bfloat16, one matrix after another. Most CPUs have no units for bfloat16 products: there
that is several times slower than float32, and can take longer than the rest of a training step (docs/benchmarks.md).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from dit.engine.shards import part_of

Polynomial = tuple[float, float, float]  # a, b, c of a s + b s^3 + c s^5

# Numbers in one stack. More would only cost memory; one matrix that is larger is a stack of its own.
STACK_NUMEL = 2**24
# Iterations on one Gram matrix. What float32 rounds off it, 1e-7, grows with each by the square of the slope at 0:
# twelvefold with Jordan's polynomial, 70, 16, 12 and 6 times with those of `minimax`.
GRAM_STEPS = 5
# Columns a row from which on it takes fewer FLOPs to iterate on the Gram matrix than on the matrix itself.
GRAM_ASPECT = 1.5


class Muon(torch.optim.Muon):
    """`torch.optim.Muon`: the same rule, options, groups and state, so that checkpoints of either go on with the other.

    `ns_coefficients` of a group may also hold a polynomial for each iteration (`minimax`), which torch's cannot take.

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
            return orthogonalize(share, polynomials(group), group["eps"])

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


def polynomials(group: dict[str, Any]) -> Sequence[Polynomial]:
    """One for each iteration of a parameter group: `ns_coefficients` holds one for all, or as many as `ns_steps`."""
    coefficients = group["ns_coefficients"]
    return coefficients if isinstance(coefficients[0], Sequence) else [coefficients] * group["ns_steps"]


@cache
def minimax(steps: int, smallest: float) -> tuple[Polynomial, ...]:
    """For each iteration the odd polynomial a s + b s^3 + c s^5 that is nearest to 1 in the worst case over the
    singular values s of that moment: in [smallest, 1] at first, then within the last one's deviation of 1 (Polar
    Express; Amsel et al. 2025, arXiv 2505.16932, theorem 3.1). No other `steps` such polynomials end nearer to 1.

    With smallest=0.003 four iterations end within 0.20 of 1; Jordan's polynomial takes five to end within 0.32 (its
    slope at 0 is 485 after them, and 390 here).
    """
    low, high, found = smallest, 1.0, []
    for _ in range(steps):
        polynomial, deviation = nearest_to_one(low, high)
        found.append(polynomial)
        low, high = 1 - deviation, 1 + deviation
    return tuple(found)


def nearest_to_one(low: float, high: float) -> tuple[Polynomial, float]:
    """(a, b, c) with the least largest |1 - a s - b s^3 - c s^5| for s in [low, high], and that deviation: by Remez's
    exchange, until the deviation at both ends and both extremes between them is the same, with signs in turn."""
    if high - low < 1e-3:  # too close to solve for; the limit, which is Newton and Schulz's own polynomial
        return (15 / 8, -10 / 8, 3 / 8), (high - low) ** 3
    inner = [(3 * low + high) / 4, (low + 3 * high) / 4]
    for _ in range(100):
        points = torch.tensor([low, *inner, high], dtype=torch.float64)
        signs = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)
        rows = torch.stack([points, points**3, points**5, signs], dim=1)
        a, b, c, deviation = torch.linalg.solve(rows, torch.ones_like(points)).tolist()
        root = math.sqrt(9 * b * b - 20 * a * c)  # where the slope a + 3 b s^2 + 5 c s^4 is 0
        before, inner = inner, [math.sqrt((-3 * b + sign * root) / (10 * c)) for sign in (-1, 1)]
        if max(abs(now - then) for now, then in zip(inner, before, strict=True)) < 1e-13:
            break
    return (a, b, c), deviation


def orthogonalize(x: Tensor, polynomials: Sequence[Polynomial], eps: float) -> Tensor:
    """Singular values of each matrix moved towards 1 by Newton-Schulz iterations X <- (a I + b X X^T + c (X X^T)^2) X
    from X / ||X||_F (Jordan et al. 2024, kellerjordan.github.io/posts/muon), each with its (a, b, c).

    Args:
        x: (N, rows, columns), not more rows than columns, in the dtype to compute in.
        polynomials: one for each iteration.
        eps: least norm to divide by.
    """
    rows, columns = x.shape[1:]
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=eps)
    if columns < GRAM_ASPECT * rows or x.dtype.itemsize < 4:  # bfloat16 is too coarse for a Gram matrix's small values
        for polynomial in polynomials:
            x = torch.baddbmm(x, _of_gram(x @ x.mT, 0.0, polynomial), x, beta=polynomial[0])
        return x
    for start in range(0, len(polynomials), GRAM_STEPS):
        x = _gram_factor(x @ x.mT, polynomials[start : start + GRAM_STEPS]) @ x
    return x


def _gram_factor(gram: Tensor, polynomials: Sequence[Polynomial]) -> Tensor:
    """Q with Q X the result of all iterations, from X X^T alone: each multiplies Q by a polynomial P of the Gram
    matrix, which becomes P X X^T P. All are (N, rows, rows), however long the rows of X are."""
    factor = None
    for index, coefficients in enumerate(polynomials):
        polynomial = _of_gram(gram, coefficients[0], coefficients)
        factor = polynomial if factor is None else factor @ polynomial
        if index < len(polynomials) - 1:
            gram = polynomial @ gram @ polynomial
    assert factor is not None
    return factor


def _of_gram(gram: Tensor, constant: float, polynomial: Polynomial) -> Tensor:
    """constant I + b G + c G^2."""
    _, b, c = polynomial
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
