"""Coordinate check: how the change of activations in the first steps depends on the width (Yang et al. 2022, arXiv
2203.03466, appendix D.1). Where settings carry over from one width to another it does not."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dit.net.backbone import Backbone
from dit.statistics import Estimate, t_quantile

OUTPUT = "output"
Inputs = tuple[Tensor, Tensor, Mapping[str, Tensor]]  # x, t and cond of a network


def changes(
    net: Backbone, optimizer: Callable[[nn.Module], Optimizer], inputs: Inputs, target: Tensor, steps: int
) -> dict[str, float]:
    """Trains `net` on one batch with a square loss. Returns the RMS of what has changed after `steps`: of the tokens
    behind the embedding and behind each block, and of the output.

    target: of the shape of the output.
    """
    before = activations(net, inputs)
    rule = optimizer(nn.ModuleDict({"net": net}))
    for _ in range(steps):
        rule.zero_grad(set_to_none=True)
        (net(*inputs) - target).square().mean().backward()
        rule.step()
    after = activations(net, inputs)
    return {name: float((after[name] - before[name]).square().mean().sqrt()) for name in before}


@torch.no_grad()
def activations(net: Backbone, inputs: Inputs) -> dict[str, Tensor]:
    """The tokens (B, N, D) behind the embedding and behind each block, and the output, by name."""
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, given: object, out: Tensor | tuple[Tensor, ...]) -> None:
            found[name] = (out[0] if isinstance(out, tuple) else out).detach().clone()

        return hook

    parts = {"embed": net.embed, **{f"block {place}": block for place, block in enumerate(net.blocks)}}
    handles = [part.register_forward_hook(keep(name)) for name, part in parts.items()]
    try:
        out = net(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return {**found, OUTPUT: out}


def slopes(found: Mapping[int, Sequence[Mapping[str, float]]]) -> dict[str, Estimate]:
    """The slope of log change against log width for each activation, by least squares, with Student's interval.

    found: width -> `changes` of several seeds.

    Raises:
        ValueError: fewer than three widths, or a change that is not finite or 0, as of a rate that is too large or 0.
    """
    if len(found) < 3:
        raise ValueError(f"{len(found)} widths are too few for a slope with an interval; give at least 3")
    made = {}
    for name in next(iter(found.values()))[0]:
        values = [(width, each[name]) for width, seeds in found.items() for each in seeds]
        bad = [(width, value) for width, value in values if not (math.isfinite(value) and value > 0)]
        if bad:
            raise ValueError(f"the change of {name} at width {bad[0][0]} is {bad[0][1]:g}; try another optim.lr")
        made[name] = _slope(np.log([width for width, _ in values]), np.log([value for _, value in values]))
    return made


def _slope(x: np.ndarray, y: np.ndarray) -> Estimate:
    spread = x - x.mean()
    slope = float(spread @ y / (spread @ spread))
    left = y - y.mean() - slope * spread
    freedom = len(x) - 2
    half = t_quantile(freedom) * math.sqrt(float(left @ left) / freedom / float(spread @ spread))
    return Estimate(slope, slope - half, slope + half, len(x))
