"""Frozen encoders whose features REPA aligns with: an image encoder on every frame."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class FrameFeatures(nn.Module):
    """An image encoder of patch tokens (DINOv2, CLIP, ...) applied to every frame.

    encoder: images (N, 3, size, size) -> tokens (N, L, features), or an object with such `last_hidden_state`
    (transformers); tokens in front of the square of patches (class, registers) are left out. size: of the images, which
    are resized to it. mean, std: of its pixels in [0, 1], one value a channel.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, encoder: nn.Module, size: int, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.encoder = encoder
        self.size = size
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """pixels (B, 3, F, H, W) in [-1, 1] -> (B, features, F, h, w)."""
        frames = pixels.movedim(2, 1).flatten(0, 1)  # (B F, 3, H, W)
        size = (self.size, self.size)
        frames = functional.interpolate((frames + 1) / 2, size=size, mode="bicubic", antialias=True)
        out = self.encoder((frames - self.mean) / self.std)
        tokens: Tensor = getattr(out, "last_hidden_state", out)
        side = int(tokens.shape[1] ** 0.5)
        patches = tokens[:, -side * side :].unflatten(1, (side, side))  # (B F, h, w, features)
        return patches.unflatten(0, (-1, pixels.shape[2])).movedim(-1, 1)


def pretrained(model: str) -> nn.Module:
    """A model of transformers, from a folder or by its name on the hub.

    Raises ValueError without transformers, FileNotFoundError when the model cannot be had.
    """
    try:
        from transformers import AutoModel
    except ImportError:
        raise ValueError(f"{model} needs transformers: pip install -r requirements-lora.txt") from None
    try:
        return AutoModel.from_pretrained(model, trust_remote_code=False, attn_implementation=None)
    except OSError as error:
        first = str(error).splitlines()[0]
        raise FileNotFoundError(f"{model} cannot be loaded ({first}); give a folder that holds it") from None
