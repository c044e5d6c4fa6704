"""LTX-Video (arXiv 2501.00103): diffusers' LTXVideoTransformer3DModel."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from dit.interop.families.basic import attention_links, embedding_links, mlp_links
from dit.interop.family import Call, Family, Network, Overrides, attended, levels, take
from dit.interop.weights import Link, channels_first, linear, reordered_linear
from dit.net.attention import AcrossHeads
from dit.net.coordinates import AXES
from dit.net.patches import Grid, patchify

ACTIVATIONS = {"gelu-approximate": "tanh", "gelu": "none"}


class LTXVideo(Family):
    class_name = "LTXVideoTransformer3DModel"
    preset = "ltx_video_tiny"
    defaults = {
        "in_channels": 128,
        "out_channels": 128,
        "patch_size": 1,
        "patch_size_t": 1,
        "num_attention_heads": 32,
        "attention_head_dim": 64,
        "cross_attention_dim": 2048,
        "num_layers": 28,
        "activation_fn": "gelu-approximate",
        "qk_norm": "rms_norm_across_heads",
        "norm_elementwise_affine": False,
        "norm_eps": 1e-6,
        "caption_channels": 4096,
        "attention_bias": True,
        "attention_out_bias": True,
    }
    also = {"out_channels": (None,), "qk_norm": (None,)}

    def overrides(self, settings: Mapping[str, Any]) -> Overrides:
        s = settings
        width = s["num_attention_heads"] * s["attention_head_dim"]
        volume = s["patch_size_t"] * s["patch_size"] ** 2
        out_channels = s["out_channels"] or s["in_channels"]
        if s["cross_attention_dim"] != width:
            raise ValueError(f"cross_attention_dim={s['cross_attention_dim']} must be the width {width}")
        if s["activation_fn"] not in ACTIVATIONS:
            raise ValueError(f"activation_fn={s['activation_fn']} is not supported; there are {', '.join(ACTIVATIONS)}")
        if s["qk_norm"] != "rms_norm_across_heads":
            raise ValueError(f"qk_norm={s['qk_norm']} is not supported; there is rms_norm_across_heads")
        if s["in_channels"] % volume or out_channels % volume:
            raise ValueError(
                f"in_channels={s['in_channels']} and out_channels={out_channels} must be multiples of"
                f" {volume}, the latents of a token by patch_size and patch_size_t"
            )
        values = {
            "in_channels": s["in_channels"] // volume,
            "out_channels": out_channels // volume,
            "patch": [s["patch_size_t"], s["patch_size"], s["patch_size"]],
            "width": width,
            "heads": s["num_attention_heads"],
            "depth": s["num_layers"],
            "text_width": s["caption_channels"],
            "mlp.approximate": ACTIVATIONS[s["activation_fn"]],
            "norm.eps": s["norm_eps"],
            "norm.affine": s["norm_elementwise_affine"],
            "attention.qkv_bias": s["attention_bias"],
            "attention.out_bias": s["attention_out_bias"],
            "text.attention.q_bias": s["attention_bias"],
            "text.attention.kv_bias": s["attention_bias"],
            "text.attention.out_bias": s["attention_out_bias"],
        }
        return Overrides({}, values)

    def config(self, net: Network) -> dict[str, Any]:
        block, volume = net.blocks[0], math.prod(net.patch)
        names = {approximate: name for name, approximate in ACTIVATIONS.items()}
        return {
            **self.defaults,
            "in_channels": net.in_channels * volume,
            "out_channels": net.out_channels * volume,
            "patch_size": net.patch[1],
            "patch_size_t": net.patch[0],
            "num_attention_heads": net.heads,
            "attention_head_dim": net.width // net.heads,
            "cross_attention_dim": net.width,
            "num_layers": net.depth,
            "activation_fn": names[block.mlp.approximate],
            "qk_norm": "rms_norm_across_heads" if isinstance(block.attention.norm_q, AcrossHeads) else None,
            "norm_elementwise_affine": bool(list(block.norm1.parameters())),
            "norm_eps": block.norm1.eps,
            "caption_channels": net.text.text_width,
            "attention_bias": block.attention.qkv.bias is not None,
            "attention_out_bias": block.attention.out.bias is not None,
        }

    def links(self, net: Network) -> list[Link]:
        links = [
            *linear("embed", "proj_in"),
            *embedding_links("level", "time_embed.emb.timestep_embedder"),
            *linear("modulation.shared", "time_embed.linear"),
            *embedding_links("text.embed", "caption_projection"),
            Link(("final.modulation.table",), ("scale_shift_table",)),
            *reordered_linear("final.linear", "proj_out", channels_first(net.out_channels, net.patch)),
        ]
        for i, block in enumerate(net.blocks):
            links += self.block_links(f"blocks.{i}", f"transformer_blocks.{i}", block)
        return links

    def block_links(self, name: str, there: str, block: Any) -> list[Link]:
        links = [
            Link((f"{name}.modulation.table",), (f"{there}.scale_shift_table",)),
            *attention_links(name, there, block),
            *mlp_links(f"{name}.mlp", f"{there}.ff", block.mlp),
        ]
        if list(block.norm1.parameters()):
            links += linear(f"{name}.norm1", f"{there}.norm1", bias=False)
            links += linear(f"{name}.norm2", f"{there}.norm2", bias=False)
        return links

    def call(self, net: Network, arguments: Mapping[str, Any]) -> Call:
        """Tokens come packed (B, N, channels of a patch); `num_frames`, `height` and `width` are their grid, needed
        beside `video_coords` too."""
        tokens, text, timestep, mask, frames, height, width, scale, coordinates = take(
            arguments,
            "hidden_states",
            "encoder_hidden_states",
            "timestep",
            "encoder_attention_mask",
            "num_frames",
            "height",
            "width",
            "rope_interpolation_scale",
            "video_coords",
        )
        if None in (frames, height, width) or frames * height * width != tokens.shape[1]:
            raise ValueError(
                f"num_frames={frames}, height={height} and width={width} must be the grid of the"
                f" {tokens.shape[1]} tokens"
            )
        if mask is not None and mask.dim() != 2:
            raise ValueError(f"encoder_attention_mask has shape {tuple(mask.shape)}; it must be (batch, text tokens)")
        grid = (frames, height, width)
        cond = {"text": text} if mask is None else {"text": text, "text_mask": attended(mask)}
        if coordinates is None:
            cond["rope_scale"] = rope_scale(scale, net.patch, net.position.extent, tokens.device)
        else:
            cond["coordinates"] = coordinates
        t = levels(timestep, net.level.scale, grid)
        t = t.repeat_interleave(net.patch[0], dim=1) if t.shape[1] > 1 else t
        return unpack(tokens, net.patch, grid), t, cond

    def output(self, out: Tensor, arguments: Mapping[str, Any]) -> Tensor:
        frames, height, width = (
            size // arguments[name] for name, size in zip(("num_frames", "height", "width"), out.shape[2:], strict=True)
        )
        return patchify(out, (frames, height, width))


def rope_scale(scale: Sequence[Any] | None, patch: Grid, extent: Mapping[str, float], device: torch.device) -> Tensor:
    """`rope_interpolation_scale`, of latents -> cond["rope_scale"], of tokens, (1 or B, 3).

    Numbers, or tensors of one or, (B, 1, 1, 1, 1), of a number a sample. None: positions are the tokens' own numbers,
    which is what the class computes then.
    """
    if scale is None:
        return torch.tensor([[extent[axis] for axis in AXES]], dtype=torch.float64, device=device)
    parts = [torch.as_tensor(part, dtype=torch.float64, device=device) for part in scale]
    for part in parts:
        if part.numel() > 1 and part.dim() != 5:
            raise ValueError(
                f"rope_interpolation_scale has a part of shape {tuple(part.shape)}; it must be a number, or"
                " (batch, 1, 1, 1, 1)"
            )
    columns = [part.reshape(-1, 1) * p for part, p in zip(parts, patch, strict=True)]
    return torch.cat(torch.broadcast_tensors(*columns), dim=1)


def unpack(tokens: Tensor, patch: Grid, grid: Grid) -> Tensor:
    """Tokens (B, N, C f h w) -> latents (B, C, F, H, W): the inverse of `patchify`."""
    (f, h, w), (F, H, W) = patch, grid
    return rearrange(tokens, "b (F H W) (c f h w) -> b c (F f) (H h) (W w)", F=F, H=H, W=W, f=f, h=h, w=w)
