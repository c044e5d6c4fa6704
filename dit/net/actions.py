"""What is done at each frame, as part of the level vectors of that frame."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dit.config.limits import Count
from dit.net.embed import LevelVector
from dit.net.position.base import Compression


class ActionEmbedding(LevelVector):
    """A vector for each action, and one, the last, for none that is said; of each latent frame the mean over the pixel
    frames that it stands for.

    So the blocks are steered frame by frame, as by noise levels of single frames. Within one latent frame the order of
    actions is not told: a codec that packs few frames, or none, tells it best.

    num_actions: numbered from 0.
    """

    def __init__(self, width: int, *, num_actions: Count) -> None:
        super().__init__()
        self.num_actions = num_actions
        self.table = nn.Embedding(num_actions + 1, width)
        self._compression: Compression | None = None

    def init_own(self, std: float) -> None:
        """Normal, as classes are; called by the network's init part."""
        nn.init.normal_(self.table.weight, std=std)

    def on_latents(self, compression: Compression) -> None:
        self._compression = compression

    def forward(self, value: Tensor) -> Tensor:
        """value (B, P) int64, `num_actions` is none, for P frames of pixels -> (B, P, width)."""
        return self.table(value)

    def at(self, value: Tensor, t: Tensor) -> Tensor:
        """value (B, P) -> (B, F, level_width) for the F latent frames of P frames of pixels. Of packed clips P and F
        are those of the longest; (B, 1) is one action for all frames."""
        vectors: Tensor = self(value)
        if self._compression is None or self._compression.stride[0] == 1 or value.shape[1] == 1:
            return vectors
        shares = shares_of_pixels(self._compression, value.shape[1], vectors.device)
        return torch.einsum("fp,bpd->bfd", shares.to(vectors.dtype), vectors)


def shares_of_pixels(compression: Compression, num_frames: int, device: torch.device) -> Tensor:
    """(F, num_frames): rows that take the mean over the pixel frames of each latent frame, over the first frame where a
    latent frame stands for none (`Compression.lead`)."""
    first = compression.first_frames(torch.arange(num_frames + compression.lead + 1))
    latents = int((first < num_frames).sum())
    begin = compression.first_frames(torch.arange(latents + 1, device=device))
    begin, end = begin[:-1, None], torch.maximum(begin[1:], begin[:-1] + 1)[:, None]
    frames = torch.arange(num_frames, device=device)
    return ((frames >= begin) & (frames < end)) / (end - begin)
