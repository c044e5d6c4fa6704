"""Counted places that each call may scale."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from dit.net.coordinates import Coordinates
from dit.net.position.places import Counted
from dit.net.reads import Reads


class Scaled(Counted):
    """Counted, then multiplied by cond["rope_scale"] (B, 3) where it is there, a number for each axis: at a higher
    resolution tokens stand closer (Kandinsky 5).
    """

    reads = Reads(optional=("rope_scale",))

    def __call__(
        self, coordinates: Coordinates, device: torch.device, dtype: torch.dtype, cond: Mapping[str, Tensor]
    ) -> list[Tensor]:
        """Raises ValueError for scales of another shape."""
        axes = super().__call__(coordinates, device, dtype, cond)
        if "rope_scale" not in cond:
            return axes
        scale = cond["rope_scale"].to(dtype)
        if scale.dim() != 2 or scale.shape[1] != len(axes):
            raise ValueError(f"cond['rope_scale'] has shape {tuple(scale.shape)}; it must be (batch, 3)")
        return [numbers * coordinates.of_clips(scale[:, i]) for i, numbers in enumerate(axes)]
