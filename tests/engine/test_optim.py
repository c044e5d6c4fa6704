"""Groups, the joined optimizer against its parts, and schedules against their values."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import AdamW

from dit.engine.lr_schedule import Constant, Cosine, WarmupStableDecay
from dit.engine.muon import Muon
from dit.engine.optim import Together, adamw, muon
from tests.engine.small import TinyNet


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = TinyNet()
        self.embedding = nn.Embedding(5, 8)
        self.positions = nn.Parameter(torch.randn(4, 8))
        self.kernel = nn.Conv3d(2, 3, 2)
        self.frozen = nn.Linear(2, 2).requires_grad_(False)
        self.tied = self.embedding


def names(model: nn.Module, group: dict[str, Any]) -> set[str]:
    of = {id(p): name for name, p in model.named_parameters()}
    return {of[id(p)] for p in group["params"]}


MUON = {
    "lr": 0.02, "momentum": 0.9, "nesterov": True, "ns_steps": 5, "ns_smallest": None, "weight_decay": 0.1,
    "adjust_lr": "match_rms_adamw",
    "adamw_lr": 0.01, "adamw_betas": (0.9, 0.99), "adamw_eps": 1e-8, "adamw_weight_decay": 0.2,
}  # fmt: skip


def test_weight_decay_pulls_matrices_only() -> None:
    model = Model()
    optimizer = adamw(model, lr=0.1, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.5, fused=True)
    decayed, rest = optimizer.param_groups
    assert (decayed["weight_decay"], rest["weight_decay"]) == (0.5, 0.0)
    matrices = {"net.embed.weight", "net.level.weight", "net.text.weight", "net.final.weight", "kernel.weight"}
    hidden = {f"net.blocks.{i}.{j}.weight" for i in range(2) for j in (1, 3)}
    assert names(model, decayed) == matrices | hidden
    assert {"embedding.weight", "positions", "net.blocks.0.0.weight", "net.final.bias"} <= names(model, rest)
    everything = {name for name, p in model.named_parameters() if p.requires_grad}
    assert names(model, decayed) | names(model, rest) == everything  # nothing frozen, nothing twice
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(everything)


def step(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        p.grad = torch.randn(p.shape, generator=generator) if p.requires_grad else None
    optimizer.step()


def test_muon_equals_its_two_parts() -> None:
    model = Model()
    twin = copy.deepcopy(model)
    optimizer = muon(model, **MUON)
    hidden, matrices, rest = optimizer.param_groups
    assert names(model, hidden) == {f"net.blocks.{i}.{j}.weight" for i in range(2) for j in (1, 3)}
    by_name = dict(twin.named_parameters())
    reference = [
        Muon([by_name[n] for n in sorted(names(model, hidden))], lr=0.02, momentum=0.9, weight_decay=0.1,
             adjust_lr_fn="match_rms_adamw"),
        AdamW([by_name[n] for n in sorted(names(model, matrices))], lr=0.01, betas=(0.9, 0.99), weight_decay=0.2),
        AdamW([by_name[n] for n in sorted(names(model, rest))], lr=0.01, betas=(0.9, 0.99), weight_decay=0.0),
    ]  # fmt: skip
    for seed in range(4):
        step(model, optimizer, seed)
        for part in reference[1:]:
            step(twin, part, seed)
        step(twin, reference[0], seed)
    for name, p in model.named_parameters():
        torch.testing.assert_close(p, by_name[name], rtol=1e-5, atol=1e-6)


def test_muon_state_round_trips_plainly(tmp_path: Any) -> None:
    model = Model()
    optimizer = muon(model, **MUON)
    for seed in range(3):
        step(model, optimizer, seed)
    torch.save(optimizer.state_dict(), tmp_path / "state")
    twin = copy.deepcopy(model)
    restored = muon(twin, **MUON)
    restored.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    for group in (*optimizer.param_groups, *restored.param_groups):
        group["lr"] *= 0.5  # a schedule's change must reach the parts
    for seed in range(3, 6):
        step(model, optimizer, seed)
        step(twin, restored, seed)
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(p, q)
    assert isinstance(restored, Together) and restored.parts[0].param_groups[0] is restored.param_groups[0]
    fresh = muon(copy.deepcopy(model), **MUON)
    assert fresh.param_groups[0]["lr"] == 2 * restored.param_groups[0]["lr"]


def test_muon_needs_a_hidden_matrix() -> None:
    with pytest.raises(ValueError, match="no matrix inside a repeated block"):
        muon(nn.Linear(2, 2), **MUON)


NAN, INF = float("nan"), float("inf")
ADAMW = {"lr": 0.01, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.1, "fused": True}


@pytest.mark.parametrize(
    ("name", "values"),
    [("lr", (-1, NAN, INF)), ("betas", ((1, 0.9), (0.9, NAN), (0.9,))), ("eps", (0, NAN)), ("weight_decay", (-1, INF))],
)
def test_numbers_that_spoil_the_weights_are_refused(name: str, values: tuple[Any, ...]) -> None:
    for value in values:
        with pytest.raises(ValueError, match=rf"optim\.{name}\S*=\S+.* must be"):
            adamw(Model(), **{**ADAMW, name: value})
        with pytest.raises(ValueError, match=rf"optim\.adamw_{name}\S*=\S+.* must be"):
            muon(Model(), **{**MUON, f"adamw_{name}": value})


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("lr", (-1, NAN, INF)), ("momentum", (1, NAN)), ("ns_steps", (0, 2.5, 100)),
        ("ns_smallest", (0, 1.5, NAN)), ("weight_decay", (NAN,)),
        ("adjust_lr", ("x", None)),
    ],
)  # fmt: skip
def test_numbers_of_muon(name: str, values: tuple[Any, ...]) -> None:
    for value in values:
        with pytest.raises(ValueError, match=f"optim.{name}={value} must be"):
            muon(Model(), **{**MUON, name: value})


def test_nothing_to_train() -> None:
    with pytest.raises(ValueError, match="found nothing to train"):
        adamw(Model().requires_grad_(False), **ADAMW)


def test_schedules_refuse_what_is_no_schedule() -> None:
    for warmup in (-1, 1.5, NAN):
        for make in (lambda w: Constant(w), lambda w: Cosine(w, 0.0), lambda w: WarmupStableDecay(w, 0.1, 0.0)):
            with pytest.raises(ValueError, match=f"lr_schedule.warmup_steps={warmup} must be a whole number"):
                make(warmup)
    for final in (-0.1, NAN, INF):
        with pytest.raises(ValueError, match=f"lr_schedule.final={final} .* must be in"):
            Cosine(0, final)
        with pytest.raises(ValueError, match=f"lr_schedule.final={final} .* must be in"):
            WarmupStableDecay(0, 0.1, final)
    with pytest.raises(ValueError, match="decay_share=nan"):
        WarmupStableDecay(0, NAN, 0.0)


def test_cosine() -> None:
    schedule = Cosine(warmup_steps=10, final=0.1)
    assert [schedule(s, 110) for s in (0, 4, 9)] == pytest.approx([0.1, 0.5, 1.0])
    assert schedule(60, 110) == pytest.approx(0.55)  # half way: the mean of 1 and 0.1
    assert schedule(110, 110) == pytest.approx(0.1) == schedule(500, 110)


def test_warmup_stable_decay_is_extendable() -> None:
    schedule = WarmupStableDecay(warmup_steps=5, decay_share=0.2, final=0.0)
    assert [schedule(s, 100) for s in (0, 4, 50, 80)] == pytest.approx([0.2, 1, 1, 1])
    assert schedule(85, 100) == pytest.approx(0.5)  # 1 - sqrt(1/4)
    assert schedule(100, 100) == pytest.approx(0)
    assert all(schedule(s, 200) == schedule(s, 100) for s in range(80))
    with pytest.raises(ValueError, match="decay_share=2"):
        WarmupStableDecay(warmup_steps=5, decay_share=2, final=0.0)


def test_constant() -> None:
    schedule = Constant(warmup_steps=0)
    assert schedule(0, 10) == schedule(9, 10) == 1.0
    assert Constant(warmup_steps=4)(1, 10) == 0.5
