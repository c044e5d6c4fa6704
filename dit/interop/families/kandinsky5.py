"""Kandinsky 5 (arXiv 2511.14993): diffusers' Kandinsky5Transformer3DModel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dit.config.pattern import short
from dit.interop.family import Call, Family, Network, Overrides, levels, take
from dit.interop.weights import Link, Reordered, channels_first, channels_last, joined_linear, linear, reordered_linear
from dit.net.coordinates import AXES
from dit.net.patches import Grid, token_grid
from dit.net.text_stream import TextBlock

# Channels of the input behind the noisy latents: those of the given frames, and 1 where a frame is given.
GIVEN = ("given_latents", "given")
# Of sparse attention, which other attention types have.
SPARSE: dict[str, Any] = {
    "attention_causal": False,
    "attention_local": False,
    "attention_glob": False,
    "attention_window": 3,
    "attention_P": 0.9,
    "attention_wT": 11,
    "attention_wW": 3,
    "attention_wH": 3,
    "attention_add_sta": True,
    "attention_method": "topcdf",
}


class Kandinsky5(Family):
    """The class rounds rotated queries and keys to bfloat16, whatever the precision; ours keeps theirs."""

    class_name = "Kandinsky5Transformer3DModel"
    preset = "kandinsky5_tiny"
    defaults = {
        "in_visual_dim": 4,
        "in_text_dim": 3584,
        "in_text_dim2": 768,
        "time_dim": 512,
        "out_visual_dim": 4,
        "patch_size": [1, 2, 2],
        "model_dim": 2048,
        "ff_dim": 5120,
        "num_text_blocks": 2,
        "num_visual_blocks": 32,
        "axes_dims": [16, 24, 24],
        "visual_cond": False,
        "attention_type": "regular",
        **dict.fromkeys(SPARSE),
    }
    also = {name: (example,) for name, example in SPARSE.items()}
    depths = ("num_text_blocks", "num_visual_blocks")

    def overrides(self, settings: Mapping[str, Any]) -> Overrides:
        s = settings
        head_dim, axes = sum(s["axes_dims"]), list(s["axes_dims"])
        if s["attention_type"] != "regular":
            raise ValueError(f"attention_type={s['attention_type']}: sparse attention is not supported; regular is")
        if any(size < 2 or size % 2 for size in axes) or s["model_dim"] % head_dim:
            raise ValueError(f"axes_dims={axes} must be even sizes whose sum divides model_dim={s['model_dim']}")
        channels = s["in_visual_dim"]
        values = {
            "concat_channels": dict(zip(GIVEN, (channels, 1) if s["visual_cond"] else (None, None), strict=True)),
            "in_channels": channels,
            "out_channels": s["out_visual_dim"],
            "patch": list(s["patch_size"]),
            "width": s["model_dim"],
            "level_width": s["time_dim"],
            "heads": s["model_dim"] // head_dim,
            "depth": s["num_text_blocks"] + s["num_visual_blocks"],
            "pattern": short("X" * s["num_text_blocks"] + "R" * s["num_visual_blocks"]),
            "text_width": s["in_text_dim"],
            "vectors.pooled.features": s["in_text_dim2"],
            "mlp.ratio": s["ff_dim"] / s["model_dim"],
            "position.split": dict(zip(AXES, axes, strict=True)),
        }
        return Overrides({}, values)

    def config(self, net: Network) -> dict[str, Any]:
        text_blocks = sum(isinstance(block, TextBlock) for block in net.blocks)
        return {
            **self.defaults,
            "in_visual_dim": net.in_channels,
            "in_text_dim": net.text.text_width,
            "in_text_dim2": net.vectors["pooled"].hidden.in_features,
            "time_dim": net.level.out.out_features,
            "out_visual_dim": net.out_channels,
            "patch_size": list(net.patch),
            "model_dim": net.width,
            "ff_dim": net.blocks[0].mlp.up.out_features,
            "num_text_blocks": text_blocks,
            "num_visual_blocks": net.depth - text_blocks,
            "axes_dims": [2 * net.position.pairs[axis] for axis in AXES],
            "visual_cond": tuple(net.concat_channels) == GIVEN,
        }

    def links(self, net: Network) -> list[Link]:
        channels = net.in_channels + sum(net.concat_channels.values())
        pixels = Reordered(channels_last(channels, net.patch), axis=1)
        links = [
            Link(("embed.weight",), ("visual_embeddings.in_layer.weight",), pixels),
            Link(("embed.bias",), ("visual_embeddings.in_layer.bias",)),
            *linear("level.hidden", "time_embeddings.in_layer"),
            *linear("level.out", "time_embeddings.out_layer"),
            *linear("vectors.pooled.hidden", "pooled_text_embeddings.in_layer"),
            *linear("vectors.pooled.norm", "pooled_text_embeddings.norm"),
            *linear("text.embed.linear", "text_embeddings.in_layer"),
            *linear("text.embed.norm", "text_embeddings.norm"),
            *linear("final.modulation.1.linear", "out_layer.modulation.out_layer"),
            *reordered_linear("final.linear", "out_layer.out_layer", channels_first(net.out_channels, net.patch)),
        ]
        text_blocks = 0
        for i, block in enumerate(net.blocks):
            ours = f"blocks.{i}"
            if isinstance(block, TextBlock):
                there = f"text_transformer_blocks.{i}"
                links += linear(f"{ours}.modulation.linear", f"{there}.text_modulation.out_layer")
                links += self_attention_links(f"{ours}.project", f"{ours}.out", there)
                text_blocks += 1
            else:
                there = f"visual_transformer_blocks.{i - text_blocks}"
                links += linear(f"{ours}.modulation.linear", f"{there}.visual_modulation.out_layer")
                links += self_attention_links(f"{ours}.attention", f"{ours}.attention.out", there)
                links += cross_attention_links(f"{ours}.cross_attention", f"{there}.cross_attention")
            links += [
                *linear(f"{ours}.mlp.up", f"{there}.feed_forward.in_layer", bias=False),
                *linear(f"{ours}.mlp.down", f"{there}.feed_forward.out_layer", bias=False),
            ]
        return links

    def call(self, net: Network, arguments: Mapping[str, Any]) -> Call:
        """`scale_factor` divides the positions of the video; a text is read without a mask."""
        names = ("hidden_states", "timestep", "encoder_hidden_states", "pooled_projections")
        more = ("visual_rope_pos", "text_rope_pos", "scale_factor")
        x, timestep, text, pooled, places, text_places, scale = take(arguments, *names, *more)
        if pooled is None:
            raise ValueError("pooled_projections is missing")
        x = x.movedim(-1, 1)  # channels stand last there
        grid = token_grid(net.patch, *x.shape[2:])
        check_counted("visual_rope_pos", places, grid)
        check_counted("text_rope_pos", None if text_places is None else [text_places], text.shape[1:2])
        cond = {"text": text, "pooled": pooled}
        if scale is not None:
            cond["rope_scale"] = 1 / torch.tensor([list(scale)], dtype=torch.float64, device=x.device)
        if net.concat_channels:
            x, *given = x.split([net.in_channels, *net.concat_channels.values()], dim=1)
            cond |= dict(zip(GIVEN, given, strict=True))
        return x, levels(timestep, net.level.scale, grid), cond

    def output(self, out: Tensor, arguments: Mapping[str, Any]) -> Tensor:
        return out.movedim(1, -1)


def self_attention_links(ours: str, out: str, theirs: str) -> list[Link]:
    """ours: the module that holds qkv and the norms. out: its output projection."""
    there = f"{theirs}.self_attention"
    return [
        *joined_linear(f"{ours}.qkv", [f"{there}.to_{name}" for name in ("query", "key", "value")]),
        *norm_links(ours, there),
        *linear(out, f"{there}.out_layer"),
    ]


def cross_attention_links(ours: str, theirs: str) -> list[Link]:
    return [
        *linear(f"{ours}.q", f"{theirs}.to_query"),
        *joined_linear(f"{ours}.kv", [f"{theirs}.to_{name}" for name in ("key", "value")]),
        *norm_links(ours, theirs),
        *linear(f"{ours}.out", f"{theirs}.out_layer"),
    ]


def norm_links(ours: str, theirs: str) -> list[Link]:
    names = {"norm_q": "query_norm", "norm_k": "key_norm"}
    return [Link((f"{ours}.{name}.norm.weight",), (f"{theirs}.{there}.weight",)) for name, there in names.items()]


def check_counted(name: str, places: Sequence[Tensor] | None, sizes: Sequence[int] | Grid) -> None:
    """Raises ValueError unless `places` counts the tokens of each axis from 0, as this network does by itself."""
    if places is None:
        raise ValueError(f"{name} is missing")
    if [len(axis) for axis in places] != list(sizes):
        found = [len(axis) for axis in places]
        raise ValueError(f"{name} is of {found} tokens along its axes; here there are {list(sizes)}")
    if any(not torch.equal(axis.cpu(), torch.arange(size)) for axis, size in zip(places, sizes, strict=True)):
        raise ValueError(f"{name} must count from 0 to the number of tokens, since this network does")
