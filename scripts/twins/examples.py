"""Random arguments for diffusers' classes: what tests and benchmarks call a class and our network with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor

from dit.interop.families.wan import BESIDE_IMAGE
from dit.interop.family import Family

Arguments: TypeAlias = dict[str, Any]
Settings: TypeAlias = Mapping[str, Any]  # of the class's constructor
Size: TypeAlias = tuple[int, int, int]  # latents along (frames, height, width)


@dataclass(frozen=True)
class Draw:
    """Random tensors of one dtype and device, from one generator (which lives on the CPU)."""

    generator: torch.Generator
    dtype: torch.dtype
    device: str = "cpu"

    def normal(self, *shape: int) -> Tensor:
        """Normal values."""
        return self._place(torch.randn(*shape, generator=self.generator, dtype=torch.float64))

    def timesteps(self, *shape: int) -> Tensor:
        """Whole timesteps in [0, 1000), as floating-point numbers."""
        return self._place(torch.randint(1000, shape, generator=self.generator))

    def classes(self, count: int, *shape: int) -> Tensor:
        """Whole numbers in [0, count), int64."""
        return torch.randint(count, shape, generator=self.generator).to(self.device)

    def mask(self, batch: int, tokens: int) -> Tensor:
        """(batch, tokens) bool, the real tokens: the first sample has all, each other two fewer than the one before."""
        lengths = torch.tensor([max(1, tokens - 2 * i) for i in range(batch)])
        return (torch.arange(tokens) < lengths[:, None]).to(self.device)

    def _place(self, values: Tensor) -> Tensor:
        return values.to(self.device, self.dtype)


class Example(Protocol):
    """Makes the arguments of one class."""

    def __call__(self, s: Settings, batch: int, size: Size, text_tokens: int, draw: Draw) -> Arguments: ...


def example(family: Family, settings: Settings, batch: int, size: Size, text_tokens: int, draw: Draw) -> Arguments:
    """Random arguments of the class's `forward`: every one that the class reads under these settings.

    text_tokens: of the longest text; the others are shorter where the class takes a padding mask. A class that takes
    one size alone, of the picture or the text, gets that one.
    """
    return OF_CLASS[family.class_name](settings, batch, size, text_tokens, draw)


def wan(s: Settings, batch: int, size: Size, text_tokens: int, draw: Draw) -> Arguments:
    arguments = {
        "hidden_states": draw.normal(batch, s["in_channels"], *size),
        "timestep": draw.timesteps(batch),
        "encoder_hidden_states": draw.normal(batch, text_tokens, s["text_dim"]),
    }
    if s["image_dim"] is not None:
        arguments["encoder_hidden_states"] = draw.normal(batch, BESIDE_IMAGE, s["text_dim"])
        positions = s["pos_embed_seq_len"]  # of two images a sample
        images, tokens = (batch, 257) if positions is None else (2 * batch, positions // 2)
        arguments["encoder_hidden_states_image"] = draw.normal(images, tokens, s["image_dim"])
    return arguments


def skyreels_v2(s: Settings, batch: int, size: Size, text_tokens: int, draw: Draw) -> Arguments:
    arguments = wan(s, batch, size, text_tokens, draw)
    if s["inject_sample_info"]:
        arguments["fps"] = [i % 2 for i in range(batch)]
    return arguments


def ltx_video(s: Settings, batch: int, size: Size, text_tokens: int, draw: Draw) -> Arguments:
    frames, height, width = size[0] // s["patch_size_t"], size[1] // s["patch_size"], size[2] // s["patch_size"]
    return {
        "hidden_states": draw.normal(batch, frames * height * width, s["in_channels"]),
        "encoder_hidden_states": draw.normal(batch, text_tokens, s["caption_channels"]),
        "timestep": draw.timesteps(batch),
        "encoder_attention_mask": draw.mask(batch, text_tokens),
        "num_frames": frames,
        "height": height,
        "width": width,
        "rope_interpolation_scale": (8 / 25, 32.0, 32.0),
    }


def dit(s: Settings, batch: int, size: Size, text_tokens: int, draw: Draw) -> Arguments:
    """Images of size[1] by size[1]: the class takes nothing but squares."""
    return {
        "hidden_states": draw.normal(batch, s["in_channels"], size[1], size[1]),
        "timestep": draw.timesteps(batch),
        "class_labels": draw.classes(s["num_embeds_ada_norm"] + 1, batch),
    }


def latte(s: Settings, batch: int, size: Size, text_tokens: int, draw: Draw) -> Arguments:
    """As many frames as the class was made for, whatever `size` says: it takes no other number."""
    frames = s["video_length"]
    return {
        "hidden_states": draw.normal(batch, s["in_channels"], frames, *size[1:]),
        "timestep": draw.timesteps(batch),
        "encoder_hidden_states": draw.normal(batch, text_tokens, s["caption_channels"]),
        "encoder_attention_mask": draw.mask(batch, text_tokens).repeat_interleave(frames, dim=0),
    }


def cosmos(s: Settings, batch: int, size: Size, text_tokens: int, draw: Draw) -> Arguments:
    marks = max(0, s["in_channels"] - s["out_channels"])
    channels = s["crossattn_proj_in_channels"] if s["use_crossattn_projection"] else s["text_embed_dim"]
    text = draw.normal(batch, text_tokens, channels)
    arguments: Arguments = {
        "hidden_states": draw.normal(batch, s["in_channels"] - marks, *size),
        "timestep": draw.timesteps(batch),
        "encoder_hidden_states": text,
        "fps": 30,
    }
    if s["img_context_dim_in"]:
        # Beside an image the class has no mask of the text that works.
        arguments["encoder_hidden_states"] = (text, draw.normal(batch, 5, s["img_context_dim_in"]))
    else:
        arguments["attention_mask"] = draw.mask(batch, text_tokens)
    if marks:
        arguments["condition_mask"] = draw.normal(batch, marks, *size)
    if s["concat_padding_mask"]:
        arguments["padding_mask"] = draw.normal(1, 1, 8 * size[1], 8 * size[2])  # of pixels
    return arguments


def cogvideox(s: Settings, batch: int, size: Size, text_tokens: int, draw: Draw) -> Arguments:
    """With sincos and learned positions the class takes texts of `max_text_seq_length` alone."""
    rotary = s["use_rotary_positional_embeddings"]
    tokens = text_tokens if rotary and not s["use_learned_positional_embeddings"] else s["max_text_seq_length"]
    arguments: Arguments = {
        "hidden_states": draw.normal(batch, size[0], s["in_channels"], *size[1:]),
        "timestep": draw.timesteps(batch),
        "encoder_hidden_states": draw.normal(batch, tokens, s["text_embed_dim"]),
    }
    if s["ofs_embed_dim"] is not None:
        arguments["ofs"] = 2 + draw.normal(batch)
    if rotary:
        arguments["image_rotary_emb"] = cogvideox_rotation(s, size, draw.device)
    return arguments


def cogvideox_rotation(s: Settings, size: Sequence[int], device: str) -> tuple[Tensor, Tensor]:
    """As the pipelines of diffusers make it, for latents of a size.

    In float32, which in a float64 network parts the outputs by some 1e-8: ours computes its own in its own precision.
    """
    from diffusers.models.embeddings import get_3d_rotary_pos_embed
    from diffusers.pipelines.cogvideo.pipeline_cogvideox import get_resize_crop_region_for_grid

    p, dim = s["patch_size"], s["attention_head_dim"]
    grid, picture = (size[1] // p, size[2] // p), (s["sample_height"] // p, s["sample_width"] // p)
    if s["patch_size_t"] is None:
        crop = get_resize_crop_region_for_grid(grid, picture[1], picture[0])
        return get_3d_rotary_pos_embed(dim, crop, grid, size[0], device=device)
    frames = size[0] // s["patch_size_t"]
    return get_3d_rotary_pos_embed(dim, None, grid, frames, grid_type="slice", max_size=picture, device=device)


def allegro(s: Settings, batch: int, size: Size, text_tokens: int, draw: Draw) -> Arguments:
    return {
        "hidden_states": draw.normal(batch, s["in_channels"], *size),
        "timestep": draw.timesteps(batch),
        "encoder_hidden_states": draw.normal(batch, text_tokens, s["caption_channels"]),
        "encoder_attention_mask": draw.mask(batch, text_tokens),
        "image_rotary_emb": allegro_rotation(s, size, draw.device),
    }


def allegro_rotation(s: Settings, size: Sequence[int], device: str) -> tuple[Any, Sequence[Tensor]]:
    """As the pipeline of diffusers makes it, for latents of a size: tables of the axes, and where the tokens are."""
    from diffusers.models.embeddings import get_3d_rotary_pos_embed_allegro

    frames, height, width = size[0], size[1] // s["patch_size"], size[2] // s["patch_size"]
    scale = tuple(s[f"interpolation_scale_{axis}"] for axis in "thw")
    *tables, t, h, w = get_3d_rotary_pos_embed_allegro(
        s["attention_head_dim"], ((0, 0), (height, width)), (height, width), frames, scale, device=device
    )
    places = torch.cartesian_prod(t.long(), h.long(), w.long())  # (N, 3)
    return tables, places.T[:, None].contiguous().unbind()


def hunyuan_video(s: Settings, batch: int, size: Size, text_tokens: int, draw: Draw) -> Arguments:
    arguments = {
        "hidden_states": draw.normal(batch, s["in_channels"], *size),
        "timestep": draw.timesteps(batch),
        "encoder_hidden_states": draw.normal(batch, text_tokens, s["text_embed_dim"]),
        "encoder_attention_mask": draw.mask(batch, text_tokens),
        "pooled_projections": draw.normal(batch, s["pooled_projection_dim"]),
    }
    if s["guidance_embeds"]:
        arguments["guidance"] = 1000 + draw.timesteps(batch)  # scales of 1 to 2
    return arguments


def hunyuan_video15(s: Settings, batch: int, size: Size, text_tokens: int, draw: Draw) -> Arguments:
    """With an image, whose tokens the class masks for the whole batch where all of it is 0."""
    return {
        "hidden_states": draw.normal(batch, s["in_channels"], *size),
        "timestep": draw.timesteps(batch),
        "encoder_hidden_states": draw.normal(batch, text_tokens, s["text_embed_dim"]),
        "encoder_attention_mask": draw.mask(batch, text_tokens),
        "encoder_hidden_states_2": draw.normal(batch, text_tokens - 2, s["text_embed_2_dim"]),
        "encoder_attention_mask_2": draw.mask(batch, text_tokens - 2),
        "image_embeds": draw.normal(batch, 3, s["image_embed_dim"]),
    }


def kandinsky5(s: Settings, batch: int, size: Size, text_tokens: int, draw: Draw) -> Arguments:
    channels = s["in_visual_dim"] + (s["in_visual_dim"] + 1 if s["visual_cond"] else 0)
    grid = [length // step for length, step in zip(size, s["patch_size"], strict=True)]
    return {
        "hidden_states": draw.normal(batch, *size, channels),
        "timestep": draw.timesteps(batch),
        "encoder_hidden_states": draw.normal(batch, text_tokens, s["in_text_dim"]),
        "pooled_projections": draw.normal(batch, s["in_text_dim2"]),
        "visual_rope_pos": [torch.arange(length, device=draw.device) for length in grid],
        "text_rope_pos": torch.arange(text_tokens, device=draw.device),
        "scale_factor": (1.0, 2.0, 3.16),
    }


def mochi(s: Settings, batch: int, size: Size, text_tokens: int, draw: Draw) -> Arguments:
    return {
        "hidden_states": draw.normal(batch, s["in_channels"], *size),
        "timestep": draw.timesteps(batch),
        "encoder_hidden_states": draw.normal(batch, text_tokens, s["text_embed_dim"]),
        "encoder_attention_mask": draw.mask(batch, text_tokens),
    }


OF_CLASS: Mapping[str, Example] = {
    "WanTransformer3DModel": wan,
    "SkyReelsV2Transformer3DModel": skyreels_v2,
    "LTXVideoTransformer3DModel": ltx_video,
    "DiTTransformer2DModel": dit,
    "LatteTransformer3DModel": latte,
    "CosmosTransformer3DModel": cosmos,
    "CogVideoXTransformer3DModel": cogvideox,
    "AllegroTransformer3DModel": allegro,
    "HunyuanVideoTransformer3DModel": hunyuan_video,
    "HunyuanVideo15Transformer3DModel": hunyuan_video15,
    "Kandinsky5Transformer3DModel": kandinsky5,
    "MochiTransformer3DModel": mochi,
}
