"""Rotary embeddings that a reference takes as an argument and that our networks compute themselves."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dit.interop.family import Network
from dit.net.coordinates import Coordinates
from dit.net.patches import token_grid

NEAR = 1e-3  # of values up to 1; references compute the angles in float32


def check_rotation(net: Network, x: Tensor, given: tuple[Tensor, Tensor] | None) -> None:
    """Raises ValueError unless `given` rotates the tokens of x (B, C, F, H, W) as the network does.

    given: cos and sin (N, head_dim) of every channel of a head; None: nothing is rotated.
    """
    grid = token_grid(net.patch, *x.shape[2:])
    rotation = net.position.rotation(Coordinates.of_clip(grid), x, {})
    if rotation is None or given is None:
        if rotation is not None:
            raise ValueError("image_rotary_emb is missing: the positions of this network are rotary")
        if given is not None:
            raise ValueError("image_rotary_emb is given, but the positions of this network are not rotary")
        return
    cos, sin = rotation.cos[0, :, 0], rotation.sin[0, :, 0]
    if any(tensor.shape != cos.shape for tensor in given):
        raise ValueError(
            f"image_rotary_emb has the shape {tuple(given[0].shape)}; {grid} tokens need {tuple(cos.shape)}"
        )
    # Our sines have signs and theirs have none: at a right angle, where each sine is 1, our table is those signs.
    _, sign = rotation.pairing.tables(torch.full((1, cos.shape[1] // 2), math.pi / 2, device=sin.device))
    apart = max((given[0] - cos).abs().max().item(), (given[1] * sign - sin).abs().max().item())
    if apart > NEAR:
        raise ValueError(
            f"image_rotary_emb is not that of this network for latents {tuple(x.shape[2:])}: it differs by {apart:.2g}"
        )
