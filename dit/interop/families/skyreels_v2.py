"""SkyReels-V2 (arXiv 2504.13074): diffusers' SkyReelsV2Transformer3DModel, Wan with causal blocks of frames."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dit.interop.families.wan import Wan
from dit.interop.family import Call, Network, Overrides
from dit.interop.weights import Link, linear
from dit.net.layout import BlockCausal
from dit.net.modulation import AdaLNSingleFPS

# Frames a second of the class's `fps`: 0 is 16, and 1 is any other rate, in its pipelines 24.
RATES = (16.0, 24.0)


class SkyReelsV2(Wan):
    """Without a frame rate and causal blocks it computes the same as a Wan; `net.family` says which it is."""

    class_name = "SkyReelsV2Transformer3DModel"
    preset = "skyreels_v2_tiny"
    defaults = {
        **Wan.defaults,
        "num_attention_heads": 16,
        "ffn_dim": 8192,
        "num_layers": 32,
        "inject_sample_info": False,
        "num_frame_per_block": 1,
    }

    def overrides(self, settings: Mapping[str, Any]) -> Overrides:
        made, block = super().overrides(settings), settings["num_frame_per_block"]
        modulation = "adaln_single_fps" if settings["inject_sample_info"] else "adaln_single"
        # The class takes 1 for attention to all frames, not for blocks of one frame.
        layout = {"pattern": "C", "templates.C.layout.block": block} if block > 1 else {"pattern": "F"}
        return Overrides({**made.groups, "modulation": modulation}, {**made.values, **layout})

    def config(self, net: Network) -> dict[str, Any]:
        layout = net.blocks[0].attention.layout
        return {
            **super().config(net),
            "inject_sample_info": isinstance(net.modulation, AdaLNSingleFPS),
            "num_frame_per_block": layout.block if isinstance(layout, BlockCausal) else 1,
        }

    def links(self, net: Network) -> list[Link]:
        if not isinstance(net.modulation, AdaLNSingleFPS):
            return super().links(net)
        return [
            *super().links(net),
            Link(("modulation.table.weight",), ("fps_embedding.weight",)),
            *linear("modulation.hidden", "fps_projection.net.0.proj"),
            *linear("modulation.out", "fps_projection.net.2"),
        ]

    def call(self, net: Network, arguments: Mapping[str, Any]) -> Call:
        """`enable_diffusion_forcing` says that `timestep` is (B, frames of tokens) and not (B,)."""
        own = ("fps", "enable_diffusion_forcing")
        fps, forcing = (arguments.get(name) for name in own)
        x, t, cond = super().call(net, {name: value for name, value in arguments.items() if name not in own})
        timestep = arguments["timestep"]
        if (timestep.dim() == 2) != bool(forcing):
            raise ValueError(
                f"timestep has shape {tuple(timestep.shape)}: with enable_diffusion_forcing it is (batch, frames of"
                " tokens), without it (batch,)"
            )
        if t.shape[1] > 1:
            t = t.repeat_interleave(net.patch[0], dim=1)  # of frames of latents
        if fps is not None:
            cond["fps"] = rates(fps, x.device)
        return x, t, cond


def rates(classes: Any, device: torch.device) -> Tensor:
    """The class's `fps`, 0 or 1 a sample -> cond["fps"], frames a second (B,)."""
    index = torch.as_tensor(classes, dtype=torch.long, device=device).reshape(-1)
    if int(index.min()) < 0 or int(index.max()) >= len(RATES):
        raise ValueError(f"fps={index.tolist()} must be 0 (16 frames a second) or 1 (any other rate) for each sample")
    return torch.tensor(RATES, device=device)[index]
