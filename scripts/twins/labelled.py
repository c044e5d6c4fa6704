"""Pipelines of images of a class in miniature."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from unittest.mock import patch

from torch import Tensor

from scripts.twins.parts import randomise


def dit() -> Any:
    from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline, DiTTransformer2DModel

    vae = AutoencoderKL(
        block_out_channels=(8, 8, 8, 8), down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4, latent_channels=4, norm_num_groups=2,
    )  # fmt: skip
    net = DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=2, sample_size=8,
    )  # fmt: skip
    scheduler = DDIMScheduler(beta_start=0.0001, beta_end=0.02, beta_schedule="linear", clip_sample=False)
    return DiTPipeline(randomise(net, 3), randomise(vae, 2), scheduler)


def sampled(pipeline: Any, asked: Any, asks: Mapping[str, Any], output: str) -> Tensor:
    """What a pipeline of classes, which never returns latents, makes of them: `latent` (B, C, H, W), those that it
    decodes, or `pt` (B, 3, H, W)."""
    decode, decoded = pipeline.vae.decode, []
    with patch.object(pipeline.vae, "decode", lambda latents: decoded.append(latents) or decode(latents)):
        made: Tensor = pipeline([int(each) for each in asked.prompts], output_type="pt", **asks).images
    return decoded[0] * pipeline.vae.config.scaling_factor if output == "latent" else made
