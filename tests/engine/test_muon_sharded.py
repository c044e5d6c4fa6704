"""Muon on matrices that FSDP2 has cut: the whole matrix is orthogonalised, not each rank's rows."""

from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from dit.engine.optim import muon

SETTINGS = {
    "lr": 0.02, "momentum": 0.95, "nesterov": True, "ns_steps": 5, "ns_smallest": None, "weight_decay": 0.01,
    "adjust_lr": "original", "adamw_lr": 1e-3, "adamw_betas": (0.9, 0.99), "adamw_eps": 1e-8,
    "adamw_weight_decay": 0.01,
}  # fmt: skip
STEPS = 3


def model() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Module()
    net.blocks = nn.ModuleList(nn.Linear(24, rows, bias=False) for rows in (16, 40))
    return net


def gradients(step: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(step)
    return [torch.randn(rows, 24, generator=generator) for rows in (16, 40)]


def sharded(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    net = model()
    for linear in net.blocks:
        linear.weight = nn.Parameter(distribute_tensor(linear.weight.data, mesh, [Shard(0)]))
    optimizer = muon(net, **SETTINGS)
    for step in range(STEPS):
        for linear, gradient in zip(net.blocks, gradients(step), strict=True):
            linear.weight.grad = distribute_tensor(gradient, mesh, [Shard(0)])
        optimizer.step()
    whole = [linear.weight.full_tensor() for linear in net.blocks]
    if rank == 0:
        torch.save(whole, Path(folder) / "sharded.pt")
    dist.destroy_process_group()


def test_sharded_matrices_move_as_whole_ones(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(sharded, (str(tmp_path),), nprocs=2)
    found = torch.load(tmp_path / "sharded.pt", weights_only=True)
    net = model()
    start = [linear.weight.detach().clone() for linear in net.blocks]
    optimizer = muon(net, **SETTINGS)
    for step in range(STEPS):
        for linear, gradient in zip(net.blocks, gradients(step), strict=True):
            linear.weight.grad = gradient
        optimizer.step()
    for linear, got, before in zip(net.blocks, found, start, strict=True):
        moved, wanted = got - before, linear.weight.detach() - before
        assert (moved - wanted).norm() < 1e-4 * wanted.norm()
    for place, before in enumerate(start):
        parts = [nn.Module(), nn.Module()]
        rows = len(before) // 2
        for index, part in enumerate(parts):
            part.blocks = nn.ModuleList([nn.Linear(24, rows, bias=False)])
            part.blocks[0].weight.data = before[index * rows : (index + 1) * rows].clone()
        for part_index, part in enumerate(parts):
            alone = muon(part, **SETTINGS)
            for step in range(STEPS):
                part.blocks[0].weight.grad = gradients(step)[place][part_index * rows : (part_index + 1) * rows]
                alone.step()
        by_shard = torch.cat([part.blocks[0].weight.detach() for part in parts]) - before
        wanted = net.blocks[place].weight.detach() - before
        assert (by_shard - wanted).norm() > 0.1 * wanted.norm(), "the comparison would notice shard by shard"
