"""Pipelines of diffusers from given frames to video in miniature: LTX-Video, CogVideoX, HunyuanVideo."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from unittest.mock import patch

import numpy as np
from einops import rearrange
from PIL import Image
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from scripts.twins import text_to_video
from scripts.twins.parts import WIDTH, WORDS, randomise

LTX_CONDITION = (17, 32, 32)
HEADERS = ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<image>"]


def pictures(count: int, height: int, width: int, seed: int = 0) -> list[Image.Image]:
    """Pictures of a clip's own size, so that nobody fits them; of black and white, whose pixels are -1 and 1 in any
    arithmetic."""
    generator = np.random.default_rng(seed)
    drawn = generator.integers(0, 2, (count, height, width, 3), dtype=np.uint8)
    return [Image.fromarray(255 * pixels) for pixels in drawn]


def ltx_image() -> Any:
    from diffusers import LTXImageToVideoPipeline

    return LTXImageToVideoPipeline(**text_to_video.ltx().components)


def ltx_condition() -> Any:
    """With the decoder of LTX-Video 0.9.1 and later, which is told how noisy the latents are."""
    from diffusers import AutoencoderKLLTXVideo, FlowMatchEulerDiscreteScheduler, LTXConditionPipeline

    parts = text_to_video.ltx().components
    config = {key: value for key, value in parts["vae"].config.items() if not key.startswith("_")}
    vae = randomise(AutoencoderKLLTXVideo(**{**config, "timestep_conditioning": True}), 2)
    return LTXConditionPipeline(**{**parts, "vae": vae, "scheduler": FlowMatchEulerDiscreteScheduler()})


def ltx_conditions(height: int, width: int) -> list[dict[str, Any]]:
    """Images and a video of several latent frames, two of each, one for each sample. Weakly known ones stand in the
    clip and in front of it, a firmly known one in front of it."""
    first, later, *film = (pictures(2, height, width, seed) for seed in range(11))
    films = [[frame[sample] for frame in film] for sample in (0, 1)]
    return [
        {"image": first, "frame": 0, "strength": 0.9},
        {"image": later, "frame": 6},
        {"image": later[::-1], "frame": 11, "strength": 0.6},
        {"video": films, "frame": 8, "strength": 0.8},
    ]


def ltx_conditioned(pipeline: Any, asked: Any, asks: Mapping[str, Any], output: str) -> Tensor:
    """Noise of the steps, which it draws token by token, is drawn latent by latent as ours is."""
    from diffusers.pipelines.ltx import pipeline_ltx_condition as module

    frames, (width, height) = LTX_CONDITION[0], asks["conditions"][0]["image"][0].size
    conditions = [
        module.LTXVideoCondition(each.get("image"), each.get("video"), each["frame"], each.get("strength", 1.0))
        for each in asks["conditions"]
    ]
    asks = {key: value for key, value in asks.items() if key != "conditions"}
    draw = module.randn_tensor

    def drawn(shape: Any, **more: Any) -> Tensor:
        if len(shape) == 5:
            return draw(shape, **more)
        batch, tokens, channels = shape
        rows, columns = height // 4, width // 4
        made = draw((batch, channels, tokens // (rows * columns), rows, columns), **more)
        return rearrange(made, "b c f h w -> b (f h w) c")

    with patch.object(module, "randn_tensor", drawn):
        return pipeline(  # type: ignore[no-any-return]
            conditions, prompt=list(asked.prompts), negative_prompt=list(asked.negatives), num_frames=frames,
            height=height, width=width, output_type=output, **asks,
        ).frames  # fmt: skip


def cogvideox_image() -> Any:
    """With rotary and learned positions, as CogVideoX-5b-I2V."""
    return _cogvideox(use_learned_positional_embeddings=True)


def cogvideox_video() -> Any:
    from diffusers import CogVideoXVideoToVideoPipeline

    return CogVideoXVideoToVideoPipeline(**text_to_video.cogvideox().components)


def cogvideox15() -> Any:
    """Frames are taken by two as one token."""
    from diffusers import CogVideoXPipeline

    parts = text_to_video.cogvideox().components
    return CogVideoXPipeline(**{**parts, "transformer": _cogvideox_net(4, patch_size_t=2, patch_bias=False)})


def cogvideox15_image() -> Any:
    """Its first frame was trained with the autoencoder's factor the wrong way round (`invert_scale_latents`)."""
    made = _cogvideox(patch_size_t=2, patch_bias=False, ofs_embed_dim=8)
    made.vae.register_to_config(invert_scale_latents=True)
    return made


def _cogvideox(**settings: Any) -> Any:
    from diffusers import CogVideoXImageToVideoPipeline

    parts = text_to_video.cogvideox().components
    return CogVideoXImageToVideoPipeline(**{**parts, "transformer": _cogvideox_net(8, **settings)})


def _cogvideox_net(in_channels: int, **settings: Any) -> Any:
    from diffusers import CogVideoXTransformer3DModel

    net = CogVideoXTransformer3DModel(
        num_attention_heads=4, attention_head_dim=16, in_channels=in_channels, out_channels=4, time_embed_dim=8,
        text_embed_dim=WIDTH, num_layers=2, sample_width=6, sample_height=4, sample_frames=9, patch_size=2,
        temporal_compression_ratio=4, max_text_seq_length=226, use_rotary_positional_embeddings=True, **settings,
    )  # fmt: skip
    return randomise(net, 3)


def hunyuan_video_image() -> Any:
    """The image takes the place of the first latent frame."""
    return _hunyuan_video(in_channels=4, guidance_embeds=True, image_condition_type="token_replace")


def hunyuan_video_image_beside() -> Any:
    """The image and a mask are channels beside the latents (the first release)."""
    return _hunyuan_video(in_channels=9, guidance_embeds=False, image_condition_type="latent_concat")


def _hunyuan_video(**settings: Any) -> Any:
    from diffusers import HunyuanVideoImageToVideoPipeline, HunyuanVideoTransformer3DModel
    from transformers import CLIPImageProcessor

    parts = text_to_video.hunyuan_video().components
    net = HunyuanVideoTransformer3DModel(
        out_channels=4, num_attention_heads=2, attention_head_dim=10, num_layers=1, num_single_layers=1,
        num_refiner_layers=1, patch_size=2, patch_size_t=1, text_embed_dim=WIDTH, pooled_projection_dim=8,
        rope_axes_dim=(2, 4, 4), **settings,
    )  # fmt: skip
    words = chat_tokenizer()
    processor = CLIPImageProcessor(size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24})
    more = {"transformer": randomise(net, 3), "tokenizer": words, "image_processor": processor}
    return HunyuanVideoImageToVideoPipeline(**{**parts, **more, "text_encoder": llava(words)})


def llava(words: PreTrainedTokenizerFast) -> Any:
    """Its pictures are 24 x 24 tokens, as many as the pipeline counts on."""
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    vision = {
        "model_type": "clip_vision_model", "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2,
        "num_attention_heads": 2, "image_size": 24, "patch_size": 1, "projection_dim": 8,
    }  # fmt: skip
    text = {
        "model_type": "llama", "vocab_size": 160, "hidden_size": WIDTH, "intermediate_size": 37, "num_hidden_layers": 3,
        "num_attention_heads": 4, "max_position_embeddings": 1024, "pad_token_id": 0, "bos_token_id": 1,
        "eos_token_id": 1,
    }  # fmt: skip
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=words.convert_tokens_to_ids("<image>"),
        pad_token_id=0, image_seq_length=576,
    )  # fmt: skip
    return randomise(LlavaForConditionalGeneration(config), 1)


def chat_tokenizer() -> PreTrainedTokenizerFast:
    """Words, letters and headers; two marks in front of the text put the picture's where the pipeline counts on it, at
    token 5."""
    vocabulary = ["<pad>", "<s>", "<unk>", *HEADERS, *WORDS, *(chr(i) for i in range(33, 127))]
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(dict.fromkeys(vocabulary))}, unk_token="<unk>"))
    made.normalizer = normalizers.Replace(Regex(r"\s+"), " ")
    # Some words of the template are two tokens, so that the prompt begins at token 103, as the pipeline counts on it.
    halves = pre_tokenizers.Split(Regex("relation|tran|Act"), "isolated")
    made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), halves])
    made.post_processor = processors.TemplateProcessing(single="<s> <s> $A", special_tokens=[("<s>", 1)])
    words = PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", eos_token="<s>", bos_token="<s>", unk_token="<unk>",
        model_max_length=4096, padding_side="right",
    )  # fmt: skip
    words.add_special_tokens({"additional_special_tokens": HEADERS})
    return words
