"""A small discriminator of patches of video, for the adversarial term of an autoencoder's loss."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional

from dit.config.limits import Count


class PatchDiscriminator(nn.Module):
    """Says of each patch of a clip whether it looks real: high for real ones (Isola et al. 2016, arXiv 1611.07004, in
    three dimensions).

    widths: channels of its layers, of which each halves height and width, and each but the first the frames.
    """

    def __init__(self, widths: list[Count]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Conv3d(inputs, outputs, (3, 4, 4), (1 if inputs == 3 else 2, 2, 2), padding=1)
            for inputs, outputs in pairwise([3, *widths])
        )
        self.last = nn.Conv3d(widths[-1], 1, 3, padding=1)

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, num_frames, height, width) -> logits (B, 1, frames, rows, columns)."""
        x = pixels
        for layer in self.layers:
            x = functional.leaky_relu(layer(x), 0.2)
        logits: Tensor = self.last(x)
        return logits
