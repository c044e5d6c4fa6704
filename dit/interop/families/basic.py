"""Modules that several classes of diffusers have: attention, MLP, embeddings. For DiT and Latte also the settings of
`BasicTransformerBlock`, and those that older versions wrote."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dit.interop.family import Network, Overrides
from dit.interop.weights import Link, joined_linear, linear, reordered_linear, swapped_halves
from dit.net.layers import GEGLU, GELUMLP, SwiGLU

# activation_fn -> the MLP. diffusers' hidden layer is four times the width, with a gate too.
GATED = {"mlp.ratio": 4.0, "mlp.multiple_of": 1}
MLPS: Mapping[str, Overrides] = {
    "gelu-approximate": Overrides({"mlp": "gelu_tanh"}, {}),
    "gelu": Overrides({"mlp": "gelu"}, {}),
    "geglu": Overrides({"mlp": "geglu"}, GATED),
    "swiglu": Overrides({"mlp": "swiglu"}, GATED),
}
# Settings that both had as Transformer2DModel, and the values at which they change nothing.
LEFTOVERS: Mapping[str, Any] = {
    "attention_type": "default",
    "double_self_attention": False,
    "num_vector_embeds": None,
    "only_cross_attention": False,
    "use_linear_projection": False,
}


def mlp_overrides(settings: Mapping[str, Any]) -> Overrides:
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
    """Self-attention (`attn1`) and the block's cross-attention (`attn2`), if it has one; biases and norms as it has."""
    links = [
        *joined_linear(
            f"{ours}.attention.qkv", [f"{theirs}.attn1.to_{x}" for x in "qkv"], bias=biased(block.attention.qkv)
        ),
        *qk_norm_links(f"{ours}.attention", f"{theirs}.attn1.norm", block.attention),
        *linear(f"{ours}.attention.out", f"{theirs}.attn1.to_out.0", bias=biased(block.attention.out)),
    ]
    cross = getattr(block, "cross_attention", None)
    if cross is not None:
        links += [
            *linear(f"{ours}.cross_attention.q", f"{theirs}.attn2.to_q", bias=biased(cross.q)),
            *joined_linear(
                f"{ours}.cross_attention.kv", [f"{theirs}.attn2.to_{x}" for x in "kv"], bias=biased(cross.kv)
            ),
            *qk_norm_links(f"{ours}.cross_attention", f"{theirs}.attn2.norm", cross),
            *linear(f"{ours}.cross_attention.out", f"{theirs}.attn2.to_out.0", bias=biased(cross.out)),
        ]
    return links


def qk_norm_links(ours: str, theirs: str, attention: Any) -> list[Link]:
    """The parameters of the norms of queries and keys. theirs: the name of both norms, without `_q` or `_k`. attention:
    our module that holds the norms.
    """
    return [
        Link((f"{ours}.norm_{x}.{name}",), (f"{theirs}_{x}.{name.removeprefix('norm.')}",))
        for x in "qk"
        for name, _ in getattr(attention, f"norm_{x}").named_parameters()
    ]


def embedding_links(ours: str, theirs: str) -> list[Link]:
    """Linear, activation, Linear: diffusers' `TimestepEmbedding` and `PixArtAlphaTextProjection`."""
    return [*linear(f"{ours}.hidden", f"{theirs}.linear_1"), *linear(f"{ours}.out", f"{theirs}.linear_2")]


def mlp_links(ours: str, theirs: str, mlp: Any) -> list[Link]:
    """The MLP, diffusers' `FeedForward`. If it has a gate, diffusers' order is value, gate; ours is gate, value."""
    down = linear(f"{ours}.down", f"{theirs}.net.2", bias=biased(mlp.down))
    if not isinstance(mlp, SwiGLU):
        return [*linear(f"{ours}.up", f"{theirs}.net.0.proj", bias=biased(mlp.up)), *down]
    order, bias = swapped_halves(mlp.gate_and_value.out_features), biased(mlp.gate_and_value)
    return [*reordered_linear(f"{ours}.gate_and_value", f"{theirs}.net.0.proj", order, bias=bias), *down]


def biased(layer: Any) -> bool:
    """Whether a Linear has a bias."""
    return layer.bias is not None


def renamed(config: Mapping[str, Any], class_name: str, more: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """config.json with today's name of its class, without `LEFTOVERS` and `more` of them that change nothing."""
    leftovers = {**LEFTOVERS, **(more or {})}
    kept = {key: value for key, value in config.items() if key not in leftovers or value != leftovers[key]}
    return {**kept, "_class_name": class_name}
