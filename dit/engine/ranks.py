"""The processes of a run: how many a launcher has started, and what they tell one another.

Of what they tell one another, all ranks must call the same function together; a single process is told its own value.
"""

from __future__ import annotations

import os
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch import Tensor


def place() -> tuple[int, int]:
    """(rank, number of ranks) of this process."""
    return (dist.get_rank(), dist.get_world_size()) if _several() else (0, 1)


def gather_objects(value: Any) -> list[Any]:
    """`value` of every rank, in the order of the ranks."""
    if not _several():
        return [value]
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, value)
    return everyone


def highest(value: int, device: torch.device) -> int:
    """The largest `value` of all ranks."""
    if not _several():
        return value
    everyones = torch.tensor(value, device=device)
    dist.all_reduce(everyones, dist.ReduceOp.MAX)
    return int(everyones)


def any_rank(flags: Tensor) -> Tensor:
    """Elementwise, whether a flag is set on any rank; bool (n,)."""
    if not _several():
        return flags
    numbers = flags.to(torch.int32)
    dist.all_reduce(numbers, dist.ReduceOp.MAX)
    return numbers.bool()


def sum_over_ranks(values: Tensor) -> Tensor:
    """Elementwise sum over all ranks, in place."""
    if _several():
        dist.all_reduce(values)
    return values


def _several() -> bool:
    return dist.is_available() and dist.is_initialized()


def is_first_rank() -> bool:
    """Whether this process is rank 0, as far as the environment says before ranks are set up."""
    return getattr(rank_zero_only, "rank", 0) in (0, None)


def started_by_launcher() -> bool:
    """True when torchrun or SLURM started this process as one of several ranks."""
    return launched_world_size() > 0


def launched_world_size() -> int:
    """Ranks that torchrun or SLURM has started; 0 when neither did."""
    if "LOCAL_WORLD_SIZE" in os.environ:
        return int(os.environ["WORLD_SIZE"])
    if "SLURM_PROCID" in os.environ and "SLURM_STEP_ID" in os.environ:  # under srun, not merely inside an sbatch
        return int(os.environ["SLURM_NTASKS"])
    return 0


def launched_devices() -> tuple[int, int] | None:
    """(ranks on this node, nodes) as torchrun or SLURM has started them; None when neither did."""
    world_size = launched_world_size()
    if world_size == 0:
        return None
    if "LOCAL_WORLD_SIZE" in os.environ:
        here = int(os.environ["LOCAL_WORLD_SIZE"])
        return here, world_size // here
    nodes = int(os.environ.get("SLURM_NNODES", "1"))
    return world_size // nodes, nodes
