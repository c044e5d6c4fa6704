"""Strategies for several devices, applied to a built network from outside: a copy on each (DDP), or shards (FSDP2).

Lightning's strategies for FSDP1 refuse the CPU; FSDP2 (through `ModelParallelStrategy`) runs with gloo and gives DDP's
numbers, so both are tested without a GPU.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_optimizer_state_dict
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.optim import Optimizer

from dit.checkpoint import entries
from dit.engine.blocks import repeated_blocks
from dit.engine.ranks import launched_world_size


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
            data_parallel_size=launched_world_size(),
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
        """Shards each repeated block of each part on its own, then the other parameters of the part together."""
        mesh = self.device_mesh["data_parallel"]
        for part in parts:
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
        # Not strict: a parameter that the loss does not reach has no state. Torch fills in one, which is removed below.
        options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True, strict=False)
        for optimizer, saved in zip(optimizers, entries.OPTIMIZERS.of(checkpoint), strict=True):
            named = _named_state(saved, optimizer, self.model)
            set_optimizer_state_dict(self.model, optimizer, optim_state_dict=named, options=options)
            for name, parameter in self.model.named_parameters():
                if name not in named["state"]:
                    optimizer.state.pop(parameter, None)
        return checkpoint


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
