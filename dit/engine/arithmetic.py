"""How much arithmetic a run's clips need, by their shapes."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from dit.diffusion.given import nothing, with_given
from dit.engine.module import LatentShape, VideoDiffusion
from dit.flops import count_flops
from dit.signals.base import cond_of_example


class Arithmetic:
    """FLOPs of a training step for clips, each counted alone, since packed clips do not see one another, and each shape
    counted once.

    Counting calls the network on the meta device. So it raises ValueError, in one line, for a shape that the network
    does not take and for an input that the run does not give it, or gives in another width.

    later: whether it is asked for more shapes when the network is compiled or sharded; then it counts on a copy.
    """

    def __init__(self, module: VideoDiffusion, later: bool) -> None:
        self.net = without_memory(module.net) if later else module.net
        self.channels, self.passes = module.codec.channels, module.recipe.passes
        with torch.no_grad():
            self.cond = cond_of_example(module.signals)
        self.known: dict[LatentShape, int] = {}

    def of_passes(self, shape: LatentShape) -> int:
        """FLOPs of a forward and a backward pass, which count as three, for one clip of latents (F, H, W)."""
        if shape not in self.known:
            latents = torch.empty(1, self.channels, *shape, device="meta")
            cond = with_given(self.cond, self.net, nothing(latents))
            self.known[shape] = count_flops(self.net, latents.shape, (1, 1), cond, backward=True)
        return self.known[shape]

    def of_token(self, shape: LatentShape) -> float:
        """FLOPs of a training step for each token of a clip of latents (F, H, W)."""
        return self.of_passes(shape) / self.net.num_tokens(*shape) * (self.passes / 3)

    def of(self, clips: Mapping[LatentShape, int]) -> int:
        """FLOPs of a training step for so many clips of each shape."""
        return sum(count * round(self.of_passes(shape) * self.passes / 3) for shape, count in clips.items())


def without_memory(net: nn.Module) -> Any:
    """A copy of a network whose tensors are on the meta device."""
    memo = {id(tensor): _empty(tensor) for tensor in (*net.parameters(), *net.buffers())}
    return copy.deepcopy(net, memo)  # type: ignore[arg-type]


def _empty(tensor: torch.Tensor) -> torch.Tensor:
    like = torch.empty_like(tensor, device="meta")
    return nn.Parameter(like, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else like
