"""Several devices, applied to a built network from outside: DDP, FSDP2, and helpers that know about shards.

The network never knows how it is spread. Lightning's own FSDP strategies for FSDP1 refuse the CPU; FSDP2 (through
`ModelParallelStrategy`) runs with gloo and gives DDP's numbers, so both are tested without a GPU.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.plugins.precision import MixedPrecision, Precision
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_optimizer_state_dict
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Shard
from torch.optim import Optimizer

from dit.net.graphs import allow_many_graphs


class DDP(DDPStrategy):
    """A copy of the network on each device, gradients averaged.

    Args:
        find_unused_parameters: look for parameters without a gradient each step (slower; needed where a part leads
            nowhere, as the text of a last two-stream block, which is a ValueError otherwise).
        gradient_as_bucket_view: gradients live in the communication buckets, which saves one copy of them.
        static_graph: the same parameters are used each step; allows more overlap.
        timeout_minutes: how long a rank waits for the others before it gives up.
    """

    def __init__(
        self, find_unused_parameters: bool, gradient_as_bucket_view: bool, static_graph: bool, timeout_minutes: float
    ) -> None:
        super().__init__(
            find_unused_parameters=find_unused_parameters,
            gradient_as_bucket_view=gradient_as_bucket_view,
            static_graph=static_graph,
            timeout=timedelta(minutes=timeout_minutes),
        )
        self.allows_unused, self.is_checked = find_unused_parameters or static_graph, False
        self.finds_unused = (
            find_unused_parameters and not static_graph
        )  # also those of a step that differs from the first

    def post_backward(self, closure_loss: Tensor) -> None:
        """Refuses parameters that the first loss does not reach; torch would at the second step, and name none."""
        super().post_backward(closure_loss)
        if self.allows_unused or self.is_checked:
            return
        self.is_checked = True
        assert self.lightning_module is not None
        trained = [(name, p) for name, p in self.lightning_module.named_parameters() if p.requires_grad]
        unused = [name for name, p in trained if p.grad is None]
        if unused:
            named = ", ".join(unused[:3]) + (", ..." if len(unused) > 3 else "")
            raise ValueError(
                f"{len(unused)} of {len(trained)} trained parameters have no part in the loss ({named}):"
                " trainer.strategy.find_unused_parameters=true trains without them, or leave them out of the network"
            )


class FSDP2(ModelParallelStrategy):
    """Weights, gradients and optimizer state cut over all devices (torch's `fully_shard`), block by block.

    Checkpoints are assembled into one file with whole tensors, so one process can load what many have saved.

    Args:
        reshard_after_forward: free gathered weights between forward and backward; less memory, more communication.
        param_dtype: dtype of gathered weights in the forward pass (`bfloat16`), or None for the stored one.
        reduce_dtype: dtype in which gradients are summed, or None for that of the gradients.
        timeout_minutes: how long a rank waits for the others before it gives up.
    """

    def __init__(
        self, reshard_after_forward: bool, param_dtype: str | None, reduce_dtype: str | None, timeout_minutes: float
    ) -> None:
        super().__init__(
            # Everything is one data-parallel group: the default would give it one rank a node.
            data_parallel_size=_world_size_from_environment(),
            tensor_parallel_size=1,
            save_distributed_checkpoint=False,
            timeout=timedelta(minutes=timeout_minutes),
        )
        self.reshard_after_forward = reshard_after_forward
        self.mixed_precision = MixedPrecisionPolicy(
            param_dtype=_dtype("param_dtype", param_dtype), reduce_dtype=_dtype("reduce_dtype", reduce_dtype)
        )

    def setup_environment(self) -> None:
        if self._data_parallel_size == 0:  # not started by torchrun or SLURM: Lightning starts one rank a device
            self._data_parallel_size = self.num_processes * self.num_nodes
        super().setup_environment()

    def shard(self, parts: Iterable[nn.Module]) -> None:
        """Shards each repeated block of each part, then what is left of the part. Frozen parts stay whole."""
        mesh = self.device_mesh["data_parallel"]
        for part in parts:
            if not any(p.requires_grad for p in part.parameters()):
                continue
            options: dict[str, Any] = {"mesh": mesh, "mp_policy": self.mixed_precision}
            for block in repeated_blocks(part):
                fully_shard(block, reshard_after_forward=self.reshard_after_forward, **options)
            fully_shard(part, reshard_after_forward=self.reshard_after_forward, **options)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Weights as Lightning loads them; an optimizer's state by the place of each parameter in its groups.

        Lightning goes by numbers, counted over all parameters: right for what FSDP2 has saved, but one process and DDP
        number the trained ones alone, group by group. Places are the same for all.
        """
        optimizers, self.optimizers = self.optimizers, []
        try:
            checkpoint = super().load_checkpoint(checkpoint_path, weights_only)
        finally:
            self.optimizers = optimizers
        assert self.model is not None
        # Not strict: a parameter that the loss does not reach has no state. Torch makes one up, which goes again.
        options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True, strict=False)
        for optimizer, saved in zip(optimizers, checkpoint["optimizer_states"], strict=True):
            named = _named_state(saved, optimizer, self.model)
            set_optimizer_state_dict(self.model, optimizer, optim_state_dict=named, options=options)
            for name, parameter in self.model.named_parameters():
                if name not in named["state"]:
                    optimizer.state.pop(parameter, None)
        return checkpoint


class BFloat16Autocast(MixedPrecision):
    """bfloat16 arithmetic over fp32 weights. Batches stay as they come: codecs and noise levels want fp32."""

    def __init__(self, device: str) -> None:
        super().__init__("bf16-mixed", device)

    def convert_input(self, data: Any) -> Any:
        return data


def precision_plugin(precision: str, device: str) -> Precision:
    """`32-true` or `bf16-mixed`. fp16 is left out: it overflows in attention, and loss scaling hides infinities."""
    if precision == "32-true":
        return Precision()
    if precision == "bf16-mixed":
        return BFloat16Autocast(device)
    raise ValueError(f"trainer.precision={precision} is not supported; use 32-true or bf16-mixed")


def repeated_blocks(part: nn.Module) -> list[nn.Module]:
    """The outermost members of every `nn.ModuleList`: the units that are compiled and sharded one by one."""
    found: list[nn.Module] = []
    for child in part.children():
        found += list(child) if isinstance(child, nn.ModuleList) else repeated_blocks(child)
    return found


def compile_blocks(part: nn.Module, mode: str) -> None:
    """Compiles each block in place: a third of the time that the whole takes, and no prefix in any parameter's name.

    Blocks of one kind share their graphs. A kind needs one with gradients and one without, and each again for sizes
    that change: three kinds of one class (Latte's) are 12.
    """
    allow_many_graphs()
    for block in repeated_blocks(part):
        block.compile(mode=None if mode == "default" else mode)


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


def gather_objects(value: Any) -> list[Any]:
    """`value` of every rank, in their order; [value] in a single process."""
    if not (dist.is_available() and dist.is_initialized()):
        return [value]
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, value)
    return everyone


def highest(value: int, device: torch.device) -> int:
    """The largest `value` of all ranks; `value` itself in a single process."""
    if not (dist.is_available() and dist.is_initialized()):
        return value
    everyones = torch.tensor(value, device=device)
    dist.all_reduce(everyones, dist.ReduceOp.MAX)
    return int(everyones)


def any_rank(flags: Tensor) -> Tensor:
    """Elementwise, whether a flag is set on any rank; bool (n,). All ranks must call it."""
    if dist.is_available() and dist.is_initialized():
        numbers = flags.to(torch.int32)
        dist.all_reduce(numbers, dist.ReduceOp.MAX)
        return numbers.bool()
    return flags


def started_by_launcher() -> bool:
    """True when torchrun or SLURM started this process as one of several ranks."""
    return _world_size_from_environment() > 0


def _world_size_from_environment() -> int:
    """Ranks that torchrun or SLURM has started; 0 when neither did."""
    if "LOCAL_WORLD_SIZE" in os.environ:
        return int(os.environ["WORLD_SIZE"])
    if "SLURM_PROCID" in os.environ and "SLURM_STEP_ID" in os.environ:  # under srun, not merely inside an sbatch
        return int(os.environ["SLURM_NTASKS"])
    return 0


def launched_devices() -> tuple[int, int] | None:
    """(ranks on this node, nodes) as torchrun or SLURM has started them; None when neither did."""
    world_size = _world_size_from_environment()
    if world_size == 0:
        return None
    if "LOCAL_WORLD_SIZE" in os.environ:
        here = int(os.environ["LOCAL_WORLD_SIZE"])
        return here, world_size // here
    nodes = int(os.environ.get("SLURM_NNODES", "1"))
    return world_size // nodes, nodes


def _named_state(saved: Mapping[str, Any], optimizer: Optimizer, model: nn.Module) -> dict[str, Any]:
    """An optimizer's saved state under the names of the parameters that stand in the same places of its groups now."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    state: dict[str, Any] = {}
    groups = []
    for group, old in zip(optimizer.param_groups, saved["param_groups"], strict=True):
        here = [names[id(parameter)] for parameter in group["params"]]
        state |= {name: saved["state"][i] for name, i in zip(here, old["params"], strict=True) if i in saved["state"]}
        groups.append({**old, "params": here})
    return {"state": state, "param_groups": groups}


def _dtype(name: str, value: str | None) -> torch.dtype | None:
    if value is None:
        return None
    dtype = getattr(torch, value, None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ValueError(f"trainer.strategy.{name}={value} is not a floating dtype; use bfloat16, float32 or null")
    return dtype
