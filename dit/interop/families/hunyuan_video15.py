"""HunyuanVideo 1.5 (arXiv 2511.18870): diffusers' HunyuanVideo15Transformer3DModel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dit.interop.families.basic import embedding_links
from dit.interop.families.hunyuan_video import (
    GIVEN,
    axes_of,
    dual_links,
    name_of_qk_norm,
    qk_norm_group,
    refined_links,
)
from dit.interop.family import Call, Family, Network, Overrides, levels, take
from dit.interop.weights import Link, channels_first, convolution, linear, reordered_linear, swapped_halves
from dit.net.coordinates import AXES
from dit.net.patches import token_grid


class HunyuanVideo15(Family):
    """The image's latents and a mask are channels in every task; in text-to-video they are 0.

    `target_size` and `task_type` are for the pipeline, and no network shows them: what is exported has their defaults.
    """

    class_name = "HunyuanVideo15Transformer3DModel"
    preset = "hunyuan_video15_tiny"
    defaults = {
        "in_channels": 65,
        "out_channels": 32,
        "num_attention_heads": 16,
        "attention_head_dim": 128,
        "num_layers": 54,
        "num_refiner_layers": 2,
        "mlp_ratio": 4.0,
        "patch_size": 1,
        "patch_size_t": 1,
        "qk_norm": "rms_norm",
        "text_embed_dim": 3584,
        "text_embed_2_dim": 1472,
        "image_embed_dim": 1152,
        "rope_theta": 256.0,
        "rope_axes_dim": [16, 56, 56],
        "target_size": 640,
        "task_type": "i2v",
        "use_meanflow": False,
    }
    also = {"out_channels": (None,), "qk_norm": (None,)}
    depths = ("num_layers", "num_refiner_layers")

    def overrides(self, settings: Mapping[str, Any]) -> Overrides:
        s = settings
        width = s["num_attention_heads"] * s["attention_head_dim"]
        in_channels, out_channels, given = s["in_channels"], s["out_channels"] or s["in_channels"], {}
        if s["use_meanflow"]:
            raise ValueError("use_meanflow=True is not supported: the network would be told a second timestep")
        if in_channels == 2 * out_channels + 1:
            in_channels, given = out_channels, {GIVEN[0]: out_channels, GIVEN[1]: 1}
        values = {
            "concat_channels": {name: given.get(name) for name in GIVEN},
            "in_channels": in_channels,
            "out_channels": out_channels,
            "patch": [s["patch_size_t"], s["patch_size"], s["patch_size"]],
            "width": width,
            "heads": s["num_attention_heads"],
            "depth": s["num_layers"],
            "text_width": s["text_embed_dim"],
            "text.text.depth": s["num_refiner_layers"],
            "text.glyphs.features": s["text_embed_2_dim"],
            "text.image.features": s["image_embed_dim"],
            "mlp.ratio": int(width * s["mlp_ratio"]) / width,
            "position.theta": s["rope_theta"],
            "position.split": axes_of(s),
        }
        return Overrides(qk_norm_group(s), values)

    def config(self, net: Network) -> dict[str, Any]:
        block = net.blocks[0]
        return {
            **self.defaults,
            "in_channels": net.in_channels + sum(net.concat_channels.values()),
            "out_channels": net.out_channels,
            "num_attention_heads": net.heads,
            "attention_head_dim": net.width // net.heads,
            "num_layers": net.depth,
            "num_refiner_layers": len(net.text.text.blocks),
            "mlp_ratio": block.mlp.up.out_features / net.width,
            "patch_size": net.patch[1],
            "patch_size_t": net.patch[0],
            "qk_norm": name_of_qk_norm(block.attention.video),
            "text_embed_dim": net.text.text_width,
            "text_embed_2_dim": net.text.glyphs.first.in_features,
            "image_embed_dim": net.text.image.features,
            "rope_theta": net.position.theta,
            "rope_axes_dim": [2 * net.position.pairs[axis] for axis in AXES],
        }

    def links(self, net: Network) -> list[Link]:
        width, glyphs, image = net.width, "context_embedder_2", "image_embedder"
        channels = net.in_channels + sum(net.concat_channels.values())
        links = [
            *convolution("embed", "x_embedder.proj", (width, channels, *net.patch)),
            *embedding_links("level", "time_embed.timestep_embedder"),
            *refined_links("text.text", net.text.text),
            *linear("text.glyphs.norm", f"{glyphs}.norm"),
            *linear("text.glyphs.first", f"{glyphs}.linear_1"),
            *linear("text.glyphs.second", f"{glyphs}.linear_2"),
            *linear("text.glyphs.out", f"{glyphs}.linear_3"),
            *linear("text.image.norm_in", f"{image}.norm_in"),
            *linear("text.image.hidden", f"{image}.linear_1"),
            *linear("text.image.out", f"{image}.linear_2"),
            *linear("text.image.norm_out", f"{image}.norm_out"),
            Link(("text.kinds",), ("cond_type_embed.weight",)),
            *reordered_linear("final.modulation.1.linear", "norm_out.linear", swapped_halves(2 * width)),
            *reordered_linear("final.linear", "proj_out", channels_first(net.out_channels, net.patch)),
        ]
        for i, block in enumerate(net.blocks):
            links += dual_links(f"blocks.{i}", f"transformer_blocks.{i}", block)
        return links

    def call(self, net: Network, arguments: Mapping[str, Any]) -> Call:
        """An image of zeros says that there is none: the class masks its tokens then, and here they are left out."""
        names = ("hidden_states", "timestep", "encoder_hidden_states", "encoder_attention_mask")
        more = ("encoder_hidden_states_2", "encoder_attention_mask_2", "image_embeds")
        x, timestep, text, mask, glyphs, glyphs_mask, image = take(arguments, *names, *more)
        for name in (names[-1], *more):
            if arguments.get(name) is None:
                raise ValueError(f"{name} is missing")
        cond = {"text": text, "text_mask": mask.bool(), "glyphs": glyphs, "glyphs_mask": glyphs_mask.bool()}
        if bool(image.any()):
            cond["image"] = image
        if net.concat_channels:
            sizes = [net.in_channels, *net.concat_channels.values()]
            x, cond["given_latents"], cond["given"] = x.split(sizes, dim=1)
        return x, levels(timestep, net.level.scale, token_grid(net.patch, *x.shape[2:])), cond
