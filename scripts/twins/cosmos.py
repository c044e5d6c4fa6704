"""Pipelines of Cosmos in miniature."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, T5Config, T5EncoderModel

from scripts.twins.parts import WAN_VAE, WIDTH, NoChecker, randomise, t5, tokenizer

CHAT = "{% for message in messages %}{{ message.role }} {{ message.content[0].text }} . {% endfor %}"
LAYERS, QWEN_WIDTH = 3, 16


def predict1(kind: str = "CosmosTextToWorldPipeline", marks: int = 0) -> Any:
    """kind: its class. marks: channels of the network that say which frames are given."""
    import diffusers
    from diffusers import AutoencoderKLCosmos, CosmosTransformer3DModel, EDMEulerScheduler

    vae = AutoencoderKLCosmos(
        in_channels=3, out_channels=3, latent_channels=4, encoder_block_out_channels=(8, 8, 8, 8),
        decode_block_out_channels=(8, 8, 8, 8), attention_resolutions=(8,), resolution=64, num_layers=2, patch_size=4,
        patch_type="haar", scaling_factor=1.0, spatial_compression_ratio=4, temporal_compression_ratio=4,
    )  # fmt: skip
    net = CosmosTransformer3DModel(
        in_channels=4 + marks, out_channels=4, num_attention_heads=2, attention_head_dim=16, num_layers=2, mlp_ratio=2,
        text_embed_dim=WIDTH, adaln_lora_dim=4, max_size=(4, 32, 32), patch_size=(1, 2, 2), rope_scale=(2.0, 1.0, 1.0),
        concat_padding_mask=True, extra_pos_embed_type="learnable",
    )  # fmt: skip
    scheduler = EDMEulerScheduler(
        sigma_min=0.002, sigma_max=80, sigma_data=0.5, sigma_schedule="karras", num_train_timesteps=1000,
        prediction_type="epsilon", rho=7.0, final_sigmas_type="sigma_min",
    )  # fmt: skip
    return getattr(diffusers, kind)(
        text_encoder=t5(T5EncoderModel, T5Config), tokenizer=tokenizer(512), transformer=randomise(net, 3),
        vae=randomise(vae, 2), scheduler=scheduler, safety_checker=NoChecker(),
    )  # fmt: skip


def predict2(kind: str, marks: int = 0) -> Any:
    """kind: its class. marks: channels of the network that say which frames are given."""
    import diffusers

    vae = diffusers.AutoencoderKLWan(**WAN_VAE)
    net = diffusers.CosmosTransformer3DModel(
        in_channels=16 + marks, out_channels=16, num_attention_heads=2, attention_head_dim=16, num_layers=2,
        mlp_ratio=2, text_embed_dim=WIDTH, adaln_lora_dim=4, max_size=(4, 32, 32), patch_size=(1, 2, 2),
        rope_scale=(1.0, 3.0, 3.0), concat_padding_mask=True, extra_pos_embed_type=None,
    )  # fmt: skip
    return getattr(diffusers, kind)(
        text_encoder=t5(T5EncoderModel, T5Config), tokenizer=tokenizer(512), transformer=randomise(net, 3),
        vae=randomise(vae, 2), scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True),
        safety_checker=NoChecker(),
    )  # fmt: skip


def predict1_video() -> Any:
    return predict1("CosmosVideoToWorldPipeline", 1)


def predict2_image() -> Any:
    return predict2("Cosmos2TextToImagePipeline")


def predict2_video() -> Any:
    return predict2("Cosmos2VideoToWorldPipeline", 1)


def qwen() -> Any:
    text = {
        "vocab_size": 128, "hidden_size": QWEN_WIDTH, "intermediate_size": 32, "num_hidden_layers": LAYERS,
        "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 1024, "bos_token_id": 1,
        "eos_token_id": 1, "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]},
    }  # fmt: skip
    vision = {
        "depth": 1, "hidden_size": 16, "num_heads": 2, "intermediate_size": 16, "out_hidden_size": QWEN_WIDTH,
        "window_size": 112, "fullatt_block_indexes": [0],
    }  # fmt: skip
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision)
    return randomise(Qwen2_5_VLForConditionalGeneration(config), 1)


def predict25() -> Any:
    import diffusers

    vae = diffusers.AutoencoderKLWan(**WAN_VAE)
    net = diffusers.CosmosTransformer3DModel(
        in_channels=17, out_channels=16, num_attention_heads=2, attention_head_dim=16, num_layers=2, mlp_ratio=2,
        text_embed_dim=WIDTH, adaln_lora_dim=4, max_size=(4, 32, 32), patch_size=(1, 2, 2), rope_scale=(1.0, 3.0, 3.0),
        concat_padding_mask=True, extra_pos_embed_type=None, use_crossattn_projection=True,
        crossattn_proj_in_channels=LAYERS * QWEN_WIDTH, encoder_hidden_states_channels=WIDTH,
    )  # fmt: skip
    scheduler = diffusers.UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, use_karras_sigmas=True, sigma_min=0.01, sigma_max=200.0
    )
    words = tokenizer(512)
    words.chat_template = CHAT
    return diffusers.Cosmos2_5_PredictBasePipeline(
        text_encoder=qwen(), tokenizer=words, transformer=randomise(net, 3), vae=randomise(vae, 2),
        scheduler=scheduler, safety_checker=NoChecker(),
    )  # fmt: skip


class Left(NamedTuple):
    """What a pipeline whose sampling ends above level 0 makes of given latents: `keeps` times them and `adds` times the
    noise that it begins with.

    frames: given latent frames.
    """

    frames: int
    keeps: float
    adds: float

    def clean(self, latents: Tensor, noise: Tensor) -> Tensor:
        """Latents that it returns, given ones as they were."""
        given = (latents[:, :, : self.frames] - self.adds * noise[:, :, : self.frames]) / self.keeps
        return torch.cat([given, latents[:, :, self.frames :]], 2)

    def noisy(self, latents: Tensor, noise: Tensor) -> Tensor:
        """The inverse."""
        given = self.keeps * latents[:, :, : self.frames] + self.adds * noise[:, :, : self.frames]
        return torch.cat([given, latents[:, :, self.frames :]], 2)


# They go straight from sigma_max = 80 times the noise to sigma_min = 0.002 above themselves.
LEFT = Left(2, 1 - 0.002 / 80, 0.002)
# Sampling begins at the level 200 / 201, a number of float32, with unit noise all the same.
BEGIN25 = torch.tensor(200 / 201).item()
LEFT25 = Left(2, BEGIN25, 1 - BEGIN25)


@contextmanager
def drawing_once_a_step(pipeline: Any, generators: Any) -> Iterator[None]:
    """Within, the pass without the prompt is shown given frames with the same noise as the pass with it."""
    module = sys.modules[type(pipeline).__module__]
    draw, last = module.randn_tensor, []

    def drawn(*arguments: Any, **more: Any) -> Tensor:
        if last and pipeline.do_classifier_free_guidance:
            return last.pop()
        last[:] = [draw(*arguments, **more)]
        return last[0]

    with patch.object(module, "randn_tensor", drawn):
        yield
