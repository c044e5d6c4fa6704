"""Mochi 1 (Genmo 2024): diffusers' MochiTransformer3DModel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dit.config.pattern import short
from dit.interop.families.basic import embedding_links, mlp_links, qk_norm_links
from dit.interop.family import Call, Family, Network, Overrides, levels, take
from dit.interop.weights import Link, convolution, joined_linear, linear, reordered_linear, swapped_halves
from dit.net.patches import token_grid

POOL = "time_embed.pooler"


class Mochi(Family):
    """Time runs from noise at 0 to data at 1000 in this class, and its output is data - noise."""

    class_name = "MochiTransformer3DModel"
    preset = "mochi_tiny"
    defaults = {
        "patch_size": 2,
        "num_attention_heads": 24,
        "attention_head_dim": 128,
        "num_layers": 48,
        "pooled_projection_dim": 1536,
        "in_channels": 12,
        "out_channels": None,
        "qk_norm": "rms_norm",  # not read by the class
        "text_embed_dim": 4096,
        "time_embed_dim": 256,
        "activation_fn": "swiglu",
        "max_sequence_length": 256,  # not read by the class
    }
    also = {"out_channels": (12,)}

    def overrides(self, settings: Mapping[str, Any]) -> Overrides:
        s = settings
        if s["activation_fn"] != "swiglu":
            raise ValueError(f"activation_fn={s['activation_fn']} is not supported; swiglu is")
        width, text_width = s["num_attention_heads"] * s["attention_head_dim"], s["pooled_projection_dim"]
        values = {
            "in_channels": s["in_channels"],
            "out_channels": s["out_channels"] or s["in_channels"],
            "patch": [1, s["patch_size"], s["patch_size"]],
            "width": width,
            "heads": s["num_attention_heads"],
            "depth": s["num_layers"],
            "pattern": short("D" * (s["num_layers"] - 1) + "E"),
            "text_width": s["text_embed_dim"],
            "text.stream_width": text_width,
            "level.frequencies": s["time_embed_dim"],
            "mlp.ratio": hidden(width) / width,
            "templates.D.text_mlp.ratio": hidden(text_width) / text_width,
        }
        return Overrides({}, values)

    def config(self, net: Network) -> dict[str, Any]:
        return {
            **self.defaults,
            "patch_size": net.patch[1],
            "num_attention_heads": net.heads,
            "attention_head_dim": net.width // net.heads,
            "num_layers": net.depth,
            "pooled_projection_dim": net.text.stream_width,
            "in_channels": net.in_channels,
            "out_channels": None if net.out_channels == net.in_channels else net.out_channels,
            "text_embed_dim": net.text.text_width,
            "time_embed_dim": net.level.frequencies,
        }

    def links(self, net: Network) -> list[Link]:
        links = [
            *convolution("embed", "patch_embed.proj", (net.width, net.in_channels, *net.patch[1:])),
            Link(("position.frequencies",), ("pos_frequencies",)),
            *embedding_links("level", "time_embed.timestep_embedder"),
            *linear("text.embed", "time_embed.caption_proj"),
            *linear("text.pool.q", f"{POOL}.to_q"),
            *linear("text.pool.kv", f"{POOL}.to_kv"),
            *linear("text.pool.out", f"{POOL}.to_out"),
            *reordered_linear("final.modulation.1.linear", "norm_out.linear", swapped_halves(2 * net.width)),
            *linear("final.linear", "proj_out"),
        ]
        for i, block in enumerate(net.blocks):
            links += self.block_links(f"blocks.{i}", f"transformer_blocks.{i}", block)
        return links

    def block_links(self, ours: str, theirs: str, block: Any) -> list[Link]:
        attention, there = f"{ours}.attention", f"{theirs}.attn1"
        ends = block.text_mlp is None
        links = [
            *linear(f"{ours}.modulation.linear", f"{theirs}.norm1.linear"),
            *linear(f"{ours}.text_modulation.linear", f"{theirs}.norm1_context.linear{'_1' if ends else ''}"),
            *joined_linear(f"{attention}.video.qkv", [f"{there}.to_{x}" for x in "qkv"], bias=False),
            *joined_linear(f"{attention}.text.qkv", [f"{there}.add_{x}_proj" for x in "qkv"], bias=False),
            *qk_norm_links(f"{attention}.video", f"{there}.norm", block.attention.video),
            *qk_norm_links(f"{attention}.text", f"{there}.norm_added", block.attention.text),
            *linear(f"{attention}.out", f"{there}.to_out.0"),
            *mlp_links(f"{ours}.mlp", f"{theirs}.ff", block.mlp),
        ]
        if not ends:
            links += [
                *linear(f"{attention}.text_out", f"{there}.to_add_out"),
                *mlp_links(f"{ours}.text_mlp", f"{theirs}.ff_context", block.text_mlp),
            ]
        return links

    def call(self, net: Network, arguments: Mapping[str, Any]) -> Call:
        x, timestep, text, mask = take(
            arguments, "hidden_states", "timestep", "encoder_hidden_states", "encoder_attention_mask"
        )
        if mask is None:
            raise ValueError("encoder_attention_mask is missing")
        real = mask.bool()
        if (real[:, 1:] & ~real[:, :-1]).any():
            raise ValueError("encoder_attention_mask must hold the real tokens first, the padding behind them")
        t = 1 - levels(timestep, net.level.scale, token_grid(net.patch, *x.shape[2:]))
        return x, t, {"text": text, "text_mask": real}


def hidden(width: int) -> int:
    """Hidden width of the class's SwiGLU."""
    return 4 * width * 2 // 3
