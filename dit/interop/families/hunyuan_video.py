"""HunyuanVideo (arXiv 2412.03603): diffusers' HunyuanVideoTransformer3DModel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dit.config.pattern import short
from dit.interop.families.basic import embedding_links, mlp_links, qk_norm_links
from dit.interop.family import Call, Family, Network, Overrides, levels, take
from dit.interop.weights import (
    Link,
    Split,
    channels_first,
    convolution,
    joined_linear,
    linear,
    reordered_linear,
    swapped_halves,
)
from dit.net.attention import NoQKNorm
from dit.net.blocks import Parallel
from dit.net.coordinates import AXES
from dit.net.dual import Dual
from dit.net.layers import RMSNorm
from dit.net.patches import token_grid

QK_NORMS = {"rms_norm": "rms", "layer_norm": "layernorm", None: "none"}
TOKEN_REPLACE, LATENT_CONCAT = "token_replace", "latent_concat"
# Channels of the input behind the noisy latents, with latent_concat: the image's latents in the first frame and zeros
# in the others; 1 in the first frame and 0 in the others.
GIVEN = ("given_latents", "given")


class HunyuanVideo(Family):
    """With image_condition_type=token_replace, `timestep` is that of all frames but the first, which has 0.

    For a text of padding alone the class gives NaN, the mean of no tokens; ours takes it as no text (`RefinedText`).
    """

    class_name = "HunyuanVideoTransformer3DModel"
    preset = "hunyuan_video_tiny"
    defaults = {
        "in_channels": 16,
        "out_channels": 16,
        "num_attention_heads": 24,
        "attention_head_dim": 128,
        "num_layers": 20,
        "num_single_layers": 40,
        "num_refiner_layers": 2,
        "mlp_ratio": 4.0,
        "patch_size": 2,
        "patch_size_t": 1,
        "qk_norm": "rms_norm",
        "guidance_embeds": True,
        "text_embed_dim": 4096,
        "pooled_projection_dim": 768,
        "rope_theta": 256.0,
        "rope_axes_dim": [16, 56, 56],
        "image_condition_type": None,
    }
    also = {"out_channels": (None,), "qk_norm": (None,), "image_condition_type": (TOKEN_REPLACE,)}
    depths = ("num_layers", "num_single_layers", "num_refiner_layers")

    def overrides(self, settings: Mapping[str, Any]) -> Overrides:
        s = settings
        width = s["num_attention_heads"] * s["attention_head_dim"]
        in_channels, out_channels = s["in_channels"], s["out_channels"] or s["in_channels"]
        image = s["image_condition_type"]
        if image not in (None, TOKEN_REPLACE, LATENT_CONCAT):
            raise ValueError(
                f"image_condition_type={image} is not known; there are None, {TOKEN_REPLACE} and {LATENT_CONCAT}"
            )
        concat = {}
        if image == LATENT_CONCAT:
            given = in_channels - out_channels - 1
            if given < 1:
                raise ValueError(
                    f"in_channels={in_channels} has no room for the image's latents and a mask behind"
                    f" out_channels={out_channels}, which {LATENT_CONCAT} needs"
                )
            in_channels = out_channels
            concat = {"concat_channels": {GIVEN[0]: given, GIVEN[1]: 1}}
        groups = qk_norm_group(s)
        if image == TOKEN_REPLACE:
            groups |= {"text": "refined_last_frame", "final": "adaln_last_frame"}
        if not s["guidance_embeds"]:
            groups["guidance"] = "none"
        elif image == TOKEN_REPLACE:
            groups["guidance"] = "noisy_frames"
        values = {
            **concat,
            "in_channels": in_channels,
            "out_channels": out_channels,
            "patch": [s["patch_size_t"], s["patch_size"], s["patch_size"]],
            "width": width,
            "heads": s["num_attention_heads"],
            "depth": s["num_layers"] + s["num_single_layers"],
            "pattern": short("D" * s["num_layers"] + "P" * s["num_single_layers"]),
            "text_width": s["text_embed_dim"],
            "text.depth": s["num_refiner_layers"],
            "vectors.pooled.features": s["pooled_projection_dim"],
            "mlp.ratio": int(width * s["mlp_ratio"]) / width,
            "position.theta": s["rope_theta"],
            "position.split": axes_of(s),
        }
        return Overrides(groups, values)

    def config(self, net: Network) -> dict[str, Any]:
        block: Any = net.blocks[0]
        heads: Any = block.attention.video if isinstance(block, Dual) else block.attention
        image = LATENT_CONCAT if tuple(net.concat_channels) == GIVEN else None
        return {
            "in_channels": net.in_channels + sum(net.concat_channels.values()),
            "out_channels": net.out_channels,
            "num_attention_heads": net.heads,
            "attention_head_dim": net.width // net.heads,
            "num_layers": sum(isinstance(block, Dual) for block in net.blocks),
            "num_single_layers": sum(isinstance(block, Parallel) for block in net.blocks),
            "num_refiner_layers": len(net.text.blocks),
            "mlp_ratio": block.mlp.up.out_features / net.width,
            "patch_size": net.patch[1],
            "patch_size_t": net.patch[0],
            "qk_norm": name_of_qk_norm(heads),
            "guidance_embeds": "guidance" in net.vectors,
            "text_embed_dim": net.text.text_width,
            "pooled_projection_dim": net.vectors["pooled"].hidden.in_features,
            "rope_theta": net.position.theta,
            "rope_axes_dim": [2 * net.position.pairs[axis] for axis in AXES],
            "image_condition_type": TOKEN_REPLACE if net.final.level is not None else image,
        }

    def links(self, net: Network) -> list[Link]:
        width, there = net.width, "time_text_embed"
        channels = net.in_channels + sum(net.concat_channels.values())
        links = [
            *convolution("embed", "x_embedder.proj", (width, channels, *net.patch)),
            *embedding_links("level", f"{there}.timestep_embedder"),
            *embedding_links("vectors.pooled", f"{there}.text_embedder"),
            *refined_links("text", net.text),
            *reordered_linear("final.modulation.1.linear", "norm_out.linear", swapped_halves(2 * width)),
            *reordered_linear("final.linear", "proj_out", channels_first(net.out_channels, net.patch)),
        ]
        if "guidance" in net.vectors:
            links += embedding_links("vectors.guidance", f"{there}.guidance_embedder")
        duals = 0
        for i, block in enumerate(net.blocks):
            if isinstance(block, Dual):
                links += dual_links(f"blocks.{i}", f"transformer_blocks.{i}", block)
                duals += 1
            else:
                links += single_links(f"blocks.{i}", f"single_transformer_blocks.{i - duals}", block)
        return links

    def call(self, net: Network, arguments: Mapping[str, Any]) -> Call:
        x, timestep, text, mask, pooled, guidance = take(
            arguments,
            "hidden_states",
            "timestep",
            "encoder_hidden_states",
            "encoder_attention_mask",
            "pooled_projections",
            "guidance",
        )
        grid = token_grid(net.patch, *x.shape[2:])
        if mask is None:
            raise ValueError("encoder_attention_mask is missing")
        real = mask.bool()
        if not torch.equal(real, real.sort(dim=1, descending=True).values):
            raise ValueError("encoder_attention_mask must have the real tokens in front: the class counts them")
        cond = {"text": text, "text_mask": real, "pooled": pooled}
        if "guidance" in net.vectors and guidance is not None:
            cond["guidance"] = guidance.to(torch.float64) / net.vectors["guidance"].scale
        if net.concat_channels:
            sizes = [net.in_channels, *net.concat_channels.values()]
            x, cond["given_latents"], cond["given"] = x.split(sizes, dim=1)
        t = levels(timestep, net.level.scale, grid)
        if net.final.level is not None:
            t = self.with_image(net, t, x.shape[2])
        return x, t, cond

    def with_image(self, net: Network, t: Tensor, frames: int) -> Tensor:
        """t (B, 1) of the frames behind the image -> (B, frames), 0 for the first frame of tokens."""
        if frames <= net.patch[0]:
            raise ValueError(f"{TOKEN_REPLACE} needs frames behind the image's, and got only {frames}")
        if "guidance" in net.vectors and not t.all():  # told by its level, the image is not guided
            raise ValueError(f"timestep=0 is that of the image: with {TOKEN_REPLACE} the other frames must have more")
        t = t.repeat(1, frames)
        t[:, : net.patch[0]] = 0
        return t


def qk_norm_group(s: Mapping[str, Any]) -> dict[str, str]:
    """The choice for `qk_norm`. Raises ValueError for a norm that is none of ours."""
    if s["qk_norm"] not in QK_NORMS:
        known = ", ".join(str(name) for name in QK_NORMS)
        raise ValueError(f"qk_norm={s['qk_norm']} is not supported; there are {known}")
    return {"qk_norm": QK_NORMS[s["qk_norm"]]}


def name_of_qk_norm(heads: Any) -> str | None:
    """The inverse of `qk_norm_group`. heads: the module that holds the norms."""
    if isinstance(heads.norm_q, NoQKNorm):
        return None
    return "rms_norm" if isinstance(heads.norm_q.norm, RMSNorm) else "layer_norm"


def axes_of(s: Mapping[str, Any]) -> dict[str, int]:
    """Channels of a head for each axis. Raises ValueError for `rope_axes_dim` that do not make up a head."""
    axes = list(s["rope_axes_dim"])
    if len(axes) != 3 or sum(axes) != s["attention_head_dim"] or any(n < 2 or n % 2 for n in axes):
        raise ValueError(
            f"rope_axes_dim={axes} must be three even sizes that add up to attention_head_dim={s['attention_head_dim']}"
        )
    return dict(zip(AXES, axes, strict=True))


def refined_links(ours: str, text: Any) -> list[Link]:
    """Text that is refined (`RefinedText`)."""
    there = "context_embedder"
    links = [
        *linear(f"{ours}.embed", f"{there}.proj_in"),
        *embedding_links(f"{ours}.noise", f"{there}.time_text_embed.timestep_embedder"),
        *embedding_links(f"{ours}.mean", f"{there}.time_text_embed.text_embedder"),
    ]
    for i, block in enumerate(text.blocks):
        links += refiner_links(f"{ours}.blocks.{i}", f"{there}.token_refiner.refiner_blocks.{i}", block)
    return links


def refiner_links(ours: str, theirs: str, block: Any) -> list[Link]:
    return [
        *linear(f"{ours}.norm1", f"{theirs}.norm1"),
        *joined_linear(f"{ours}.project.qkv", [f"{theirs}.attn.to_{x}" for x in "qkv"]),
        *linear(f"{ours}.out", f"{theirs}.attn.to_out.0"),
        *linear(f"{ours}.norm2", f"{theirs}.norm2"),
        *mlp_links(f"{ours}.mlp", f"{theirs}.ff", block.mlp),
        *linear(f"{ours}.gates.linear", f"{theirs}.norm_out.linear"),
    ]


def dual_links(ours: str, theirs: str, block: Any) -> list[Link]:
    own, attn = f"{ours}.attention", f"{theirs}.attn"
    return [
        *linear(f"{ours}.modulation.linear", f"{theirs}.norm1.linear"),
        *linear(f"{ours}.text_modulation.linear", f"{theirs}.norm1_context.linear"),
        *joined_linear(f"{own}.video.qkv", [f"{attn}.to_{x}" for x in "qkv"]),
        *joined_linear(f"{own}.text.qkv", [f"{attn}.add_{x}_proj" for x in "qkv"]),
        *qk_norm_links(f"{own}.video", f"{attn}.norm", block.attention.video),
        *qk_norm_links(f"{own}.text", f"{attn}.norm_added", block.attention.text),
        *linear(f"{own}.out", f"{attn}.to_out.0"),
        *linear(f"{own}.text_out", f"{attn}.to_add_out"),
        *mlp_links(f"{ours}.mlp", f"{theirs}.ff", block.mlp),
        *mlp_links(f"{ours}.text_mlp", f"{theirs}.ff_context", block.text_mlp),
    ]


def single_links(ours: str, theirs: str, block: Any) -> list[Link]:
    """Their one projection reads attention and MLP side by side; ours are two, of which the MLP's has the bias."""
    sizes = (block.attention.out.in_features, block.mlp.down.in_features)
    both = (f"{ours}.attention.out.weight", f"{ours}.mlp.down.weight")
    return [
        *linear(f"{ours}.modulation.linear", f"{theirs}.norm.linear"),
        *joined_linear(f"{ours}.attention.qkv", [f"{theirs}.attn.to_{x}" for x in "qkv"]),
        *qk_norm_links(f"{ours}.attention", f"{theirs}.attn.norm", block.attention),
        *linear(f"{ours}.mlp.up", f"{theirs}.proj_mlp"),
        Link(both, (f"{theirs}.proj_out.weight",), Split(sizes, axis=1)),
        Link((f"{ours}.mlp.down.bias",), (f"{theirs}.proj_out.bias",)),
    ]
