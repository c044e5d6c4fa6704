"""Perceptual terms of an autoencoder's loss: any module from (reconstruction, clip) to a loss for each clip."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from dit.config.limits import Count


class LaplacianPyramid(nn.Module):
    """Mean absolute difference of the Laplacian pyramids of all frames (Bojanowski et al. 2017, arXiv 1707.05776,
    equation 2): edges count at their own scale, and needs no network that was trained elsewhere.

    levels: of the pyramid; a frame that gets smaller than 2 has fewer. The paper's weight of level j is 4**j, and its
    sum is over places, of which there are 4**j times fewer: here it is the sum of the means, which is that sum over the
    number of places.
    """

    def __init__(self, levels: Count) -> None:
        super().__init__()
        self.levels = levels

    def forward(self, made: Tensor, clip: Tensor) -> Tensor:
        """Two clips (B, 3, F, height, width) -> (B,)."""
        x = (made - clip).transpose(1, 2).flatten(0, 1)  # (B F, 3, height, width): the pyramid is linear
        total = x.new_zeros(len(x))
        for _ in range(self.levels):
            if min(x.shape[2:]) < 2:
                break
            smaller = functional.avg_pool2d(x, 2)
            detail = x - functional.interpolate(smaller, size=x.shape[2:], mode="bilinear", align_corners=False)
            total = total + detail.abs().mean(dim=(1, 2, 3))
            x = smaller
        return total.view(len(made), -1).mean(dim=1)
