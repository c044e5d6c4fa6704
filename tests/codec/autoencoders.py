"""diffusers' autoencoders in miniature, every weight random, in folders as diffusers saves them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dit.codec.pretrained import Pretrained
from tests.interop.reference import randomise

diffusers: Any = pytest.importorskip("diffusers")

MEAN, STD = [-0.3, 0.2, 0.5, -0.1], [0.6, 0.9, 1.1, 1.7]  # of the latents' four channels
KL = {
    "block_out_channels": [4, 8],
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "norm_num_groups": 2,
    "latent_channels": 4,
    "scaling_factor": 0.18215,
}
WAN = {
    "base_dim": 4,
    "z_dim": 4,
    "dim_mult": [1, 2, 2],
    "num_res_blocks": 1,
    "temperal_downsample": [True, True],
    "latents_mean": MEAN,
    "latents_std": STD,
    "scale_factor_spatial": 4,
}
LTX = {
    "latent_channels": 4,
    "block_out_channels": [4, 4, 4, 4],
    "decoder_block_out_channels": [4, 4, 4, 4],
    "layers_per_block": [1] * 5,
    "decoder_layers_per_block": [1] * 5,
    "spatio_temporal_scaling": [True, True, False, False],
    "decoder_spatio_temporal_scaling": [True, True, False, False],
    "patch_size": 1,
    "scaling_factor": 0.8,
}
LTX_TOLD = {  # as of 0.9.1
    "latent_channels": 4,
    "block_out_channels": [4, 4, 4, 4],
    "decoder_block_out_channels": [8, 16],
    "layers_per_block": [1] * 5,
    "decoder_layers_per_block": [1] * 3,
    "spatio_temporal_scaling": [True, True, False, False],
    "decoder_spatio_temporal_scaling": [True, True],
    "decoder_inject_noise": [True, True, False],
    "upsample_residual": [True, True],
    "upsample_factor": [2, 2],
    "timestep_conditioning": True,
    "patch_size": 1,
}
LTX2 = {
    "latent_channels": 4,
    "block_out_channels": [8, 8],
    "down_block_types": ["LTX2VideoDownBlock3D"] * 2,
    "decoder_block_out_channels": [8, 16],
    "layers_per_block": [1] * 3,
    "decoder_layers_per_block": [1] * 3,
    "spatio_temporal_scaling": [True, True],
    "decoder_spatio_temporal_scaling": [True, True],
    "decoder_inject_noise": [False] * 3,
    "downsample_type": ["spatiotemporal"] * 2,
    "upsample_type": ["spatiotemporal"] * 2,
    "upsample_residual": [True, True],
    "upsample_factor": [2, 2],
    "patch_size": 1,
}
COGVIDEOX = {
    "block_out_channels": [4, 4, 4, 4],
    "latent_channels": 4,
    "layers_per_block": 1,
    "norm_num_groups": 2,
    "scaling_factor": 0.7,
    "shift_factor": 0.4,  # which no pipeline of it uses
}
HUNYUAN = {
    "block_out_channels": [4, 4, 4, 4],
    "latent_channels": 4,
    "layers_per_block": 1,
    "norm_num_groups": 2,
    "scaling_factor": 0.476986,
}
HUNYUAN15 = {
    "latent_channels": 4,
    "block_out_channels": [8, 16, 16],
    "layers_per_block": 1,
    "spatial_compression_ratio": 4,
    "temporal_compression_ratio": 4,
    "scaling_factor": 1.03682,
}
MOCHI = {
    "latent_channels": 12,
    "encoder_block_out_channels": [32] * 4,
    "decoder_block_out_channels": [32] * 4,
    "layers_per_block": [1] * 5,
    "scaling_factor": 0.9,
}
ALLEGRO = {"block_out_channels": [4, 4, 4, 4], "latent_channels": 4, "layers_per_block": 1, "norm_num_groups": 2}
COSMOS = {
    "latent_channels": 4,
    "encoder_block_out_channels": [4, 4, 4, 4],
    "decode_block_out_channels": [4, 4, 4, 4],
    "attention_resolutions": [8],
    "resolution": 64,
    "num_layers": 1,
    "patch_size": 2,
    "spatial_compression_ratio": 4,
    "temporal_compression_ratio": 4,
    "latents_mean": [m + 0.1 * frame for m in MEAN for frame in range(3)],
    "latents_std": [s + 0.1 * frame for s in STD for frame in range(3)],
}
DC = {
    "latent_channels": 4,
    "attention_head_dim": 4,
    "encoder_block_out_channels": [4, 8],
    "decoder_block_out_channels": [4, 8],
    "encoder_layers_per_block": [1, 1],
    "decoder_layers_per_block": [1, 1],
    "encoder_qkv_multiscales": [[], []],
    "decoder_qkv_multiscales": [[], []],
    "scaling_factor": 0.41407,
}
TINY = {
    "encoder_block_out_channels": [4, 4],
    "decoder_block_out_channels": [4, 4],
    "num_encoder_blocks": [1, 1],
    "num_decoder_blocks": [1, 1],
    "scaling_factor": 0.9,
    "shift_factor": 0.1,
}
RAE = {
    "encoder_type": "mae",
    "encoder_hidden_size": 64,
    "encoder_patch_size": 4,
    "encoder_num_hidden_layers": 1,
    "decoder_hidden_size": 8,
    "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 8,
    "patch_size": 4,
    "encoder_input_size": 8,
    "scaling_factor": 0.7,
}

# Name -> (class of diffusers, settings, compression as (f, h, w), whether the first frame is coded alone).
CASES: dict[str, tuple[str, dict[str, Any], tuple[int, int, int], bool]] = {
    "kl": ("AutoencoderKL", KL, (1, 2, 2), False),
    "kl shifted": ("AutoencoderKL", {**KL, "scaling_factor": 1.5305, "shift_factor": 0.609}, (1, 2, 2), False),
    "kl by channel": ("AutoencoderKL", {**KL, "latents_mean": MEAN, "latents_std": STD}, (1, 2, 2), False),
    "dc": ("AutoencoderDC", DC, (1, 2, 2), False),
    "tiny": ("AutoencoderTiny", TINY, (1, 2, 2), False),
    "rae": ("AutoencoderRAE", RAE, (1, 4, 4), False),
    "wan 2.1": ("AutoencoderKLWan", WAN, (4, 4, 4), True),
    "wan 2.2": (
        "AutoencoderKLWan",
        {**WAN, "is_residual": True, "patch_size": 2, "in_channels": 12, "out_channels": 12, "scale_factor_spatial": 8},
        (4, 8, 8),
        True,
    ),
    "ltx": ("AutoencoderKLLTXVideo", LTX, (4, 4, 4), True),
    "ltx told its noise": ("AutoencoderKLLTXVideo", LTX_TOLD, (4, 4, 4), True),
    "ltx 2": ("AutoencoderKLLTX2Video", LTX2, (4, 4, 4), True),
    "cogvideox": ("AutoencoderKLCogVideoX", COGVIDEOX, (4, 8, 8), True),
    "hunyuan": ("AutoencoderKLHunyuanVideo", HUNYUAN, (4, 8, 8), True),
    "hunyuan 1.5": ("AutoencoderKLHunyuanVideo15", HUNYUAN15, (4, 4, 4), True),
    "mochi": ("AutoencoderKLMochi", MOCHI, (6, 8, 8), True),
    "allegro": ("AutoencoderKLAllegro", ALLEGRO, (4, 8, 8), False),
    "cosmos": ("AutoencoderKLCosmos", COSMOS, (4, 4, 4), True),
}
DEFAULTS: dict[str, Any] = {
    "fingerprint": None, "posterior": "mode", "scale": 1.0, "dtype": "float32", "batch": "auto", "tiling": None,
    "decode_timestep": 0.0, "decode_noise_scale": 0.0,
}  # fmt: skip


def autoencoder(case: str, **changes: Any) -> Any:
    """One of `CASES` as an object of diffusers; `changes` are settings."""
    name, settings, _, _ = CASES[case]
    model: nn.Module = getattr(diffusers, name)(**{**settings, **changes})
    randomise(model)
    if "LTX" in name:  # statistics are buffers
        model.latents_mean.copy_(torch.tensor(MEAN))
        model.latents_std.copy_(torch.tensor(STD))
    return model


def saved(case: str, folder: Path, **changes: Any) -> Path:
    """The same, saved to a folder."""
    autoencoder(case, **changes).save_pretrained(folder)
    return folder


def codec(folder: Path, **changes: Any) -> Pretrained:
    return Pretrained(**{"folder": str(folder), **DEFAULTS, **changes})


def clip(case: str, latent_frames: int = 3, batch: int = 2) -> torch.Tensor:
    """Random pixels of the smallest kind that it takes with rows and columns to tell apart, in [-1, 1]."""
    _, _, (f, h, w), causal = CASES[case]
    rows, columns = (2, 2) if case == "rae" else (2, 3)
    frames = f * latent_frames - (f - 1 if causal else 0)
    generator = torch.Generator().manual_seed(3)
    return torch.rand(batch, 3, frames, rows * h, columns * w, generator=generator) * 2 - 1
