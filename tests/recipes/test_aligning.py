"""REPA: the loss on a middle layer, and frame encoders."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from dit.recipes.alignment import Alignment
from dit.recipes.encoders import FrameFeatures, pretrained


class Means(nn.Module):
    """Features of a place: the mean pixels of 2 x 4 x 4 patches, through a fixed matrix."""

    def __init__(self, features: int = 5) -> None:
        super().__init__()
        self.mix = nn.Parameter(torch.randn(features, 3, generator=torch.Generator().manual_seed(4)))

    def forward(self, pixels: Tensor) -> Tensor:
        return torch.einsum("cd,bdfhw->bcfhw", self.mix, functional.avg_pool3d(pixels, (2, 4, 4)))


def alignment(**changes: object) -> Alignment:
    torch.manual_seed(0)
    settings = {"block": 1, "weight": 0.5, "hidden": 7, "features": 5, "encoder": Means()}
    return Alignment(6, **{**settings, **changes})  # type: ignore[arg-type]


def test_loss_is_one_minus_the_cosine_at_each_token() -> None:
    part = alignment()
    pixels, tokens = torch.randn(2, 3, 4, 8, 12), torch.randn(2, 2 * 2 * 3, 6)
    wanted = Means()(pixels)  # the encoder's grid is the tokens' own: (2, 2, 3)
    for b in range(2):
        ours = part.projector(tokens[b])
        places = [(f, h, w) for f in range(2) for h in range(2) for w in range(3)]
        cosines = [
            functional.cosine_similarity(mine, wanted[b, :, f, h, w], dim=0)
            for mine, (f, h, w) in zip(ours, places, strict=True)
        ]
        torch.testing.assert_close(part(tokens, (2, 2, 3), pixels)[b], 1 - torch.stack(cosines).mean())
    assert not torch.allclose(part(tokens, (2, 2, 3), pixels), part(tokens, (2, 2, 3), pixels.flip(4)))


def test_features_are_interpolated_to_the_tokens() -> None:
    ramp = torch.linspace(-1, 1, 16).expand(1, 3, 4, 8, 16).contiguous()
    found = alignment().targets((2, 2, 8), ramp)  # the encoder has 4 places along the width
    across = found.unflatten(1, (2, 2, 8))[0, 0, 0]
    steps = across.diff(dim=0)[1:-1]  # inner ones are even on a ramp
    torch.testing.assert_close(steps, steps[:1].expand_as(steps))


def test_the_encoder_stays_as_it_is() -> None:
    part = alignment()
    assert not any("mix" in name for name in part.state_dict())
    part(torch.randn(2, 12, 6), (2, 2, 3), torch.randn(2, 3, 4, 8, 12)).mean().backward()
    assert part.frozen[0].mix.grad is None and not part.frozen[0].training
    assert all(p.grad is not None for p in part.parameters())


def test_mistakes() -> None:
    with pytest.raises(ValueError, match="alignment.features=4 wants"):
        alignment(features=4).targets((2, 2, 3), torch.zeros(1, 3, 4, 8, 12))
    with pytest.raises(ValueError, match="must not be negative"):
        alignment(weight=-1.0)


def test_frames_of_a_pretrained_image_encoder(tmp_path: Path) -> None:
    """A DINOv2 of transformers, tiny and random, loaded from a folder as the config would."""
    transformers = pytest.importorskip("transformers")
    config = transformers.Dinov2Config(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14, mlp_ratio=2
    )
    transformers.Dinov2Model(config).save_pretrained(tmp_path)
    encoder = pretrained(str(tmp_path)).eval()
    with pytest.raises(FileNotFoundError, match="nowhere cannot be loaded"):
        pretrained(str(tmp_path / "nowhere"))
    features = FrameFeatures(encoder, 28, [0.5, 0.4, 0.3], [0.2, 0.3, 0.4])
    pixels = torch.rand(2, 3, 3, 28, 28) * 2 - 1
    found = features(pixels)
    assert found.shape == (2, 8, 3, 2, 2)
    image = (pixels[1, :, 2] + 1) / 2
    image = (image - torch.tensor([0.5, 0.4, 0.3])[:, None, None]) / torch.tensor([0.2, 0.3, 0.4])[:, None, None]
    patches = encoder(image[None]).last_hidden_state[0, 1:]  # without the class token
    torch.testing.assert_close(found[1, :, 2].flatten(1).T, patches, rtol=1e-3, atol=1e-4)
