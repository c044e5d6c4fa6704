"""Our Muon against torch's, and its iteration against the definition in float64."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dit.engine import muon
from dit.engine.muon import Muon, minimax, orthogonalize

JORDAN = (3.4445, -4.7750, 2.0315)
# Relative difference of moves: torch iterates in bfloat16 (4e-3), and each iteration doubles what is rounded off.
BFLOAT16 = 0.2
SHAPES = [(16, 48), (48, 16), (20, 20), (16, 20), (16, 48), (3, 200)]


def definition(x: Tensor, steps: int) -> Tensor:
    """The iteration as the paper writes it, for one matrix."""
    a, b, c = JORDAN
    x = x / x.norm()
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


def matrix(rows: int, columns: int, seed: int, rank: int | None = None, decades: float = 1.0) -> Tensor:
    """Gradients have few large singular values and many small ones, here over some decades."""
    draw = torch.Generator().manual_seed(seed)
    rank = rank or min(rows, columns)
    scales = torch.logspace(0, -decades, rank, dtype=torch.float64)
    left, right = (torch.randn(size, rank, generator=draw, dtype=torch.float64) for size in (rows, columns))
    return left * scales @ right.T


@pytest.mark.parametrize("steps", [1, 3, 5, 8])
@pytest.mark.parametrize(("rows", "columns", "rank"), [(24, 24, None), (24, 30, None), (24, 150, None), (24, 150, 3)])
def test_stacks_are_orthogonalised_as_the_definition_says(
    rows: int, columns: int, rank: int | None, steps: int
) -> None:
    exact = torch.stack([matrix(rows, columns, seed, rank, decades=4) for seed in range(3)])
    wanted = torch.stack([definition(x, steps) for x in exact])
    for dtype, tolerance in ((torch.float64, 1e-8), (torch.float32, 5e-3)):
        found = orthogonalize(exact.to(dtype), [JORDAN] * steps, 1e-7).double()
        assert (found - wanted).norm() < tolerance * wanted.norm()
    assert (wanted - wanted.flip(0)).norm() > 0.1 * wanted.norm(), "the matrices differ"


@pytest.mark.parametrize(("rows", "columns"), [(24, 24), (24, 150)])
def test_each_iteration_may_have_its_own_polynomial(rows: int, columns: int) -> None:
    """All singular values from the smallest one on end within the last deviation of 1, in float32 as well."""
    chosen = minimax(4, 0.003)
    random = torch.randn(3, rows, columns, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    left, _, right = torch.linalg.svd(random, full_matrices=False)
    exact = left * torch.logspace(0, -2, rows, dtype=torch.float64) @ right
    wanted = exact / exact.norm(dim=(1, 2), keepdim=True)
    assert torch.linalg.svdvals(wanted).min() > 0.003
    for a, b, c in chosen:
        gram = wanted @ wanted.mT
        wanted = a * wanted + (b * gram + c * gram @ gram) @ wanted
    assert (torch.linalg.svdvals(wanted) - 1).abs().max() < 0.2
    for dtype, tolerance in ((torch.float64, 1e-8), (torch.float32, 1e-3)):
        found = orthogonalize(exact.to(dtype), chosen, 1e-7).double()
        assert (found - wanted).norm() < tolerance * wanted.norm()
    assert (orthogonalize(exact, chosen[::-1], 1e-7) - wanted).norm() > 0.1 * wanted.norm(), "the order matters"


@pytest.mark.parametrize("smallest", [1e-4, 3e-3, 0.1, 0.9])
def test_the_polynomials_are_the_best_of_their_degree(smallest: float) -> None:
    """The largest deviation is reached four times with signs in turn (Chebyshev); the next one begins with it."""
    low, high = smallest, 1.0
    for a, b, c in minimax(4, smallest):
        s = torch.linspace(low, high, 200_001, dtype=torch.float64)
        deviation = a * s + b * s**3 + c * s**5 - 1
        most = deviation.abs().max().item()
        if high - low >= 1e-3:
            reached = deviation[deviation.abs() > (1 - 1e-6) * most].sign()
            assert (reached.diff() != 0).sum() == 3 and reached[0] == -1
        assert most < high - 1 + 1e-12 or high == 1.0
        low, high = 1 - most, 1 + most
    assert high - 1 < (0.95 if smallest < 1e-3 else 0.21)


def test_singular_values_come_near_one() -> None:
    found = orthogonalize(torch.randn(2, 32, 96, generator=torch.Generator().manual_seed(0)), [JORDAN] * 5, 1e-7)
    values = torch.linalg.svdvals(found)
    assert values.min() > 0.6 and values.max() < 1.3


def test_a_matrix_of_zeros_stays() -> None:
    assert torch.equal(orthogonalize(torch.zeros(1, 4, 40), [JORDAN] * 5, 1e-7), torch.zeros(1, 4, 40))


def parameters() -> list[nn.Parameter]:
    return [nn.Parameter(matrix(*shape, seed=9 + place).float()) for place, shape in enumerate(SHAPES)]


def give_gradients(matrices: list[nn.Parameter], seed: int) -> None:
    for place, p in enumerate(matrices):
        p.grad = matrix(*p.shape, seed=100 * seed + place).float()


def by_the_rule(p: Tensor, gradients: list[Tensor], nesterov: bool, adjust: str | None) -> Tensor:
    """Muon as published, in float64, with lr 0.1, momentum 0.9 and weight decay 0.3."""
    p, buffer = p.double(), torch.zeros(p.shape, dtype=torch.float64)
    rows, columns = p.shape
    factor = 0.2 * max(rows, columns) ** 0.5 if adjust == "match_rms_adamw" else max(1, rows / columns) ** 0.5
    for gradient in gradients:
        buffer = 0.9 * buffer + 0.1 * gradient
        direction = 0.1 * gradient + 0.9 * buffer if nesterov else buffer
        p = (1 - 0.1 * 0.3) * p - 0.1 * factor * definition(direction, 5)
    return p


@pytest.mark.parametrize("adjust", ["original", "match_rms_adamw", None])
@pytest.mark.parametrize("nesterov", [True, False])
def test_steps_follow_the_rule(adjust: str | None, nesterov: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Closely, and as torch's class does to the precision of its bfloat16, whatever is stacked with what."""
    monkeypatch.setattr(muon, "STACK_NUMEL", 2 * 16 * 48)
    mine = parameters()
    theirs, before = copy.deepcopy(mine), [p.detach().clone() for p in mine]
    options: dict[str, Any] = {
        "lr": 0.1, "momentum": 0.9, "weight_decay": 0.3, "nesterov": nesterov, "adjust_lr_fn": adjust
    }  # fmt: skip
    for matrices, optimizer in ((mine, Muon(mine, **options)), (theirs, torch.optim.Muon(theirs, **options))):
        for step in range(3):
            give_gradients(matrices, step)
            optimizer.step()
    for place, (p, q, start) in enumerate(zip(mine, theirs, before, strict=True)):
        gradients = [matrix(*p.shape, seed=100 * step + place) for step in range(3)]
        wanted = by_the_rule(start, gradients, nesterov, adjust) - start
        assert (p - start - wanted).norm() < 1e-4 * wanted.norm()
        assert (q - start - wanted).norm() < BFLOAT16 * wanted.norm()


def test_state_goes_to_torch_and_back() -> None:
    """Checkpoints that torch's class has made resume, and the other way round."""
    first = parameters()
    before = torch.optim.Muon(first, lr=0.1)
    give_gradients(first, 0)
    before.step()
    second = copy.deepcopy(first)
    resumed = Muon(second, lr=0.7)
    resumed.load_state_dict(before.state_dict())
    assert resumed.param_groups[0]["lr"] == 0.1
    for matrices, optimizer in ((first, before), (second, resumed)):
        start = [p.detach().clone() for p in matrices]
        give_gradients(matrices, 1)
        optimizer.step()
        moves = [p.detach() - s for p, s in zip(matrices, start, strict=True)]
        if optimizer is before:
            wanted = moves
    for move, other in zip(moves, wanted, strict=True):
        assert (move - other).norm() < BFLOAT16 * other.norm()
    torch.optim.Muon(copy.deepcopy(second), lr=0.2).load_state_dict(resumed.state_dict())
    assert resumed.state_dict()["state"][0].keys() == before.state_dict()["state"][0].keys() == {"momentum_buffer"}


def test_what_has_no_gradient_stays() -> None:
    still, moving = nn.Parameter(torch.ones(4, 4)), nn.Parameter(torch.ones(4, 4))
    optimizer = Muon([still, moving], lr=0.1)
    moving.grad = torch.eye(4)
    optimizer.step()
    assert torch.equal(still, torch.ones(4, 4)) and not torch.equal(moving, torch.ones(4, 4))
    assert still not in optimizer.state


def test_cpus_iterate_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """bfloat16 products are many times slower on a CPU without units for them."""
    assert muon.iteration_dtype(torch.device("cpu")) is torch.float32
    for has_units, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, has=has_units: has)
        assert muon.iteration_dtype(torch.device("cuda")) is dtype
    seen: list[torch.dtype] = []
    real = muon.orthogonalize
    monkeypatch.setattr(muon, "orthogonalize", lambda x, *rest: seen.append(x.dtype) or real(x, *rest))
    matrices = parameters()
    give_gradients(matrices, 0)
    Muon(matrices, lr=0.1).step()
    assert set(seen) == {torch.float32} and len(seen) == 4, "matrices with equal sides go together"


def test_bfloat16_iterates_on_the_matrix_itself() -> None:
    """A Gram matrix in bfloat16 would lose its small eigenvalues: as a GPU computes, held against float64."""
    x = matrix(24, 150, seed=0)
    wanted = definition(x, 5)
    found = orthogonalize(x[None].bfloat16(), [JORDAN] * 5, 1e-7)[0].double()
    assert (found - wanted).norm() < BFLOAT16 * wanted.norm()
