"""REPA (Yu et al. 2024, arXiv 2410.06940): tokens of a middle layer are drawn towards a frozen encoder's features."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from dit.net.patches import Grid


class Alignment(nn.Module):
    """A trained projector on the video tokens of one block, compared with what a frozen encoder sees in the clean clip.

    Its loss is 1 - cosine, averaged over tokens (equation 8 of the paper, up to its sign and a constant).

    width: of the network, given by its owner. block: whose output is aligned, counted from 0; an early one, 8 of 28 in
    the paper. weight: of this loss beside the denoising loss, 0.5 in the paper. hidden: of the projector's two hidden
    layers. features: of the encoder's output. encoder: any nn.Module from pixels (B, 3, F, H, W) in [-1, 1] to features
    (B, features, f, h, w) on a grid of its own; it is frozen, and no part of checkpoints.
    """

    def __init__(
        self, width: int, *, block: int, weight: float, hidden: int, features: int, encoder: nn.Module
    ) -> None:
        super().__init__()
        if weight < 0:
            raise ValueError(
                f"alignment.weight={weight} must not be negative; 0.5 is usual, alignment=none leaves it out"
            )
        self.block, self.weight, self.features = block, weight, features
        self.projector = nn.Sequential(
            nn.Linear(width, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, features)
        )
        # In a list, it is no submodule: neither trained, averaged, sharded nor saved.
        self.frozen = [encoder.requires_grad_(False).eval()]

    def forward(self, tokens: Tensor, grid: Grid, pixels: Tensor) -> Tensor:
        """tokens (B, N, width) of a grid (f, h, w), pixels (B, 3, num_frames, height, width) -> loss (B,)."""
        wanted = self.targets(grid, pixels)
        return 1 - functional.cosine_similarity(self.projector(tokens), wanted.to(tokens.dtype), dim=-1).mean(dim=1)

    @torch.no_grad()
    def targets(self, grid: Grid, pixels: Tensor) -> Tensor:
        """The encoder's features at the tokens, (B, N, features), trilinear between its own places."""
        seen = self.frozen[0].to(pixels.device)(pixels)
        if seen.dim() != 5 or seen.shape[1] != self.features:
            raise ValueError(
                f"the encoder gives {tuple(seen.shape)}; alignment.features={self.features} wants (batch,"
                f" {self.features}, frames, height, width)"
            )
        seen = functional.interpolate(seen.float(), size=grid, mode="trilinear", align_corners=False)
        return seen.flatten(2).transpose(1, 2)
