"""What validation computes of each clip, several clips to a forward pass.

Noise and levels belong to the clip, drawn from generators that its id seeds. So the numbers of a clip are the same, up
to rounding, whatever shares its batch and on any number of devices.
"""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from dit.diffusion.denoiser import Denoiser
from dit.diffusion.errors import errors
from dit.diffusion.footage import Footage
from dit.diffusion.loss import LossOutput, Noised, Objective
from dit.engine import rng
from dit.net.backbone import Backbone

Cond = Mapping[str, Tensor]


class Validated(NamedTuple):
    """Loss and errors of one clip."""

    loss: LossOutput  # in the run's own weighting, levels and space
    errors: Tensor | None  # (3, L, F) of x0, eps and velocity at L fixed levels; None where no level was asked for


def validated(
    net: Backbone,
    objective: Objective,
    x0: Sequence[Tensor],
    conds: Sequence[Cond],
    ids: Sequence[str],
    noise_shares: Sequence[float],
    rows: int,
    footage: Sequence[Footage] | None = None,
) -> list[Validated]:
    """The loss and the errors at `noise_shares` (`dit/diffusion/errors.py`) of B clips, in their order.

    Clips go through the network together where they have one shape and are told as many text tokens: padding could
    change what a network without a text mask puts out.

    Args:
        x0: clean latents of each clip, (1, C, F, H, W).
        conds: what the network is told of each clip, entries of batch 1.
        ids: of the clips, which seed their noise.
        footage: each clip as pixels, for networks that are shown given frames beside them.
        rows: clips that may go through the network at once, each level counting as one. At least one clip does.
    """
    found: list[Validated | None] = [None] * len(x0)
    for group in alike(conds, x0):
        size = max(1, rows // max(1, len(noise_shares)))
        for start in range(0, len(group), size):
            part = group[start : start + size]
            cond = {key: torch.cat([conds[i][key] for i in part]) for key in conds[part[0]]}
            seen = [None if footage is None else footage[i] for i in part]
            latents = torch.cat([x0[i] for i in part])
            measured = _together(net, objective, latents, cond, [ids[i] for i in part], noise_shares, seen)
            for i, each in zip(part, measured, strict=True):
                found[i] = each
    return [each for each in found if each is not None]


def alike(conds: Sequence[Cond], x0: Sequence[Tensor]) -> list[list[int]]:
    """Positions of clips whose latents and entries have the same shapes, each in one list."""
    groups: dict[tuple[tuple[str, torch.Size], ...], list[int]] = defaultdict(list)
    for position, (cond, latents) in enumerate(zip(conds, x0, strict=True)):
        shapes = [(key, value.shape) for key, value in sorted(cond.items())]
        groups[(("x0", latents.shape), *shapes)].append(position)
    return list(groups.values())


def _together(
    net: Backbone,
    objective: Objective,
    x0: Tensor,
    cond: dict[str, Tensor],
    ids: Sequence[str],
    noise_shares: Sequence[float],
    footage: Sequence[Footage | None],
) -> list[Validated]:
    seeds = [zlib.crc32(id.encode()) for id in ids]
    tokens = net.num_tokens(*x0.shape[2:])
    alone = [
        objective.noise(one, tokens, rng.generator("cpu", seed), seen)
        for one, seed, seen in zip(x0.split(1), seeds, footage, strict=True)
    ]
    noised = Noised.stacked(alone)
    out = objective.compare(noised, objective.output(net, noised, cond))
    losses = [LossOutput(out.per_sample[i], *(field[i : i + 1] for field in out[1:])) for i in range(len(x0))]
    if not noise_shares:
        return [Validated(loss, None) for loss in losses]
    denoiser = Denoiser(net, objective.path, objective.prediction)
    beside = None if objective.given.in_place else noised.shown
    wrong = errors(denoiser, x0, cond, noise_shares, [rng.generator("cpu", seed, 1) for seed in seeds], beside)
    return [Validated(loss, each) for loss, each in zip(losses, wrong.unbind(1), strict=True)]
