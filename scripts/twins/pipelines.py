"""Whole pipelines of diffusers with tiny random parts, saved as folders: what ours are held against."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel, UMT5Config, UMT5EncoderModel

from dit.sampling.pipeline import Pipeline

WORDS = ["a", "red", "blue", "circle", "square", "moves", "left", "right", "slowly", ".", ",", "blurry", "ugly"]
WIDTH = 32  # of text features
WAN_VAE = {
    "base_dim": 3, "z_dim": 16, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1,
    "temperal_downsample": [False, True, True],
}  # fmt: skip


def randomise(module: nn.Module, seed: int) -> nn.Module:
    """Every parameter random: what is zero or one at first would hide whatever is wrong there."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            spread = 0.5 / max(parameter[0].numel(), 1) ** 0.5 if parameter.dim() > 1 else 0.2
            start = 1.0 if parameter.dim() == 1 and bool((parameter == 1).all()) else 0.0
            parameter.copy_(start + spread * torch.randn(parameter.shape, generator=generator))
    return module.eval().requires_grad_(False)


def tokenizer(length: int) -> PreTrainedTokenizerFast:
    """Words, and what is none of them letter by letter; a text ends with </s>, as T5's do."""
    letters = [chr(i) for i in range(33, 127)]
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys(["<pad>", "</s>", "<unk>", *WORDS, *letters]))}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.normalizer = normalizers.Replace(Regex(r"\s+"), " ")
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=length
    )


def t5(kind: type[Any], config: type[Any]) -> nn.Module:
    settings = config(
        vocab_size=128, d_model=WIDTH, d_kv=8, d_ff=37, num_layers=2, num_heads=4, feed_forward_proj="gated-gelu"
    )
    return randomise(kind(settings), 1)


def wan() -> Any:
    from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel

    vae = AutoencoderKLWan(**WAN_VAE)
    net = WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=16, out_channels=16,
        text_dim=WIDTH, freq_dim=32, ffn_dim=32, num_layers=2, cross_attn_norm=True, qk_norm="rms_norm_across_heads",
    )  # fmt: skip
    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, num_train_timesteps=1000, flow_shift=3.0
    )
    return WanPipeline(
        tokenizer(512), t5(UMT5EncoderModel, UMT5Config), randomise(vae, 2), scheduler, randomise(net, 3)
    )


def wan22() -> Any:
    """Two experts, the second below 0.875 of the noise."""
    from diffusers import WanPipeline

    one, other = wan(), wan()
    parts = {**one.components, "transformer_2": randomise(other.transformer, 5)}
    return WanPipeline(**parts, boundary_ratio=0.875)


def ltx() -> Any:
    from diffusers import (
        AutoencoderKLLTXVideo,
        FlowMatchEulerDiscreteScheduler,
        LTXPipeline,
        LTXVideoTransformer3DModel,
    )

    vae = AutoencoderKLLTXVideo(
        in_channels=3, out_channels=3, latent_channels=8, block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8), layers_per_block=(1,) * 5, decoder_layers_per_block=(1,) * 5,
        spatio_temporal_scaling=(True, True, False, False), decoder_spatio_temporal_scaling=(True, True, False, False),
        decoder_inject_noise=(False, False, False, False, False), upsample_residual=(False, False, False, False),
        upsample_factor=(1, 1, 1, 1), timestep_conditioning=False, patch_size=1, patch_size_t=1,
        encoder_causal=True, decoder_causal=False,
    )  # fmt: skip
    net = LTXVideoTransformer3DModel(
        in_channels=8, out_channels=8, patch_size=1, patch_size_t=1, num_attention_heads=4, attention_head_dim=8,
        cross_attention_dim=32, num_layers=2, caption_channels=WIDTH,
    )  # fmt: skip
    scheduler = FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, base_shift=0.95, max_shift=2.05, base_image_seq_len=1024, max_image_seq_len=4096,
        shift_terminal=0.1,
    )  # fmt: skip
    return LTXPipeline(scheduler, randomise(vae, 2), t5(T5EncoderModel, T5Config), tokenizer(128), randomise(net, 3))


def cogvideox() -> Any:
    from diffusers import (
        AutoencoderKLCogVideoX,
        CogVideoXDDIMScheduler,
        CogVideoXPipeline,
        CogVideoXTransformer3DModel,
    )

    vae = AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 4, up_block_types=("CogVideoXUpBlock3D",) * 4,
        block_out_channels=(8, 8, 8, 8), latent_channels=4, layers_per_block=1, norm_num_groups=2,
        temporal_compression_ratio=4, scaling_factor=1.15258426,
    )  # fmt: skip
    net = CogVideoXTransformer3DModel(
        num_attention_heads=4, attention_head_dim=16, in_channels=4, out_channels=4, time_embed_dim=8,
        text_embed_dim=WIDTH, num_layers=2, sample_width=6, sample_height=4, sample_frames=9, patch_size=2,
        temporal_compression_ratio=4, max_text_seq_length=226,
    )  # fmt: skip
    scheduler = CogVideoXDDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type="v_prediction",
        rescale_betas_zero_snr=True, snr_shift_scale=3.0, timestep_spacing="trailing", set_alpha_to_one=True,
    )  # fmt: skip
    return CogVideoXPipeline(
        tokenizer(226), t5(T5EncoderModel, T5Config), randomise(vae, 2), randomise(net, 3), scheduler
    )


def mochi() -> Any:
    from diffusers import AutoencoderKLMochi, FlowMatchEulerDiscreteScheduler, MochiPipeline, MochiTransformer3DModel

    vae = AutoencoderKLMochi(
        latent_channels=12, out_channels=3, encoder_block_out_channels=(32, 32, 32, 32),
        decoder_block_out_channels=(32, 32, 32, 32), layers_per_block=(1, 1, 1, 1, 1),
    )  # fmt: skip
    net = MochiTransformer3DModel(
        patch_size=2, num_attention_heads=2, attention_head_dim=8, num_layers=2, pooled_projection_dim=16,
        in_channels=12, out_channels=None, qk_norm="rms_norm", text_embed_dim=WIDTH, time_embed_dim=4,
        activation_fn="swiglu", max_sequence_length=16,
    )  # fmt: skip
    scheduler = FlowMatchEulerDiscreteScheduler(invert_sigmas=True)
    return MochiPipeline(scheduler, randomise(vae, 2), t5(T5EncoderModel, T5Config), tokenizer(256), randomise(net, 3))


def allegro() -> Any:
    from diffusers import (
        AllegroPipeline,
        AllegroTransformer3DModel,
        AutoencoderKLAllegro,
        EulerAncestralDiscreteScheduler,
    )

    vae = AutoencoderKLAllegro(
        in_channels=3, out_channels=3,
        down_block_types=("AllegroDownBlock3D", "AllegroDownBlock3D", "AllegroDownBlock3D", "AllegroDownBlock3D"),
        up_block_types=("AllegroUpBlock3D", "AllegroUpBlock3D", "AllegroUpBlock3D", "AllegroUpBlock3D"),
        block_out_channels=(8, 8, 8, 8), latent_channels=4, layers_per_block=1, norm_num_groups=2,
        temporal_compression_ratio=4,
    )  # fmt: skip
    net = AllegroTransformer3DModel(
        num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, num_layers=2,
        cross_attention_dim=24, sample_width=6, sample_height=4, sample_frames=2, caption_channels=WIDTH,
    )  # fmt: skip
    scheduler = EulerAncestralDiscreteScheduler(beta_start=0.0001, beta_end=0.02, beta_schedule="linear")
    return AllegroPipeline(
        tokenizer(512), t5(T5EncoderModel, T5Config), randomise(vae, 2), randomise(net, 3), scheduler
    )


def latte() -> Any:
    from diffusers import AutoencoderKL, DDIMScheduler, LattePipeline, LatteTransformer3DModel

    vae = AutoencoderKL(
        block_out_channels=(8, 8, 8, 8), down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4, latent_channels=4, norm_num_groups=2,
    )  # fmt: skip
    net = LatteTransformer3DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=2,
        cross_attention_dim=16, attention_bias=True, sample_size=8, patch_size=2, video_length=4,
        activation_fn="gelu-approximate", num_embeds_ada_norm=1000, norm_type="ada_norm_single",
        norm_elementwise_affine=False, norm_eps=1e-6, caption_channels=WIDTH,
    )  # fmt: skip
    scheduler = DDIMScheduler(beta_start=0.0001, beta_end=0.02, beta_schedule="linear", clip_sample=False)
    return LattePipeline(tokenizer(120), t5(T5EncoderModel, T5Config), randomise(vae, 2), randomise(net, 3), scheduler)


def skyreels_v2() -> Any:
    from diffusers import (
        AutoencoderKLWan,
        SkyReelsV2Pipeline,
        SkyReelsV2Transformer3DModel,
        UniPCMultistepScheduler,
    )

    net = SkyReelsV2Transformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=16, out_channels=16,
        text_dim=WIDTH, freq_dim=32, ffn_dim=32, num_layers=2, cross_attn_norm=True, qk_norm="rms_norm_across_heads",
    )  # fmt: skip
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=8.0)
    vae = randomise(AutoencoderKLWan(**WAN_VAE), 2)
    return SkyReelsV2Pipeline(tokenizer(512), t5(UMT5EncoderModel, UMT5Config), randomise(net, 3), vae, scheduler)


def hunyuan_video() -> Any:
    from diffusers import (
        AutoencoderKLHunyuanVideo,
        FlowMatchEulerDiscreteScheduler,
        HunyuanVideoPipeline,
        HunyuanVideoTransformer3DModel,
    )
    from transformers import CLIPTextConfig, CLIPTextModel, LlamaConfig, LlamaModel

    vae = AutoencoderKLHunyuanVideo(
        in_channels=3, out_channels=3, latent_channels=4, block_out_channels=(8, 8, 8, 8), layers_per_block=1,
        norm_num_groups=4, act_fn="silu", scaling_factor=0.476986, spatial_compression_ratio=8,
        temporal_compression_ratio=4, mid_block_add_attention=True,
        down_block_types=("HunyuanVideoDownBlock3D",) * 4, up_block_types=("HunyuanVideoUpBlock3D",) * 4,
    )  # fmt: skip
    net = HunyuanVideoTransformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=10, num_layers=1, num_single_layers=1,
        num_refiner_layers=1, patch_size=2, patch_size_t=1, guidance_embeds=True, text_embed_dim=WIDTH,
        pooled_projection_dim=8, rope_axes_dim=(2, 4, 4),
    )  # fmt: skip
    llama = LlamaConfig(
        vocab_size=128, hidden_size=WIDTH, intermediate_size=37, num_hidden_layers=3, num_attention_heads=4,
        max_position_embeddings=512, pad_token_id=0, bos_token_id=1, eos_token_id=1,
    )  # fmt: skip
    clip = CLIPTextConfig(
        vocab_size=128, hidden_size=8, intermediate_size=37, num_hidden_layers=2, num_attention_heads=4,
        projection_dim=8, pad_token_id=0, bos_token_id=1, eos_token_id=1,
    )  # fmt: skip
    return HunyuanVideoPipeline(
        text_encoder=randomise(LlamaModel(llama), 1), tokenizer=tokenizer(512), transformer=randomise(net, 3),
        vae=randomise(vae, 2), scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
        text_encoder_2=randomise(CLIPTextModel(clip), 4), tokenizer_2=tokenizer(77),
    )  # fmt: skip


class NoChecker(nn.Module):
    """In place of Cosmos' guardrail, which is a download: everything passes."""

    device, dtype = torch.device("cpu"), torch.float32

    def check_text_safety(self, prompt: str) -> bool:
        return True

    def check_video_safety(self, video: Any) -> Any:
        return video


def cosmos() -> Any:
    from diffusers import (
        AutoencoderKLCosmos,
        CosmosTextToWorldPipeline,
        CosmosTransformer3DModel,
        EDMEulerScheduler,
    )

    vae = AutoencoderKLCosmos(
        in_channels=3, out_channels=3, latent_channels=4, encoder_block_out_channels=(8, 8, 8, 8),
        decode_block_out_channels=(8, 8, 8, 8), attention_resolutions=(8,), resolution=64, num_layers=2, patch_size=4,
        patch_type="haar", scaling_factor=1.0, spatial_compression_ratio=4, temporal_compression_ratio=4,
    )  # fmt: skip
    net = CosmosTransformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=16, num_layers=2, mlp_ratio=2,
        text_embed_dim=WIDTH, adaln_lora_dim=4, max_size=(4, 32, 32), patch_size=(1, 2, 2), rope_scale=(2.0, 1.0, 1.0),
        concat_padding_mask=True, extra_pos_embed_type="learnable",
    )  # fmt: skip
    scheduler = EDMEulerScheduler(
        sigma_min=0.002, sigma_max=80, sigma_data=0.5, sigma_schedule="karras", num_train_timesteps=1000,
        prediction_type="epsilon", rho=7.0, final_sigmas_type="sigma_min",
    )  # fmt: skip
    return CosmosTextToWorldPipeline(
        text_encoder=t5(T5EncoderModel, T5Config), tokenizer=tokenizer(512), transformer=randomise(net, 3),
        vae=randomise(vae, 2), scheduler=scheduler, safety_checker=NoChecker(),
    )  # fmt: skip


@dataclass(frozen=True)
class Twin:
    """A pipeline of diffusers in miniature.

    Attributes:
        build: makes it. shape: (num_frames, height, width) that it is asked for.
        layout: of its latents, in the words of einops.
        frames: what it calls the number of frames.
        alone: whether what it reads of a prompt depends on the others of the batch, so that it is asked one by one.
        decodes: whether its codec takes clips of this size as they are.
    """

    build: Callable[[], Any]
    shape: tuple[int, int, int]
    layout: str = "b c f h w"
    frames: str = "num_frames"
    alone: bool = False
    decodes: bool = True


TWINS = {
    "wan": Twin(wan, (9, 32, 48)),
    "wan22": Twin(wan22, (9, 32, 48)),
    "skyreels_v2": Twin(skyreels_v2, (9, 32, 48)),
    "ltx": Twin(ltx, (9, 32, 64), "b (f h w) c"),
    "cogvideox": Twin(cogvideox, (9, 32, 48), "b f c h w"),
    "hunyuan_video": Twin(hunyuan_video, (9, 32, 48)),
    "mochi": Twin(mochi, (7, 16, 32)),
    "allegro": Twin(allegro, (8, 32, 48), decodes=False),
    "cosmos": Twin(cosmos, (9, 32, 48)),
    "latte": Twin(latte, (4, 64, 64), frames="video_length", alone=True),
}


def saved(name: str, folder: Path) -> Any:
    """A pipeline of diffusers, and its folder."""
    made = TWINS[name].build()
    made.set_progress_bar_config(disable=True)
    made.save_pretrained(folder)
    return made


@dataclass(frozen=True)
class Asked:
    """What both are asked for: a sample for each prompt."""

    prompts: Sequence[str]
    negatives: Sequence[str]
    seeds: Sequence[int]
    num_steps: int
    scale: float

    def only(self, index: int) -> Asked:
        return replace(self, **{k: getattr(self, k)[index : index + 1] for k in ("prompts", "negatives", "seeds")})


def run(pipeline: Any, name: str, noise: Tensor, asked: Asked, output: str) -> Tensor:
    """What diffusers' pipeline makes of noise (B, C, F, H, W): `latent` (B, C, F, H, W), or `pt` (B, 3, F, H, W).

    What a solver adds on the way is drawn as ours draws it: from a sample's own seed, behind the noise that it begins
    with.
    """
    twin = TWINS[name]
    if twin.alone and len(noise) > 1:
        each = (run(pipeline, name, one, asked.only(i), output) for i, one in enumerate(noise.split(1)))
        return torch.cat(list(each))
    generators = [torch.Generator().manual_seed(seed) for seed in asked.seeds]
    for generator in generators:
        torch.randn(noise.shape[1:], generator=generator)
    frames, height, width = twin.shape
    made: Tensor = pipeline(
        list(asked.prompts), negative_prompt=list(asked.negatives), num_inference_steps=asked.num_steps,
        guidance_scale=asked.scale, latents=rearrange(noise.clone(), f"b c f h w -> {twin.layout}"), height=height,
        width=width, output_type=output, generator=generators, **{twin.frames: frames},
    ).frames  # fmt: skip
    if output != "latent":
        return made.transpose(1, 2) * 2 - 1
    sizes = dict(zip("fhw", noise.shape[2:], strict=True))
    return rearrange(made, f"{twin.layout} -> b c f h w", **sizes)


ASKED = Asked(["a red circle moves left slowly.", "a blue square"], ["blurry, ugly", "ugly"], [3, 8], 5, 4.0)


def ours(name: str, folder: str | Path, asked: Asked) -> Pipeline:
    """Our pipeline of a saved one, set to what is asked."""
    frames, height, width = TWINS[name].shape
    return Pipeline.from_pretrained(
        folder, "cpu", num_frames=frames, height=height, width=width, num_steps=asked.num_steps,
        guidance_scale=asked.scale,
    )  # fmt: skip


def noise_for(pipeline: Pipeline, count: int) -> Tensor:
    """Noise that `count` samples begin with, (count, C, F, H, W)."""
    codec: Any = pipeline.codec
    shape = (count, codec.channels, *pipeline.canvas().latent_shape)
    return torch.randn(shape, generator=torch.Generator().manual_seed(7))


def relative(mine: Tensor, other: Tensor) -> float:
    """The largest difference, in the largest value of `other`."""
    return float((mine - other).abs().max() / other.abs().max())
