"""The usual recipe: one network that learns to denoise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dit.diffusion.loss import Objective
from dit.recipes.base import NET, Clips, Loss, Recipe


class Denoising(Recipe):
    """The objective's loss of `net` on the clips.

    Args:
        objective: path, prediction, levels, weighting, given frames and space.
    """

    takes_packed = True

    def __init__(self, objective: Objective) -> None:
        self.objective = objective

    def losses(self, nets: Mapping[str, Any], clips: Clips, step: int) -> dict[str, Loss]:
        out = self.objective.at(step)(nets[NET], clips.x0, clips.cond, footage=clips.footage)
        return {NET: Loss(out.loss, out.per_sample, out.loss, {})}


class FrozenText(Denoising):
    """The same with a text encoder that keeps the weights that it begins with. Two networks that are trained one at a
    time and sampled together (`levels=high_noise`, `levels=low_noise`) need one encoder for both."""

    trains_text = False
