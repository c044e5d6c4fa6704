"""Memory of a training step: estimated without doing it, and measured."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves, tree_map_only

Call = Callable[..., Tensor]
MIB = 2**20


@dataclass(frozen=True)
class Memory:
    """Bytes of a training step with AdamW."""

    parameters: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def peak(self) -> int:
        """Gradients appear while activations go, so the two are not held in full at once."""
        return self.parameters + self.optimizer + max(self.activations, self.gradients)

    def __str__(self) -> str:
        parts = ("parameters", "gradients", "optimizer", "activations")
        listed = ", ".join(f"{name} {getattr(self, name) / MIB:.0f}" for name in parts)
        return f"{listed} MiB; peak about {self.peak / MIB:.0f} MiB"


def estimate_memory(
    build: Callable[[], nn.Module], inputs: tuple[Any, ...], autocast: bool, call: Call = nn.Module.__call__
) -> Memory:
    """What a step on `inputs` will hold, found on fake tensors: nothing is computed and no memory is used.

    build: makes the network. call: of it and the inputs, tensors in any containers, gives the output. Activations: what
    autograd keeps for the backward pass, every storage once.
    """
    kept: dict[int, tuple[object, int]] = {}  # held, so that no storage's address is given away again

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept.setdefault(storage._cdata, (storage, storage.nbytes()))
        return tensor

    device = next(leaf.device for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor))
    with FakeTensorMode(allow_non_fake_inputs=False) as mode, torch.device(device):
        net = build().train()
        fakes = tree_map_only(Tensor, mode.from_tensor, inputs)
        own = {p.untyped_storage()._cdata for p in [*net.parameters(), *net.buffers()]}
        hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
        with hooks, torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            call(net, *fakes).float().square().mean()
        weights = sum(p.numel() * p.element_size() for p in net.parameters())
        trained = sum(p.numel() * p.element_size() for p in net.parameters() if p.requires_grad)
        activations = sum(size for key, (_, size) in kept.items() if key not in own)
    return Memory(weights, trained, 2 * trained, activations)


def reset_peak(device: torch.device) -> None:
    """Start a new measurement of the peak. On the CPU this is Linux's own counter of the process."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    counter = Path("/proc/self/clear_refs")
    if counter.exists():
        counter.write_text("5")  # sets VmHWM back to the present size, proc(5)


def measured_peak(device: torch.device) -> int | None:
    """Bytes at the peak since `reset_peak`; None where the system does not tell."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _status("VmHWM")


def resident(device: torch.device) -> int | None:
    """Bytes held now; None where the system does not tell."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else _status("VmRSS")


def _status(name: str) -> int | None:
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    lines = [line for line in status.read_text().splitlines() if line.startswith(f"{name}:")]
    return int(lines[0].split()[1]) * 1024 if lines else None
