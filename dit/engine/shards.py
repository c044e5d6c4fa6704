"""Tensors of which each rank may hold a part (FSDP2's `DTensor`): this rank's part, the whole, and back."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, Shard


def reshard(module: nn.Module) -> None:
    """Frees gathered weights, so that `parameters()` are the shards that the optimizer holds. After a forward pass
    without gradients the root of an FSDP2 module stays gathered."""
    for child in module.modules():
        if isinstance(child, FSDPModule):
            child.reshard()


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a sharded tensor (sharing its memory), or the tensor itself; without gradient."""
    with torch.no_grad():
        return tensor.to_local() if isinstance(tensor, DTensor) else tensor.detach()


def whole(part: Tensor, like: Tensor) -> Tensor:
    """The full tensor, on the CPU, from this rank's `part` of something sharded as `like`. All ranks must call it."""
    if isinstance(like, DTensor):
        sharded = DTensor.from_local(
            part, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
        )
        part = sharded.full_tensor()
    return part.detach().cpu().clone()


def part_of(full: Tensor, like: Tensor) -> Tensor:
    """This rank's part of `full`, cut as `like` is, on its device. The inverse of `whole`, without communication."""
    full = full.to(like.device)
    if not isinstance(like, DTensor):
        return full.clone()
    for placement in like.placements:
        if isinstance(placement, Shard):
            rank, size = like.device_mesh.get_local_rank(), like.device_mesh.size()
            pieces = list(torch.chunk(full, size, dim=placement.dim))
            # chunk gives fewer pieces than ranks when there is nothing left for the last ones
            full = pieces[rank] if rank < len(pieces) else full.narrow(placement.dim, 0, 0)
    return full.clone()
