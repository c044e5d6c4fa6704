"""Clips that no measure of the truth should take for right ones: the floors beside a suite's samples."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

OTHERS, FROZEN, NOISE = "clips of other prompts (floor)", "frozen frames (floor)", "noise (floor)"


def floors(real: Callable[[int], Tensor], index: int, count: int, given: int) -> dict[str, Tensor]:
    """What no measure should take for clip `index` of some: the next one, if there is another, a still one, and noise
    behind `given` frames."""
    clip = real(index)
    other = {OTHERS: real((index + 1) % count)} if count > 1 else {}
    return {**other, FROZEN: frozen(clip, given), NOISE: noise(clip, given, index)}


def frozen(clip: Tensor, given: int) -> Tensor:
    """A clip that stays at its last given frame, or at the first."""
    kept = max(given, 1)
    return torch.cat([clip[:, :kept], clip[:, kept - 1 : kept].expand(-1, clip.shape[1] - kept, -1, -1)], 1)


def noise(clip: Tensor, given: int, seed: int) -> Tensor:
    """A clip with uniform noise in the place of all frames that are not given."""
    drawn = torch.randint(0, 256, clip.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return torch.cat([clip[:, :given], drawn[:, given:]], 1)
