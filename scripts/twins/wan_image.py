"""Wan's pipelines from image to video in miniature."""

from __future__ import annotations

from typing import Any

from scripts.twins import text_to_video
from scripts.twins.parts import WAN_VAE, WIDTH, randomise

PICTURE = {"size": 16, "patch": 8}  # what the vision encoder sees: 4 patches, and the mark in front of them
VISION_WIDTH = 16


def image(**settings: Any) -> Any:
    """Wan 2.1: mask and latents of the image as channels, and its embedding by CLIP. settings: of the network."""
    return _made(_net(image_dim=VISION_WIDTH, added_kv_proj_dim=24, **settings), **_clip())


def skyreels_v2() -> Any:
    """SkyReels-V2 I2V, whose encoder of images has a projection that nothing reads."""
    from diffusers import SkyReelsV2ImageToVideoPipeline, SkyReelsV2Transformer3DModel
    from transformers import CLIPVisionModelWithProjection

    parts = {**text_to_video.skyreels_v2().components, **_clip()}
    parts["image_encoder"] = randomise(CLIPVisionModelWithProjection(parts["image_encoder"].config), 6)
    net = _net(SkyReelsV2Transformer3DModel, image_dim=VISION_WIDTH, added_kv_proj_dim=24)
    return SkyReelsV2ImageToVideoPipeline(**{**parts, "transformer": net})


def first_last() -> Any:
    """Wan 2.1 FLF2V: the first and the last picture, a learned position for each of their tokens."""
    tokens = (PICTURE["size"] // PICTURE["patch"]) ** 2 + 1
    return image(pos_embed_seq_len=2 * tokens)


def two_experts() -> Any:
    """Wan 2.2 A14B: no embedding, and another network below 0.9 of the noise."""
    return _made(_net(), transformer_2=randomise(_net(), 5), boundary_ratio=0.9)


def expanded_text() -> Any:
    """Wan 2.2 5B: a codec of twice the stride, and a noise level for each token."""
    from diffusers import WanPipeline

    return WanPipeline(**_five_billion(), expand_timesteps=True)


def expanded_image() -> Any:
    from diffusers import WanImageToVideoPipeline

    return WanImageToVideoPipeline(**_five_billion(), expand_timesteps=True)


def _made(net: Any, **more: Any) -> Any:
    from diffusers import WanImageToVideoPipeline

    return WanImageToVideoPipeline(**{**text_to_video.wan().components, "transformer": net, **more})


def _net(kind: Any = None, **settings: Any) -> Any:
    """Its 36 channels are 16 latents, 4 of the mask and 16 of the image."""
    from diffusers import WanTransformer3DModel

    net = (kind or WanTransformer3DModel)(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=36, out_channels=16,
        text_dim=WIDTH, freq_dim=32, ffn_dim=32, num_layers=2, cross_attn_norm=True, qk_norm="rms_norm_across_heads",
        **settings,
    )  # fmt: skip
    return randomise(net, 3)


def _clip() -> dict[str, Any]:
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

    size = PICTURE["size"]
    config = CLIPVisionConfig(
        hidden_size=VISION_WIDTH, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2, image_size=size,
        patch_size=PICTURE["patch"], projection_dim=8,
    )  # fmt: skip
    processor = CLIPImageProcessor(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
    return {"image_encoder": randomise(CLIPVisionModel(config), 6), "image_processor": processor}


def _five_billion() -> dict[str, Any]:
    from diffusers import AutoencoderKLWan

    vae = AutoencoderKLWan(
        **WAN_VAE, is_residual=True, patch_size=2, in_channels=12, out_channels=12, scale_factor_spatial=16,
        decoder_base_dim=3,
    )  # fmt: skip
    return {**text_to_video.wan().components, "vae": randomise(vae, 2)}
