"""DiT (arXiv 2212.09748): diffusers' DiTTransformer2DModel.

It works on images (B, C, H, W), one latent frame here. Each of its blocks owns an embedder of timesteps and classes,
and the final layer uses the first block's. Published weights hold equal copies of one embedder, which is the shared
level vector of our `adaln_zero`; copies that differ become `adaln_zero_per_block`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dit.interop.families.basic import activation, attention_links, mlp_links, mlp_overrides, renamed
from dit.interop.family import Call, Family, Network, Overrides, levels, take
from dit.interop.weights import Change, Copies, Joined, Link, convolution, linear
from dit.net.embed import LevelFromNoise, ScalarEmbedding
from dit.net.modulation import PerBlockAdaLNZero
from dit.net.patches import token_grid
from dit.net.position.sincos import SinCos3D

BLOCKS = "transformer_blocks"
EMBEDDER = "norm1.emb"
# The tensors of an embedder, small ones first, since copies that differ mostly differ in the first.
EMBEDDED = (
    "timestep_embedder.linear_1.bias",
    "timestep_embedder.linear_2.bias",
    "timestep_embedder.linear_1.weight",
    "timestep_embedder.linear_2.weight",
    "class_embedder.embedding_table.weight",
)


class DiT(Family):
    class_name = "DiTTransformer2DModel"
    preset = "dit_tiny"
    loads_lora = False
    defaults = {
        "num_attention_heads": 16,
        "attention_head_dim": 72,
        "in_channels": 4,
        "out_channels": None,
        "num_layers": 28,
        "dropout": 0.0,
        "norm_num_groups": 32,
        "attention_bias": True,
        "sample_size": 32,
        "patch_size": 2,
        "activation_fn": "gelu-approximate",
        "num_embeds_ada_norm": 1000,
        "upcast_attention": False,
        "norm_type": "ada_norm_zero",
        "norm_elementwise_affine": False,
        "norm_eps": 1e-5,
    }
    also = {"out_channels": (8,)}
    inferred = {"_embedder_in_each_block": False}

    def adopt(self, config: Mapping[str, Any]) -> dict[str, Any] | None:
        """The published weights say Transformer2DModel, of which diffusers makes this class by the same condition."""
        older = config.get("_class_name") == "Transformer2DModel" and config.get("norm_type") == "ada_norm_zero"
        if config.get("_class_name") != self.class_name and not older:
            return None
        return renamed(config, self.class_name, {"cross_attention_dim": None})

    def infer(self, weights: Mapping[str, Tensor]) -> dict[str, Any]:
        """Whether the blocks' embedders differ."""
        return {"_embedder_in_each_block": any(differ(weights, name) for name in EMBEDDED)}

    def overrides(self, settings: Mapping[str, Any]) -> Overrides:
        s = settings
        width = s["num_attention_heads"] * s["attention_head_dim"]
        if s["norm_type"] != "ada_norm_zero":
            raise ValueError(f"norm_type={s['norm_type']} is not supported, nor by diffusers: only ada_norm_zero is")
        grid = s["sample_size"] // s["patch_size"]
        mlp, groups = mlp_overrides(s), {}
        values = {
            **mlp.values,
            "in_channels": s["in_channels"],
            "out_channels": s["out_channels"] or s["in_channels"],
            "patch": [1, s["patch_size"], s["patch_size"]],
            "width": width,
            "heads": s["num_attention_heads"],
            "depth": s["num_layers"],
            "vectors.label.num_classes": s["num_embeds_ada_norm"],
            "attention.qkv_bias": s["attention_bias"],
            "position.reference": {"h": grid, "w": grid},
            **{f"templates.{x}.mlp_norm.eps": s["norm_eps"] for x in "FSTW"},
            **{f"templates.{x}.mlp_norm.affine": s["norm_elementwise_affine"] for x in "FSTW"},
        }
        if s.get("_embedder_in_each_block"):
            groups = {"level": "sinusoid_per_block", "modulation": "adaln_zero_per_block"}
            values["level_width"] = s["num_layers"] * width
        return Overrides({**mlp.groups, **groups}, values)

    def config(self, net: Network) -> dict[str, Any]:
        block = net.blocks[0]
        return {
            **self.defaults,
            "num_attention_heads": net.heads,
            "attention_head_dim": net.width // net.heads,
            "in_channels": net.in_channels,
            "out_channels": net.out_channels,
            "num_layers": net.depth,
            "attention_bias": block.attention.qkv.bias is not None,
            "sample_size": net.position.reference["h"] * net.patch[1],
            "patch_size": net.patch[1],
            "activation_fn": activation(block.mlp),
            "num_embeds_ada_norm": net.vectors["label"].table.num_embeddings - 1,
            "norm_elementwise_affine": block.norm2.elementwise_affine,
            "norm_eps": block.norm2.eps,
            "_embedder_in_each_block": isinstance(net.modulation, PerBlockAdaLNZero),
        }

    def never(self, net: Network) -> str | None:
        """Networks as the authors' repositories have them (DiT, SiT), by their embedding of time."""
        level = net.level
        if not isinstance(net.position, SinCos3D) or "label" not in net.vectors:
            return None
        if isinstance(level, LevelFromNoise):
            time = "time that runs from noise to data, as SiT does"
        elif isinstance(level, ScalarEmbedding) and level.shift == 0:
            time = "time with the frequencies of DiT's own code"
        else:
            return None
        return (
            f"it embeds {time}, which {self.class_name} never does; write it as ours (--to ours), or for that code by"
            " dit.interop.original.to_original"
        )

    def links(self, net: Network) -> list[Link]:
        links = [
            *convolution("embed", "pos_embed.proj", (net.width, net.in_channels, *net.patch[1:])),
            *embedder_links(net.depth, isinstance(net.modulation, PerBlockAdaLNZero)),
            *linear("final.modulation.1.linear", "proj_out_1"),
            *linear("final.linear", "proj_out_2"),
        ]
        for i, block in enumerate(net.blocks):
            ours, theirs = f"blocks.{i}", f"{BLOCKS}.{i}"
            links += [
                *linear(f"{ours}.modulation.linear", f"{theirs}.norm1.linear"),
                *attention_links(ours, theirs, block),
                *mlp_links(f"{ours}.mlp", f"{theirs}.ff", block.mlp),
            ]
            if block.norm2.elementwise_affine:
                links += linear(f"{ours}.norm2", f"{theirs}.norm3")
        return links

    def call(self, net: Network, arguments: Mapping[str, Any]) -> Call:
        x, timestep, label = take(arguments, "hidden_states", "timestep", "class_labels")
        if x.dim() != 4 or x.shape[2] != x.shape[3]:
            raise ValueError(
                f"hidden_states has the shape {tuple(x.shape)}: {self.class_name} puts its patches back as a square, so"
                " it takes (batch, channels, size, size)"
            )
        x = x.unsqueeze(2)
        return x, levels(timestep, net.level.scale, token_grid(net.patch, *x.shape[2:])), {"label": label}

    def output(self, out: Tensor, arguments: Mapping[str, Any]) -> Tensor:
        """(B, C, 1, H, W) -> (B, C, H, W)."""
        return out.squeeze(2)


def embedder_links(depth: int, in_each_block: bool) -> list[Link]:
    """The embedders of timesteps and classes: one of ours for all copies, or theirs side by side."""
    stacked: Change = Joined(depth) if in_each_block else Copies(depth)
    beside: Change = Joined(depth, axis=1) if in_each_block else stacked
    out = {"weight": "level.out_weight", "bias": "level.out_bias"}
    links = []
    for kind in ("weight", "bias"):
        links += [
            Link((f"level.hidden.{kind}",), copies(depth, f"timestep_embedder.linear_1.{kind}"), stacked),
            Link(
                (out[kind] if in_each_block else f"level.out.{kind}",),
                copies(depth, f"timestep_embedder.linear_2.{kind}"),
                stacked,
            ),
        ]
    return [*links, Link(("vectors.label.table.weight",), copies(depth, EMBEDDED[-1]), beside)]


def copies(depth: int, name: str) -> tuple[str, ...]:
    """The keys of one tensor of the embedders of all blocks."""
    return tuple(f"{BLOCKS}.{i}.{EMBEDDER}.{name}" for i in range(depth))


def differ(weights: Mapping[str, Tensor], name: str) -> bool:
    """Whether a block's tensor differs from the first block's. One is read at a time, until one differs."""
    first = weights.get(f"{BLOCKS}.0.{EMBEDDER}.{name}")
    for i in range(1, len(weights)):
        other = weights.get(f"{BLOCKS}.{i}.{EMBEDDER}.{name}")
        if first is None or other is None or first.is_meta or other.shape != first.shape:
            return False  # there are no more blocks, or tensors are missing, which loading them reports
        if not torch.equal(other, first):
            return True
    return False
