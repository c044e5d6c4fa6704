"""Latte (arXiv 2401.03048): diffusers' LatteTransformer3DModel, spatial and temporal blocks in turn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dit.interop.families.basic import (
    activation,
    attention_links,
    embedding_links,
    mlp_links,
    mlp_overrides,
    renamed,
)
from dit.interop.family import Call, Family, Network, Overrides, levels, take
from dit.interop.weights import Link, Same, convolution, linear
from dit.net.patches import token_grid


class Latte(Family):
    class_name = "LatteTransformer3DModel"
    preset = "latte_tiny"
    loads_lora = False
    defaults = {
        "num_attention_heads": 16,
        "attention_head_dim": 88,
        "in_channels": None,
        "out_channels": None,
        "num_layers": 1,
        "dropout": 0.0,
        "cross_attention_dim": None,
        "attention_bias": False,
        "sample_size": 64,
        "patch_size": None,
        "activation_fn": "geglu",
        "num_embeds_ada_norm": None,
        "norm_type": "layer_norm",
        "norm_elementwise_affine": True,
        "norm_eps": 1e-5,
        "caption_channels": None,
        "video_length": 16,
    }
    also = {
        "in_channels": (4,),
        "out_channels": (8,),
        "cross_attention_dim": (1152,),
        "patch_size": (2,),
        "num_embeds_ada_norm": (1000,),
        "caption_channels": (4096,),
    }

    def adopt(self, config: Mapping[str, Any]) -> dict[str, Any] | None:
        """LatteT2V is its name in the authors' repository."""
        if config.get("_class_name") not in (self.class_name, "LatteT2V"):
            return None
        return renamed(config, self.class_name, {"norm_num_groups": 32, "upcast_attention": False})

    def overrides(self, settings: Mapping[str, Any]) -> Overrides:
        s = settings
        width = s["num_attention_heads"] * s["attention_head_dim"]
        if s["norm_type"] != "ada_norm_single":
            raise ValueError(f"norm_type={s['norm_type']} is not supported: this network has ada_norm_single")
        if s["cross_attention_dim"] != width:
            raise ValueError(f"cross_attention_dim={s['cross_attention_dim']} is not supported; it must be {width}")
        for name in ("in_channels", "patch_size", "caption_channels"):
            if s[name] is None:
                raise ValueError(f"{name}=null: diffusers builds no {self.class_name} without it; set it")
        grid, scale = s["sample_size"] // s["patch_size"], float(max(1, s["sample_size"] // 64))
        mlp = mlp_overrides(s)
        values = {
            **mlp.values,
            "in_channels": s["in_channels"],
            "out_channels": s["out_channels"] or s["in_channels"],
            "patch": [1, s["patch_size"], s["patch_size"]],
            "width": width,
            "heads": s["num_attention_heads"],
            "depth": 2 * s["num_layers"],
            "text_width": s["caption_channels"],
            "attention.qkv_bias": s["attention_bias"],
            "text.attention.q_bias": s["attention_bias"],
            "text.attention.kv_bias": s["attention_bias"],
            "norm.eps": s["norm_eps"],
            "norm.affine": s["norm_elementwise_affine"],
            "position.reference": {"h": grid, "w": grid},
            "position.scale": {"f": 1.0, "h": scale, "w": scale},
            "templates.T.position.reference": {"f": s["video_length"]},
        }
        return Overrides(mlp.groups, values)

    def config(self, net: Network) -> dict[str, Any]:
        spatial, temporal = net.blocks[0], net.blocks[1]
        return {
            **self.defaults,
            "num_attention_heads": net.heads,
            "attention_head_dim": net.width // net.heads,
            "in_channels": net.in_channels,
            "out_channels": net.out_channels,
            "num_layers": net.depth // 2,
            "cross_attention_dim": net.width,
            "attention_bias": spatial.attention.qkv.bias is not None,
            "sample_size": sample_size(net.position.reference["h"] * net.patch[1], net.position.scale["h"]),
            "patch_size": net.patch[1],
            "activation_fn": activation(spatial.mlp),
            "num_embeds_ada_norm": 1000,  # as published; nothing reads it
            "norm_type": "ada_norm_single",
            "norm_elementwise_affine": spatial.norm1.elementwise_affine,
            "norm_eps": spatial.norm1.eps,
            "caption_channels": net.text.text_width,
            "video_length": temporal.position.reference["f"],
        }

    def links(self, net: Network) -> list[Link]:
        width = net.width
        links = [
            *convolution("embed", "pos_embed.proj", (width, net.in_channels, *net.patch[1:])),
            *embedding_links("level", "adaln_single.emb.timestep_embedder"),
            *linear("modulation.shared", "adaln_single.linear"),
            *embedding_links("text.embed", "caption_projection"),
            Link(("final.modulation.table",), ("scale_shift_table",), Same((2, width))),
            *linear("final.linear", "proj_out"),
        ]
        for i, block in enumerate(net.blocks):
            kind = "temporal_transformer_blocks" if i % 2 else "transformer_blocks"
            ours, theirs = f"blocks.{i}", f"{kind}.{i // 2}"
            links += [
                Link((f"{ours}.modulation.table",), (f"{theirs}.scale_shift_table",), Same((6, width))),
                *attention_links(ours, theirs, block),
                *mlp_links(f"{ours}.mlp", f"{theirs}.ff", block.mlp),
            ]
            if block.norm1.elementwise_affine:
                links += [*linear(f"{ours}.norm1", f"{theirs}.norm1"), *linear(f"{ours}.norm2", f"{theirs}.norm2")]
        return links

    def call(self, net: Network, arguments: Mapping[str, Any]) -> Call:
        if arguments.get("enable_temporal_attentions", True) is not True:
            raise ValueError("enable_temporal_attentions=False is not supported: the temporal blocks always run here")
        x, timestep, text, mask, _ = take(
            arguments,
            *("hidden_states", "timestep", "encoder_hidden_states", "encoder_attention_mask"),
            "enable_temporal_attentions",
        )
        trained = net.blocks[1].position.reference["f"]
        if x.shape[2] not in (1, trained):
            raise ValueError(f"hidden_states has {x.shape[2]} frames: {self.class_name} takes 1 or {trained} of them")
        cond = {"text": text}
        if mask is not None:
            cond["text_mask"] = text_mask(mask, x.shape[0], x.shape[2])
        return x, levels(timestep, net.level.scale, token_grid(net.patch, *x.shape[2:])), cond


def sample_size(tokens: int, scale: float) -> int:
    """A `sample_size` from which the class derives this scale. tokens: the least latents along a side."""
    return max(tokens, int(64 * scale)) if scale > 1 else tokens


def text_mask(mask: Tensor, batch: int, frames: int) -> Tensor:
    """encoder_attention_mask -> (B, L) bool.

    The class hands the mask to attention as it is, where the frames are samples of their own: it works for a row for
    each frame (B * F, L), those of a sample together. (B, L), which its docstring names, fails there for more than one
    frame and is taken here. Numbers would be added to the scores, not read as a mask: ValueError.
    """
    if mask.dtype != torch.bool or mask.dim() != 2 or mask.shape[0] not in (batch, batch * frames):
        raise ValueError(
            f"encoder_attention_mask is {mask.dtype} of shape {tuple(mask.shape)}; it must be bool, True = real token,"
            f" with {batch * frames} rows, one for each frame of each sample"
        )
    rows = mask.unflatten(0, (batch, -1))  # (B, 1 or F, L)
    if not torch.equal(rows, rows[:, :1].expand_as(rows)):
        raise ValueError("encoder_attention_mask differs between the frames of a sample; it must be the same for all")
    return rows[:, 0]
