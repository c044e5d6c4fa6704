"""The noise levels that one clip visits, all frames together or each frame its own."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from dit.diffusion.experts import ByLevel
from dit.diffusion.path import Path
from dit.sampling.schedule import over_frames, to_make
from dit.sampling.settings import Settings


def levels_of(
    settings: Settings, path: Path, net: Any, per_frame: bool, latent_shape: tuple[int, int, int], known: Tensor
) -> Tensor:
    """float64 (steps + 1,), or (steps + 1, F) where each frame has its own.

    Args:
        per_frame: whether the network was trained with a level for each frame.
        latent_shape: (F, H, W) of the clip's latents.
        known: bool (F,), which latent frames are given.

    Raises ValueError for a number of steps that is none, and for levels that the network was not trained for.
    """
    steps, schedule = settings.num_steps, settings.schedule
    if type(steps) is not int or steps < 1:
        raise ValueError(f"num_steps={steps} must be a whole number, at least 1")
    tokens, patch = net.num_tokens(*latent_shape), getattr(net, "patch", (1, 1, 1))[0]
    levels = schedule(steps, tokens, path, int(to_make(known, patch).sum()))
    if levels.ndim == 1:
        return levels
    if not per_frame:
        raise ValueError(
            f"{schedule} gives each frame a noise level of its own, but this network was trained with one a clip;"
            " train with levels=per_frame, or sample with another schedule"
        )
    levels = over_frames(levels, known, patch)
    if isinstance(net, ByLevel):
        net.check_levels(levels, known)
    return levels
