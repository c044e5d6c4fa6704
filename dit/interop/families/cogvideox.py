"""CogVideoX and CogVideoX 1.5 (arXiv 2408.06072): diffusers' CogVideoXTransformer3DModel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dit.interop.families.basic import attention_links, embedding_links, mlp_links
from dit.interop.family import Call, Family, Network, Overrides, levels, take
from dit.interop.rotations import check_rotation
from dit.interop.weights import Link, channels_first, convolution, kinds, linear, reordered_linear
from dit.net.patches import Grid, token_grid
from dit.net.position.base import Several
from dit.net.position.coordinates import Counted
from dit.net.position.rope import RoPE3D
from dit.net.position.sincos import SinCos3D

ACTIVATIONS = {"gelu-approximate": "gelu_tanh", "gelu": "gelu"}
# Channels of the input behind the noisy latents of an image-to-video model: the latents of the given frames.
GIVEN = "given_latents"
APART = "_given_apart"  # False: one input holds all channels, as presets of an earlier version had it
# Settings that only the pipeline of 1.5 reads: the largest picture and clip that it makes.
LARGEST = {"sample_height": 300, "sample_width": 300, "sample_frames": 81}


class CogVideoX(Family):
    """Two generations: 1.0 without `patch_size_t`, with sincos or fitted rotary positions or those and learned ones;
    1.5 with it, a Linear on patches and counted rotary positions."""

    class_name = "CogVideoXTransformer3DModel"
    preset = "cogvideox_tiny"
    inferred = {APART: True}
    defaults = {
        "num_attention_heads": 30,
        "attention_head_dim": 64,
        "in_channels": 16,
        "out_channels": 16,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "time_embed_dim": 512,
        "ofs_embed_dim": None,
        "text_embed_dim": 4096,
        "num_layers": 30,
        "dropout": 0.0,
        "attention_bias": True,
        "sample_width": 90,
        "sample_height": 60,
        "sample_frames": 49,
        "patch_size": 2,
        "patch_size_t": None,
        "temporal_compression_ratio": 4,
        "max_text_seq_length": 226,
        "activation_fn": "gelu-approximate",
        "timestep_activation_fn": "silu",
        "norm_elementwise_affine": True,
        "norm_eps": 1e-5,
        "spatial_interpolation_scale": 1.875,
        "temporal_interpolation_scale": 1.0,
        "use_rotary_positional_embeddings": False,
        "use_learned_positional_embeddings": False,
        "patch_bias": True,
    }
    also = {"ofs_embed_dim": (512,), "patch_size_t": (2,)}

    def overrides(self, settings: Mapping[str, Any]) -> Overrides:
        s = settings
        check(s)
        width = s["num_attention_heads"] * s["attention_head_dim"]
        ofs = s["ofs_embed_dim"]
        in_channels, out_channels, given = s["in_channels"], s["out_channels"], {}
        if s[APART] and in_channels == 2 * out_channels:
            in_channels, given = out_channels, {"concat_channels": {GIVEN: out_channels}}
        shift, made = float(s["freq_shift"]), positions(s)
        groups = {**made.groups, "mlp": ACTIVATIONS[s["activation_fn"]]}
        values = {
            **made.values,
            **given,
            "in_channels": in_channels,
            "out_channels": out_channels,
            "patch": [s["patch_size_t"] or 1, s["patch_size"], s["patch_size"]],
            "width": width,
            "heads": s["num_attention_heads"],
            "depth": s["num_layers"],
            "level_width": s["time_embed_dim"],
            "level.shift": shift,
            "text_width": s["text_embed_dim"],
            "embed.bias": s["patch_bias"] or s["patch_size_t"] is not None,
            "attention.qkv_bias": s["attention_bias"],
            **{f"{norm}.eps": s["norm_eps"] for norm in NORMS},
            **{f"{norm}.affine": s["norm_elementwise_affine"] for norm in NORMS},
        }
        if ofs is not None:
            groups["ofs"] = "sinusoid"
            values |= {"vectors.ofs.frequencies": ofs, "vectors.ofs.shift": shift}
        return Overrides(groups, values)

    def config(self, net: Network) -> dict[str, Any]:
        block = net.blocks[0]
        settings = {
            **self.defaults,
            "num_attention_heads": net.heads,
            "attention_head_dim": net.width // net.heads,
            "in_channels": net.in_channels + sum(net.concat_channels.values()),
            APART: tuple(net.concat_channels) == (GIVEN,),
            "out_channels": net.out_channels,
            "freq_shift": int(net.level.shift),
            "time_embed_dim": net.level.out.out_features,
            "ofs_embed_dim": net.vectors["ofs"].frequencies if "ofs" in net.vectors else None,
            "text_embed_dim": net.text.text_width,
            "num_layers": net.depth,
            "attention_bias": block.attention.qkv.bias is not None,
            "patch_size": net.patch[1],
            "max_text_seq_length": net.text.embed.length or self.defaults["max_text_seq_length"],
            "activation_fn": "gelu" if block.mlp.approximate == "none" else "gelu-approximate",
            "norm_elementwise_affine": block.norm1.elementwise_affine,
            "norm_eps": block.norm1.eps,
            "patch_bias": net.embed.bias is not None,
        }
        if counted(net):
            extra = {"patch_size_t": net.patch[0], "patch_bias": False, "use_rotary_positional_embeddings": True}
            return {**settings, **extra, **LARGEST}
        if isinstance(net.position, SinCos3D):
            scale = net.position.scale
            return {
                **settings,
                "spatial_interpolation_scale": scale["h"],
                "temporal_interpolation_scale": scale["f"],
            }
        learned = isinstance(net.position, Several)
        picture = (net.position.parts["rotary"] if learned else net.position).coordinates.picture
        settings |= {
            "sample_height": picture[0] * net.patch[1],
            "sample_width": picture[1] * net.patch[2],
            "use_rotary_positional_embeddings": True,
            "use_learned_positional_embeddings": learned,
        }
        if learned:
            settings["sample_frames"] = (learned_grid(net)[0] - 1) * settings["temporal_compression_ratio"] + 1
        return settings

    def links(self, net: Network) -> list[Link]:
        width, inputs = net.width, net.in_channels + sum(net.concat_channels.values())
        kernel = (width, inputs, *net.patch[1:])
        patch_bias = net.embed.bias is not None
        links = [
            # In both generations the values of a patch have our order, (C, f, h, w).
            *(
                linear("embed", "patch_embed.proj")
                if counted(net)
                else convolution("embed", "patch_embed.proj", kernel, bias=patch_bias)
            ),
            *linear("text.embed", "patch_embed.text_proj"),
            *embedding_links("level", "time_embedding"),
            *linear("final.modulation.1.linear", "norm_out.linear"),
            *reordered_linear("final.linear", "proj_out", channels_first(net.out_channels, net.patch)),
        ]
        if "ofs" in net.vectors:
            links += embedding_links("vectors.ofs", "ofs_embedding")
        if isinstance(net.position, Several):
            tables = ("text.embed.table", "position.parts.added.table")
            change = TextThenVideo(net.text.embed.length, learned_grid(net))
            links += [Link(tables, ("patch_embed.pos_embedding",), change)]
        affine = bool(list(net.blocks[0].norm1.parameters()))
        if affine:
            links += [*linear("final.norm.first", "norm_final"), *linear("final.norm.second", "norm_out.norm")]
        for i, block in enumerate(net.blocks):
            links += self.block_links(f"blocks.{i}", f"transformer_blocks.{i}", block, affine)
        return links

    def block_links(self, ours: str, theirs: str, block: Any, affine: bool) -> list[Link]:
        links = [*attention_links(ours, theirs, block), *mlp_links(f"{ours}.mlp", f"{theirs}.ff", block.mlp)]
        for kind in kinds(True):
            modulations = (f"{ours}.modulation.linear.{kind}", f"{ours}.text_modulation.linear.{kind}")
            links += [Link(modulations, tuple(f"{theirs}.{n}.linear.{kind}" for n in ("norm1", "norm2")), Crossed())]
        if affine:
            links += linear(f"{ours}.norm1", f"{theirs}.norm1.norm") + linear(f"{ours}.norm2", f"{theirs}.norm2.norm")
        return links

    def call(self, net: Network, arguments: Mapping[str, Any]) -> Call:
        names = ("hidden_states", "encoder_hidden_states", "timestep", "ofs", "image_rotary_emb")
        x, text, timestep, ofs, rotary = take(arguments, *names)
        x = x.transpose(1, 2)  # frames stand before channels there
        grid = token_grid(net.patch, *x.shape[2:])
        check_rotation(net, x, rotary)
        if isinstance(net.position, Several):
            fixed = learned_grid(net)
            if grid != fixed:
                raise ValueError(f"latents {tuple(x.shape[2:])} are {grid} tokens; learned positions there are {fixed}")
        if (ofs is not None) != ("ofs" in net.vectors):
            raise ValueError("ofs is missing" if ofs is None else "ofs is given, but this network has no ofs_embed_dim")
        cond = {"text": text} if ofs is None else {"text": text, "ofs": ofs}
        if net.concat_channels:
            x, cond[GIVEN] = x.split([net.in_channels, net.concat_channels[GIVEN]], dim=1)
        return x, levels(timestep, net.level.scale, grid), cond

    def output(self, out: Tensor, arguments: Mapping[str, Any]) -> Tensor:
        return out.transpose(1, 2)


NORMS = ("norm", "final.norm.first", "final.norm.second")


def check(s: Mapping[str, Any]) -> None:
    """Raises ValueError for settings that no part of ours computes."""
    rotary, learned = s["use_rotary_positional_embeddings"], s["use_learned_positional_embeddings"]
    if s["activation_fn"] not in ACTIVATIONS:
        raise ValueError(f"activation_fn={s['activation_fn']} is not supported; there are {', '.join(ACTIVATIONS)}")
    for name, only in {"flip_sin_to_cos": True, "timestep_activation_fn": "silu", "dropout": 0.0}.items():
        if s[name] != only:
            raise ValueError(f"{name}={s[name]} is not supported; {only} is")
    if s["ofs_embed_dim"] not in (None, s["time_embed_dim"]):
        raise ValueError(f"ofs_embed_dim={s['ofs_embed_dim']} must be time_embed_dim={s['time_embed_dim']} or null")
    if learned and not rotary:
        raise ValueError("use_learned_positional_embeddings needs use_rotary_positional_embeddings")
    if s["patch_size_t"] is not None and (learned or not rotary):
        raise ValueError(f"patch_size_t={s['patch_size_t']} needs positions that are rotary alone")
    if rotary and s["attention_head_dim"] % 16:
        raise ValueError(f"attention_head_dim={s['attention_head_dim']} must be a multiple of 16 for rotary positions")
    width = s["num_attention_heads"] * s["attention_head_dim"]
    if not rotary and width % 16:
        raise ValueError(f"the width {width} must be a multiple of 16 for sincos positions")


def positions(s: Mapping[str, Any]) -> Overrides:
    """Changes for the positions, and for the text, of which some positions need the length."""
    p, length = s["patch_size"], s["max_text_seq_length"]
    if s["patch_size_t"] is not None:
        return Overrides({"position": "rope3d_quarter_time"}, {})
    picture = [s["sample_height"] // p, s["sample_width"] // p]
    if s["use_learned_positional_embeddings"]:
        frames = (s["sample_frames"] - 1) // s["temporal_compression_ratio"] + 1
        values = {
            "position.parts.rotary.coordinates.picture": picture,
            "position.parts.added.grid": [frames, *picture],
            "text.embed.length": length,
        }
        return Overrides({"position": "rope3d_fitted_learned", "text": "joint_placed"}, values)
    if s["use_rotary_positional_embeddings"]:
        return Overrides({"position": "rope3d_fitted"}, {"position.coordinates.picture": picture})
    rows = s["spatial_interpolation_scale"]
    values = {
        "position.scale": {"f": s["temporal_interpolation_scale"], "h": rows, "w": rows},
        "text.embed.length": length,
    }
    return Overrides({"position": "sincos_quarter_time"}, values)


def counted(net: Network) -> bool:
    """Whether this is generation 1.5."""
    return isinstance(net.position, RoPE3D) and isinstance(net.position.coordinates, Counted)


def learned_grid(net: Network) -> Grid:
    """Tokens along (f, h, w) that have learned positions."""
    f, h, w = net.position.parts["added"].table.shape[2:]
    return f, h, w


@dataclass(frozen=True)
class Crossed:
    """Theirs are two norms, each with three vectors for the video and then three for the text; ours are video and
    text, each with three vectors for the first norm and then three for the second."""

    def into(self, theirs: list[Tensor]) -> list[Tensor]:
        halves = [norm.chunk(2) for norm in theirs]
        return [torch.cat(parts) for parts in zip(*halves, strict=True)]

    def back(self, ours: list[Tensor]) -> list[Tensor]:
        return self.into(ours)


@dataclass(frozen=True)
class TextThenVideo:
    """Theirs (1, length + N, width) holds positions of the text's tokens and then of the grid's; ours are two tables.

    length: of the text. grid: tokens along (f, h, w).
    """

    length: int
    grid: Grid

    def into(self, theirs: list[Tensor]) -> list[Tensor]:
        (table,) = theirs
        text, video = table.split([self.length, table.shape[1] - self.length], dim=1)
        return [text.contiguous(), video.transpose(1, 2).unflatten(2, self.grid).contiguous()]

    def back(self, ours: list[Tensor]) -> list[Tensor]:
        text, video = ours
        return [torch.cat([text, video.flatten(2).transpose(1, 2)], dim=1)]
