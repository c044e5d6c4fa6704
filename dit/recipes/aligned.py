"""REPA (Yu et al. 2024, arXiv 2410.06940) around another recipe."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import Any

import torch

from dit.net import runner
from dit.net.patches import token_grid
from dit.recipes.alignment import Alignment
from dit.recipes.base import NET, Clips, Loss, Part, Recipe


class Aligned(Recipe):
    """The losses of `recipe`, and with that of `net` the alignment of one of its middle layers, times its weight.

    Args:
        recipe: must show `net` noised clips of the batch; ValueError for one that does not.
        alignment: `alignment(width)`.
    """

    def __init__(self, recipe: Recipe, alignment: Callable[[int], Alignment]) -> None:
        if not recipe.sees_clips:
            raise ValueError(
                f"alignment compares what the network sees of a clip, and {type(recipe).__name__} shows it none;"
                " alignment=none"
            )
        self.sees_pixels = True
        self.recipe = recipe
        self.alignment = alignment
        self.copies, self.optimizers, self.trains_text = recipe.copies, recipe.optimizers, recipe.trains_text
        self.needs_weights, self.passes = recipe.needs_weights, recipe.passes
        self.takes_packed = recipe.takes_packed

    def parts(self, net: Any) -> dict[str, Part]:
        projector = self.alignment(net.width)
        runner.check(net, [projector.block])
        own = Part(projector, optimizer=NET, averaged=True)
        return {**self.recipe.parts(net), "alignment": own}

    def losses(self, nets: Mapping[str, Any], clips: Clips, step: int) -> dict[str, Loss]:
        net, alignment = nets[NET], nets["alignment"]
        with runner.tapped(net, alignment.block) as tap:
            losses = self.recipe.losses(nets, clips, step)
        grids = [token_grid(net.patch, *x0.shape[2:]) for x0, _ in clips.groups]
        counts = [len(x0) * prod(grid) for (x0, _), grid in zip(clips.groups, grids, strict=True)]
        parts = zip(clips.groups, grids, tap.tokens.flatten(0, 1).split(counts), strict=True)
        each = [alignment(part.unflatten(0, (len(x0), -1)), grid, pixels) for (x0, pixels), grid, part in parts]
        aligned = torch.cat(each).mean()
        own = losses[NET]
        columns = {**own.columns, "alignment": aligned}
        return {**losses, NET: own._replace(total=own.total + alignment.weight * aligned, columns=columns)}
