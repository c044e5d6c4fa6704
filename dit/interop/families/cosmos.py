"""Cosmos 1.0, Predict2 and Predict2.5 (arXiv 2501.03575): diffusers' CosmosTransformer3DModel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.nn import functional

from dit.interop.families.basic import attention_links, mlp_links
from dit.interop.family import Call, Family, Network, Overrides, levels, take
from dit.interop.weights import Link, Reordered, joined_linear, linear
from dit.net.attention import TwoQueryCrossAttention
from dit.net.coordinates import AXES
from dit.net.patches import Grid, token_grid
from dit.net.position.base import Several
from dit.net.position.tables import AxisTables
from dit.net.text import NarrowCrossText

OFFSET = "learnable_pos_embed"


class Cosmos(Family):
    class_name = "CosmosTransformer3DModel"
    preset = "cosmos_tiny"
    defaults = {
        "in_channels": 16,
        "out_channels": 16,
        "num_attention_heads": 32,
        "attention_head_dim": 128,
        "num_layers": 28,
        "mlp_ratio": 4.0,
        "text_embed_dim": 1024,
        "adaln_lora_dim": 256,
        "max_size": [128, 240, 240],
        "patch_size": [1, 2, 2],
        "rope_scale": [2.0, 1.0, 1.0],
        "concat_padding_mask": True,
        "extra_pos_embed_type": "learnable",
        "use_crossattn_projection": False,
        "crossattn_proj_in_channels": 1024,
        "encoder_hidden_states_channels": 1024,
        "controlnet_block_every_n": None,
        "img_context_dim_in": None,
        "img_context_num_tokens": 256,
        "img_context_dim_out": 2048,
    }
    also = {"extra_pos_embed_type": (None,), "controlnet_block_every_n": (7,), "img_context_dim_in": (1152,)}

    def overrides(self, settings: Mapping[str, Any]) -> Overrides:
        s = settings
        width = s["num_attention_heads"] * s["attention_head_dim"]
        if s["controlnet_block_every_n"] is not None:
            raise ValueError(
                f"controlnet_block_every_n={s['controlnet_block_every_n']}: a ControlNet's residuals are not supported"
            )
        if s["extra_pos_embed_type"] not in (None, "learnable"):
            raise ValueError(f"extra_pos_embed_type={s['extra_pos_embed_type']} must be null or learnable")
        projected, image = s["use_crossattn_projection"], s["img_context_dim_in"]
        if projected and s["encoder_hidden_states_channels"] != s["text_embed_dim"]:
            raise ValueError(
                f"encoder_hidden_states_channels={s['encoder_hidden_states_channels']} must be"
                f" text_embed_dim={s['text_embed_dim']}, which the blocks read"
            )
        if image and s["img_context_dim_out"] != width:
            raise ValueError(f"img_context_dim_out={s['img_context_dim_out']} must be the width {width}")

        learnable = s["extra_pos_embed_type"] == "learnable"
        groups = {
            "text": f"cross_{'narrow' if projected else 'features'}{'_image' if image else ''}",
            "position": "timed_rope_tables" if learnable else "timed_rope",
        }
        rotary = "position.parts.rotary" if learnable else "position"
        tokens = [size // step for size, step in zip(s["max_size"], s["patch_size"], strict=True)]
        # Channels beyond those of the output mark what is given: the class gets them as `condition_mask`.
        marks = max(0, s["in_channels"] - s["out_channels"])
        values = {
            **({"text.context_width": s["text_embed_dim"]} if projected else {}),
            **({"text.image.features": image} if image else {}),
            **({"position.parts.tables.grid": tokens} if learnable else {}),
            f"{rotary}.scale": dict(zip(AXES, s["rope_scale"], strict=True)),
            "in_channels": s["in_channels"] - marks,
            "out_channels": s["out_channels"],
            "concat_channels": {"given": marks or None, "padding": 1 if s["concat_padding_mask"] else None},
            "patch": list(s["patch_size"]),
            "width": width,
            "level_width": 4 * width,
            "heads": s["num_attention_heads"],
            "depth": s["num_layers"],
            "text_width": s["crossattn_proj_in_channels"] if projected else s["text_embed_dim"],
            "modulation.rank": s["adaln_lora_dim"],
            "mlp.ratio": int(width * s["mlp_ratio"]) / width,
        }
        return Overrides(groups, values)

    def config(self, net: Network) -> dict[str, Any]:
        cross, position = net.blocks[0].cross_attention, net.position
        rotary, tables = (position.parts.rotary, position.parts.tables) if is_several(position) else (position, None)
        narrow = isinstance(net.text, NarrowCrossText)
        image = isinstance(cross, TwoQueryCrossAttention)
        changed = {
            "max_size": [len(tables.tables[axis]) * step for axis, step in zip(AXES, net.patch, strict=True)]
            if tables is not None
            else self.defaults["max_size"],
            "crossattn_proj_in_channels": net.text.text_width if narrow else 1024,
            "encoder_hidden_states_channels": net.text.cross_width if narrow else 1024,
            "img_context_dim_in": net.text.image.linear.in_features if image else None,
            "img_context_dim_out": net.width if image else 2048,
        }
        return {
            **self.defaults,
            **changed,
            "in_channels": net.in_channels + net.concat_channels.get("given", 0),
            "out_channels": net.out_channels,
            "num_attention_heads": net.heads,
            "attention_head_dim": net.width // net.heads,
            "num_layers": net.depth,
            "mlp_ratio": ratio_of(net.blocks[0].mlp.up.out_features, net.width),
            "text_embed_dim": net.text.cross_width,
            "adaln_lora_dim": net.modulation.rank,
            "patch_size": list(net.patch),
            "rope_scale": [rotary.scale[axis] for axis in AXES],
            "concat_padding_mask": "padding" in net.concat_channels,
            "extra_pos_embed_type": None if tables is None else "learnable",
            "use_crossattn_projection": narrow,
        }

    def links(self, net: Network) -> list[Link]:
        time = "time_embed"
        links = [
            *linear("embed", "patch_embed.proj", bias=False),
            *linear("level.norm", f"{time}.norm", bias=False),
            *linear("level.hidden", f"{time}.t_embedder.linear_1", bias=False),
            *linear("level.out", f"{time}.t_embedder.linear_2", bias=False),
            *linear("final.modulation.down", "norm_out.linear_1", bias=False),
            *linear("final.modulation.up.0", "norm_out.linear_2", bias=False),
            Link(("final.linear.weight",), ("proj_out.weight",), Reordered(frames_last(net.out_channels, net.patch))),
        ]
        if is_several(net.position):
            tables = [f"position.parts.tables.tables.{axis}" for axis in AXES]
            theirs = [f"{OFFSET}.pos_emb_{axis}" for axis in ("t", "h", "w")]
            links += [Link((ours,), (there,)) for ours, there in zip(tables, theirs, strict=True)]
        if isinstance(net.text, NarrowCrossText):
            links += linear("text.embed.linear", "crossattn_proj.0")
        if net.text.image is not None:
            links += linear("text.image.linear", "img_context_proj.0")
        for i, block in enumerate(net.blocks):
            links += self.block_links(f"blocks.{i}", f"transformer_blocks.{i}", block)
        return links

    def block_links(self, ours: str, theirs: str, block: Any) -> list[Link]:
        cross = f"{ours}.cross_attention"
        links = [
            *joined_linear(f"{ours}.modulation.down", [f"{theirs}.norm{x}.linear_1" for x in (1, 2, 3)], bias=False),
            *attention_links(ours, theirs, block),
            *mlp_links(f"{ours}.mlp", f"{theirs}.ff", block.mlp),
        ]
        for x in range(3):
            links += linear(f"{ours}.modulation.up.{x}", f"{theirs}.norm{x + 1}.linear_2", bias=False)
        if isinstance(block.cross_attention, TwoQueryCrossAttention):
            links += [
                *linear(f"{cross}.image_q", f"{theirs}.attn2.q_img", bias=False),
                *joined_linear(f"{cross}.image_kv", [f"{theirs}.attn2.{x}_img" for x in "kv"], bias=False),
                *linear(f"{cross}.image_norm_q", f"{theirs}.attn2.q_img_norm", bias=False),
                *linear(f"{cross}.image_norm_k", f"{theirs}.attn2.k_img_norm", bias=False),
            ]
        return links

    def call(self, net: Network, arguments: Mapping[str, Any]) -> Call:
        x, timestep, text, keep, fps, marks, padding = take(
            arguments,
            "hidden_states",
            "timestep",
            "encoder_hidden_states",
            "attention_mask",
            "fps",
            "condition_mask",
            "padding_mask",
        )
        text, image = text if isinstance(text, tuple) else (text, None)
        cond = {"text": text}
        if image is not None:
            cond["image"] = image
        if keep is not None:
            if keep.dtype is not torch.bool:
                raise ValueError(f"attention_mask is {keep.dtype}; it must be bool, True for real tokens")
            cond["text_mask"] = keep
        if fps is not None:
            cond["fps"] = torch.as_tensor(fps, dtype=torch.float64, device=x.device).reshape(-1)
        x = x if marks is None else torch.cat([x, marks.to(x.dtype)], dim=1)
        if "given" in net.concat_channels:
            cond["given"], x = x[:, net.in_channels :], x[:, : net.in_channels]
        if "padding" in net.concat_channels and padding is not None:
            resized = functional.interpolate(padding.to(x.dtype), size=x.shape[-2:], mode="nearest")
            cond["padding"] = resized.unsqueeze(2).expand(len(x), -1, x.shape[2], -1, -1)
        times = timestep.flatten(1) if timestep.dim() == 5 else timestep
        return x, levels(times, net.level.scale, token_grid(net.patch, *x.shape[2:])), cond


def is_several(position: Any) -> bool:
    return isinstance(position, Several) and isinstance(position.parts["tables"], AxisTables)


def frames_last(channels: int, patch: Grid) -> tuple[int, ...]:
    """The order that takes patch outputs (h, w, f, C) to ours, (f, h, w, C)."""
    f, h, w = patch
    return tuple(torch.arange(f * h * w * channels).view(h, w, f, channels).permute(2, 0, 1, 3).flatten().tolist())


def ratio_of(hidden: int, width: int) -> float:
    """A ratio from which the class derives this hidden width; it rounds down."""
    return hidden / width if int(hidden / width * width) == hidden else (hidden + 0.5) / width
