"""Wan 2.1 and 2.2 (arXiv 2503.20314): diffusers' WanTransformer3DModel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dit.interop.families.basic import attention_links, embedding_links, mlp_links
from dit.interop.family import Call, Family, Network, Overrides, levels, take
from dit.interop.weights import Link, Same, convolution, joined_linear, linear
from dit.net.attention import AcrossHeads, ImageCrossAttention
from dit.net.embed import ImageTokens
from dit.net.patches import token_grid

# Channels of the input behind the noisy latents of an image-to-video model, in this order: which pixel frames of each
# latent frame are given, and the latents of the given frames.
GIVEN = ("given_frames", "given_latents")
FRAMES = 4  # of pixels in a latent frame, in all of the codecs
APART = "_given_apart"  # False: one input holds all channels, as presets of an earlier version had it
BESIDE_IMAGE = 512  # tokens of text: the class takes the last 512 for text where there is an image


class Wan(Family):
    class_name = "WanTransformer3DModel"
    preset = "wan21_tiny"
    inferred = {APART: True}
    defaults = {
        "patch_size": [1, 2, 2],
        "num_attention_heads": 40,
        "attention_head_dim": 128,
        "in_channels": 16,
        "out_channels": 16,
        "text_dim": 4096,
        "freq_dim": 256,
        "ffn_dim": 13824,
        "num_layers": 40,
        "cross_attn_norm": True,
        "qk_norm": "rms_norm_across_heads",
        "eps": 1e-6,
        "image_dim": None,
        "added_kv_proj_dim": None,
        "rope_max_seq_len": 1024,
        "pos_embed_seq_len": None,
    }
    also = {
        "out_channels": (None,),
        "qk_norm": (None,),
        "image_dim": (1280,),
        "added_kv_proj_dim": (5120,),
        "pos_embed_seq_len": (514,),
    }

    def overrides(self, settings: Mapping[str, Any]) -> Overrides:
        s = settings
        width = s["num_attention_heads"] * s["attention_head_dim"]
        if s["added_kv_proj_dim"] != (None if s["image_dim"] is None else width):
            raise ValueError(
                f"added_kv_proj_dim={s['added_kv_proj_dim']} must be the width {width}, with image_dim set"
            )
        groups = {} if s["cross_attn_norm"] else {"text": "cross_plain"}
        text: dict[str, Any] = {"text.attention.norm.eps": s["eps"]} if s["cross_attn_norm"] else {}
        if s["image_dim"] is not None:
            groups = {"text": "cross_image" if s["cross_attn_norm"] else "cross_image_plain"}
            text |= {
                "text.image.features": s["image_dim"],
                "text.image.positions": s["pos_embed_seq_len"],
                "text.attention.image_norm.eps": s["eps"],
            }
        in_channels, out_channels = s["in_channels"], s["out_channels"] or s["in_channels"]
        given = {}
        if s[APART] and in_channels == 2 * out_channels + FRAMES:
            in_channels = out_channels
            given = {"concat_channels": {GIVEN[0]: FRAMES, GIVEN[1]: out_channels}}
        values = {
            **text,
            **given,
            "in_channels": in_channels,
            "out_channels": out_channels,
            "patch": list(s["patch_size"]),
            "width": width,
            "heads": s["num_attention_heads"],
            "depth": s["num_layers"],
            "text_width": s["text_dim"],
            "level.frequencies": s["freq_dim"],
            "mlp.ratio": s["ffn_dim"] / width,
            "norm.eps": s["eps"],
            "final.norm.eps": s["eps"],
            "qk_norm.norm.eps": s["eps"],
        }
        return Overrides(groups, values)

    def config(self, net: Network) -> dict[str, Any]:
        block = net.blocks[0]
        attention = block.cross_attention
        image = net.text.image if isinstance(net.text.image, ImageTokens) else None
        return {
            **self.defaults,
            "patch_size": list(net.patch),
            "num_attention_heads": net.heads,
            "attention_head_dim": net.width // net.heads,
            "in_channels": net.in_channels + sum(net.concat_channels.values()),
            APART: tuple(net.concat_channels) == GIVEN,
            "out_channels": net.out_channels,
            "text_dim": net.text.text_width,
            "freq_dim": net.level.frequencies,
            "ffn_dim": block.mlp.up.out_features,
            "num_layers": net.depth,
            "cross_attn_norm": bool(list(attention.norm.parameters())),
            "qk_norm": "rms_norm_across_heads" if isinstance(block.attention.norm_q, AcrossHeads) else None,
            "eps": block.norm1.eps,
            "image_dim": None if image is None else image.features,
            "added_kv_proj_dim": None if image is None else net.width,
            "pos_embed_seq_len": None if image is None or image.table is None else image.table.shape[1],
        }

    def links(self, net: Network) -> list[Link]:
        width, condition = net.width, "condition_embedder"
        channels = net.in_channels + sum(net.concat_channels.values())
        links = [
            *convolution("embed", "patch_embedding", (width, channels, *net.patch)),
            *embedding_links("level", f"{condition}.time_embedder"),
            *linear("modulation.shared", f"{condition}.time_proj"),
            *embedding_links("text.embed", f"{condition}.text_embedder"),
            Link(("final.modulation.table",), ("scale_shift_table",), Same((1, 2, width))),
            *linear("final.linear", "proj_out"),
        ]
        if isinstance(net.text.image, ImageTokens):
            there = f"{condition}.image_embedder"
            links += [
                *linear("text.image.norm_in", f"{there}.norm1"),
                *linear("text.image.hidden", f"{there}.ff.net.0.proj"),
                *linear("text.image.out", f"{there}.ff.net.2"),
                *linear("text.image.norm_out", f"{there}.norm2"),
            ]
            if net.text.image.table is not None:
                links += [Link(("text.image.table",), (f"{there}.pos_embed",))]
        for i, block in enumerate(net.blocks):
            links += self.block_links(f"blocks.{i}", width, block)
        return links

    def block_links(self, name: str, width: int, block: Any) -> list[Link]:
        """Both layouts call the blocks by the same name."""
        cross = f"{name}.cross_attention"
        links = [
            Link((f"{name}.modulation.table",), (f"{name}.scale_shift_table",), Same((1, 6, width))),
            *attention_links(name, name, block),
            *mlp_links(f"{name}.mlp", f"{name}.ffn", block.mlp),
        ]
        if list(block.cross_attention.norm.parameters()):
            links += linear(f"{cross}.norm", f"{name}.norm2")
        if isinstance(block.cross_attention, ImageCrossAttention):
            links += [
                *joined_linear(f"{cross}.image_kv", [f"{name}.attn2.add_{x}_proj" for x in "kv"]),
                *linear(f"{cross}.norm_image", f"{name}.attn2.norm_added_k", bias=False),
            ]
        return links

    def call(self, net: Network, arguments: Mapping[str, Any]) -> Call:
        x, timestep, text, image = take(
            arguments, "hidden_states", "timestep", "encoder_hidden_states", "encoder_hidden_states_image"
        )
        if image is not None and text.shape[1] != BESIDE_IMAGE:
            raise ValueError(
                f"encoder_hidden_states has {text.shape[1]} tokens; beside an image it must have {BESIDE_IMAGE}, which"
                f" {self.class_name} counts back from the end"
            )
        cond = {"text": text} if image is None else {"text": text, "image": image}
        if net.concat_channels:
            x, *given = x.split([net.in_channels, *net.concat_channels.values()], dim=1)
            cond |= dict(zip(net.concat_channels, given, strict=True))
        return x, levels(timestep, net.level.scale, token_grid(net.patch, *x.shape[2:])), cond
