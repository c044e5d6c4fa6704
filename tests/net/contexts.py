"""The context of a forward pass that a test has no network for."""

import torch
from torch import Tensor, nn

from dit.net.context import Context, make_context
from dit.net.coordinates import Coordinates
from dit.net.patches import Grid
from dit.net.position.rotary import Rotation
from dit.net.sequence import JointSequence, MeanOfFrames, TextFirst, TextTokens


def context_of(
    where: Grid | Coordinates,
    *,
    text: Tensor | None = None,
    mask: Tensor | None = None,
    sequence: JointSequence | None = None,
    level: Tensor | None = None,
    modulation: nn.Module | None = None,
    rotation: Rotation | None = None,
) -> Context:
    """Of a grid or coordinates, with a text stream (B, L, any) and its mask (B, L)."""
    coordinates = where if isinstance(where, Coordinates) else Coordinates.of_clip(where)
    steer = modulation or nn.Identity()
    level = torch.zeros(2, 1, 1) if level is None else level
    tokens, order = TextTokens(stream=text, mask=mask), sequence or TextFirst()
    return make_context(coordinates, steer, level, rotation, None, tokens, order, MeanOfFrames())
