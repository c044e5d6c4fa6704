"""Allegro (arXiv 2410.15458): diffusers' AllegroTransformer3DModel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dit.interop.families.basic import attention_links, embedding_links, mlp_links, renamed
from dit.interop.family import Call, Family, Network, Overrides, attended, levels, take
from dit.interop.rotations import check_rotation
from dit.interop.weights import Link, convolution, linear
from dit.net.patches import token_grid

ACTIVATIONS = {"gelu-approximate": "gelu_tanh", "gelu": "gelu"}
AXES = {"f": "t", "h": "h", "w": "w"}  # ours: theirs
# Settings that the authors' class has and diffusers' has not; at these values both compute the same.
LEFTOVERS = {
    "downsampler": None,
    "norm_type": "ada_norm_single",
    "upcast_attention": False,
    "use_additional_conditions": None,
    "use_rope": True,
}
# More of them, which change nothing: of kernels, the text encoder and the number of steps.
ELSEWHERE = ("ca_attention_mode", "sa_attention_mode", "model_max_length", "num_embeds_ada_norm")


class Allegro(Family):
    class_name = "AllegroTransformer3DModel"
    preset = "allegro_tiny"
    loads_lora = False
    defaults = {
        "patch_size": 2,
        "patch_size_t": 1,
        "num_attention_heads": 24,
        "attention_head_dim": 96,
        "in_channels": 4,
        "out_channels": 4,
        "num_layers": 32,
        "dropout": 0.0,
        "cross_attention_dim": 2304,
        "attention_bias": True,
        "sample_height": 90,
        "sample_width": 160,
        "sample_frames": 22,
        "activation_fn": "gelu-approximate",
        "norm_elementwise_affine": False,
        "norm_eps": 1e-6,
        "caption_channels": 4096,
        "interpolation_scale_h": 2.0,
        "interpolation_scale_w": 2.0,
        "interpolation_scale_t": 2.2,
    }
    also = {"cross_attention_dim": (None,)}

    def adopt(self, config: Mapping[str, Any]) -> dict[str, Any] | None:
        """The published folder has settings of the authors' class: `sample_size` for height and width, kernels, ..."""
        if config.get("_class_name") != self.class_name:
            return None
        known = renamed(config, self.class_name, LEFTOVERS)
        today = {key: value for key, value in known.items() if key not in ELSEWHERE}
        if isinstance(today.get("sample_size"), list) and len(today["sample_size"]) == 2:
            today["sample_height"], today["sample_width"] = today.pop("sample_size")
        if "sample_size_t" in today:
            today["sample_frames"] = today.pop("sample_size_t")
        return today

    def overrides(self, settings: Mapping[str, Any]) -> Overrides:
        s = settings
        check(s)
        values = {
            "in_channels": s["in_channels"],
            "out_channels": s["out_channels"],
            "patch": [1, s["patch_size"], s["patch_size"]],
            "width": s["num_attention_heads"] * s["attention_head_dim"],
            "heads": s["num_attention_heads"],
            "depth": s["num_layers"],
            "text_width": s["caption_channels"],
            "position.coordinates.divide": {axis: s[f"interpolation_scale_{name}"] for axis, name in AXES.items()},
            "norm.eps": s["norm_eps"],
            "attention.qkv_bias": s["attention_bias"],
            "text.attention.q_bias": s["attention_bias"],
            "text.attention.kv_bias": s["attention_bias"],
        }
        return Overrides({"mlp": ACTIVATIONS[s["activation_fn"]]}, values)

    def config(self, net: Network) -> dict[str, Any]:
        block = net.blocks[0]
        return {
            **self.defaults,
            "patch_size": net.patch[1],
            "num_attention_heads": net.heads,
            "attention_head_dim": net.width // net.heads,
            "in_channels": net.in_channels,
            "out_channels": net.out_channels,
            "num_layers": net.depth,
            "cross_attention_dim": net.width,
            "attention_bias": block.attention.qkv.bias is not None,
            "activation_fn": "gelu" if block.mlp.approximate == "none" else "gelu-approximate",
            "norm_eps": block.norm1.eps,
            "caption_channels": net.text.text_width,
            **{f"interpolation_scale_{name}": net.position.coordinates.divide[axis] for axis, name in AXES.items()},
        }

    def links(self, net: Network) -> list[Link]:
        links = [
            *convolution("embed", "pos_embed.proj", (net.width, net.in_channels, *net.patch[1:])),
            *embedding_links("level", "adaln_single.emb.timestep_embedder"),
            *linear("modulation.shared", "adaln_single.linear"),
            *embedding_links("text.embed", "caption_projection"),
            Link(("final.modulation.table",), ("scale_shift_table",)),
            *linear("final.linear", "proj_out"),
        ]
        for i, block in enumerate(net.blocks):
            ours, theirs = f"blocks.{i}", f"transformer_blocks.{i}"
            links += [
                Link((f"{ours}.modulation.table",), (f"{theirs}.scale_shift_table",)),
                *attention_links(ours, theirs, block),
                *mlp_links(f"{ours}.mlp", f"{theirs}.ff", block.mlp),
            ]
        return links

    def call(self, net: Network, arguments: Mapping[str, Any]) -> Call:
        names = ("hidden_states", "encoder_hidden_states", "timestep", "attention_mask", "encoder_attention_mask")
        x, text, timestep, video_mask, mask, rotary = take(arguments, *names, "image_rotary_emb")
        if video_mask is not None and not bool(video_mask.bool().all()):
            raise ValueError("attention_mask is not supported where it leaves out places of the video; pass none")
        if mask is not None and mask.dim() != 2:
            raise ValueError(f"encoder_attention_mask has the shape {tuple(mask.shape)}; it must be (batch, tokens)")
        check_rotation(net, x, None if rotary is None else spread_embedding(*rotary))
        cond = {"text": text.flatten(1, -2)}  # the pipeline gives (B, 1, L, caption_channels)
        if mask is not None:
            cond["text_mask"] = attended(mask)
        return x, levels(timestep, net.level.scale, token_grid(net.patch, *x.shape[2:])), cond


def check(s: Mapping[str, Any]) -> None:
    """Raises ValueError for settings that no part of ours computes."""
    width = s["num_attention_heads"] * s["attention_head_dim"]
    if s["activation_fn"] not in ACTIVATIONS:
        raise ValueError(f"activation_fn={s['activation_fn']} is not supported; there are {', '.join(ACTIVATIONS)}")
    if s["norm_elementwise_affine"]:
        raise ValueError("norm_elementwise_affine=True is not supported: the class has weights then that it never uses")
    if s["patch_size_t"] != 1:
        raise ValueError(f"patch_size_t={s['patch_size_t']} is not supported; 1 is: the class embeds frame by frame")
    if s["dropout"]:
        raise ValueError(f"dropout={s['dropout']} is not supported; 0.0 is")
    if s["cross_attention_dim"] not in (None, width):
        raise ValueError(f"cross_attention_dim={s['cross_attention_dim']} must be the width {width}")
    if s["attention_head_dim"] % 6:
        raise ValueError(f"attention_head_dim={s['attention_head_dim']} must be a multiple of 6 for three rotations")


Tables = Sequence[tuple[Tensor, Tensor]]  # cos and sin (length, head_dim / 3) of each axis


def spread_embedding(tables: Tables, places: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Tables of the axes and places of the tokens -> cos and sin (N, head_dim) of the tokens."""
    found = [(cos[where[0]], sin[where[0]]) for (cos, sin), where in zip(tables, places, strict=True)]
    cos, sin = zip(*found, strict=True)
    return torch.cat(cos, dim=-1), torch.cat(sin, dim=-1)
