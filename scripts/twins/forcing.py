"""Pipelines with a noise level for each frame (diffusion forcing) in miniature."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from transformers import UMT5Config, UMT5EncoderModel

from scripts.twins.parts import WAN_VAE, WIDTH, randomise, t5, tokenizer


def skyreels_v2(task: str = "") -> Any:
    """task: as it stands in the name of the class."""
    import diffusers

    vae = diffusers.AutoencoderKLWan(**WAN_VAE)
    net = diffusers.SkyReelsV2Transformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=16, out_channels=16,
        text_dim=WIDTH, freq_dim=32, ffn_dim=32, num_layers=2, cross_attn_norm=True, qk_norm="rms_norm_across_heads",
        inject_sample_info=True,
    )  # fmt: skip
    scheduler = diffusers.UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=8.0
    )
    kind = getattr(diffusers, f"SkyReelsV2DiffusionForcing{task}Pipeline")
    parts = {"transformer": randomise(net, 3), "vae": randomise(vae, 2), "scheduler": scheduler}
    return kind(tokenizer=tokenizer(512), text_encoder=t5(UMT5EncoderModel, UMT5Config), **parts)


@contextmanager
def drawing_of(pipeline: Any, generators: Sequence[torch.Generator]) -> Iterator[None]:
    """Within, the noise on what a chained clip goes on from is drawn as ours is: for a whole clip of 3 latent frames,
    from the sample's own seed."""

    def drawn(like: Tensor) -> Tensor:
        channels, frames, *size = like.shape[1:]
        whole = [torch.randn((channels, 3, *size), generator=generator) for generator in generators]
        return torch.stack(whole)[:, :, :frames].to(like)

    with patch.object(torch, "randn_like", drawn):
        yield
