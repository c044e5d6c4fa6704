"""What DiT and Latte share in diffusers: `BasicTransformerBlock`, and settings that older versions wrote."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dit.interop.family import Network
from dit.interop.weights import Link, joined_linear, linear, reordered_linear, swapped_halves
from dit.net.layers import GEGLU, GELUMLP, SwiGLU

# activation_fn -> overrides. diffusers' hidden layer is four times the width, also in front of a gate.
MLPS: Mapping[str, list[str]] = {
    "gelu-approximate": ["net/mlp=gelu_tanh"],
    "gelu": ["net/mlp=gelu"],
    "geglu": ["net/mlp=geglu", "net.mlp.ratio=4.0", "net.mlp.multiple_of=1"],
    "swiglu": ["net/mlp=swiglu", "net.mlp.ratio=4.0", "net.mlp.multiple_of=1"],
}
# Settings of the class that both were once, Transformer2DModel, at the values under which they do nothing.
LEFTOVERS: Mapping[str, Any] = {
    "attention_type": "default",
    "double_self_attention": False,
    "num_vector_embeds": None,
    "only_cross_attention": False,
    "use_linear_projection": False,
}


def mlp_overrides(settings: Mapping[str, Any]) -> list[str]:
    """The overrides for `activation_fn`. Raises ValueError for one that no part of ours computes, and for dropout."""
    if settings["activation_fn"] not in MLPS:
        raise ValueError(f"activation_fn={settings['activation_fn']} is not supported; there are {', '.join(MLPS)}")
    if settings["dropout"]:
        raise ValueError(f"dropout={settings['dropout']} is not supported: this network has none; set it to 0.0")
    return MLPS[settings["activation_fn"]]


def activation(mlp: Any) -> str:
    """The inverse of `mlp_overrides`. Raises ValueError for another MLP."""
    if isinstance(mlp, GELUMLP):
        return "gelu-approximate" if mlp.approximate == "tanh" else "gelu"
    names = {GEGLU: "geglu", SwiGLU: "swiglu"}
    if type(mlp) not in names:
        raise ValueError(f"{type(mlp).__name__} is no MLP of diffusers' BasicTransformerBlock")
    return names[type(mlp)]


def attention_links(ours: str, theirs: str, block: Network) -> list[Link]:
    """Self-attention, and cross-attention where the block has it: q, k and v without bias if the block's are."""
    bias = block.attention.qkv.bias is not None
    links = [
        *joined_linear(f"{ours}.attention.qkv", [f"{theirs}.attn1.to_{x}" for x in "qkv"], bias=bias),
        *linear(f"{ours}.attention.out", f"{theirs}.attn1.to_out.0"),
    ]
    if block.cross_attention is not None:
        links += [
            *linear(f"{ours}.cross_attention.q", f"{theirs}.attn2.to_q", bias=bias),
            *joined_linear(f"{ours}.cross_attention.kv", [f"{theirs}.attn2.to_{x}" for x in "kv"], bias=bias),
            *linear(f"{ours}.cross_attention.out", f"{theirs}.attn2.to_out.0"),
        ]
    return links


def mlp_links(ours: str, theirs: str, mlp: Any) -> list[Link]:
    """The MLP; diffusers has the gate behind the value, we in front of it."""
    down = linear(f"{ours}.down", f"{theirs}.net.2")
    if isinstance(mlp, GELUMLP):
        return [*linear(f"{ours}.up", f"{theirs}.net.0.proj"), *down]
    order = swapped_halves(mlp.gate_and_value.out_features)
    return [*reordered_linear(f"{ours}.gate_and_value", f"{theirs}.net.0.proj", order), *down]


def renamed(config: Mapping[str, Any], class_name: str) -> dict[str, Any]:
    """config.json under today's name of its class, without the leftovers of an older one."""
    kept = {key: value for key, value in config.items() if key not in LEFTOVERS or value != LEFTOVERS[key]}
    return {**kept, "_class_name": class_name}
