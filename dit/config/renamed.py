"""Configs of before in the words of today: classes and arguments that were moved, renamed or added since.

A run's `config.yaml`, the config in a checkpoint and that of a saved network name classes and arguments. Whoever reads
one gives it to `current` first: then it builds, and equals what the same command composes today. Nothing else knows the
old names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dit.config.kinds import TARGET
from dit.config.pattern import short

CLASSES = {
    "dit.interop.adapter.LoRA": "dit.adapters.LoRA",
    "dit.net.alignment.Alignment": "dit.recipes.alignment.Alignment",
    "dit.net.alignment.FrameFeatures": "dit.recipes.encoders.FrameFeatures",
    "dit.net.alignment.pretrained": "dit.recipes.encoders.pretrained",
    "dit.net.asymmetric.AttentionPool": "dit.net.refiner.AttentionPool",
    "dit.net.asymmetric.PooledText": "dit.net.refiner.PooledText",
    "dit.net.asymmetric.Sandwich": "dit.net.dual.Sandwich",
    "dit.net.checkpointing.EveryNth": "dit.net.runner.EveryNth",
    "dit.net.checkpointing.KeepAll": "dit.net.runner.KeepAll",
    "dit.net.context.LastFrame": "dit.net.sequence.LastFrame",
    "dit.net.context.MeanOfFrames": "dit.net.sequence.MeanOfFrames",
    "dit.net.context.TextFirst": "dit.net.sequence.TextFirst",
    "dit.net.context.VideoFirst": "dit.net.sequence.VideoFirst",
    "dit.net.final.OneLevelFinal": "dit.net.final.AdaLNFinal",
    "dit.net.frame_rate.AdaLNSingleFPS": "dit.net.modulation.AdaLNSingleFPS",
    "dit.net.image.ImageCrossAttention": "dit.net.attention.ImageCrossAttention",
    "dit.net.image.ImageTokens": "dit.net.embed.ImageTokens",
    "dit.net.image.TwoQueryCrossAttention": "dit.net.attention.TwoQueryCrossAttention",
    "dit.net.joint.Joint": "dit.net.dual.Joint",
    "dit.net.joint.PlacedTokens": "dit.net.text.PlacedTokens",
    "dit.net.joint.TokenLinear": "dit.net.text.TokenLinear",
    "dit.net.joint.WholeText": "dit.net.text.WholeText",
    "dit.net.low_rank.LowRank": "dit.net.modulation.LowRank",
    "dit.net.low_rank.TwofoldEmbedding": "dit.net.embed.TwofoldEmbedding",
    "dit.net.per_block.PerBlockAdaLNZero": "dit.net.modulation.PerBlockAdaLNZero",
    "dit.net.per_block.PerBlockEmbedding": "dit.net.embed.PerBlockEmbedding",
    "dit.net.position.learned_rotary.LearnedRoPE3D": "dit.net.position.rope.LearnedRoPE3D",
    "dit.net.position.places.Counted": "dit.net.position.coordinates.Counted",
    "dit.net.position.places.Divided": "dit.net.position.coordinates.Divided",
    "dit.net.position.places.Fitted": "dit.net.position.coordinates.Fitted",
    "dit.net.position.places.Timed": "dit.net.position.coordinates.Timed",
}
# Class, by its name of today -> argument of before -> what it is called now.
ARGUMENTS = {"dit.net.position.rope.RoPE3D": {"places": "coordinates"}}
# Class -> argument -> what null in its place is called now.
NULLS: dict[str, dict[str, Any]] = {
    "dit.net.backbone.Backbone": {
        "position": {"_target_": "dit.net.position.base.NoPosition", "_partial_": True},
        "qk_norm": {"_target_": "dit.net.attention.NoQKNorm", "_partial_": True},
        "text": {"_target_": "dit.net.text.NoText", "_partial_": True},
    }
}
# Class -> argument -> the value that says what a config without it meant.
HELD = {"_target_": "dit.diffusion.given.Held", "in_start": 0.0, "fresh": 0.0, "unknown": "nearest"}
ADDED: dict[str, dict[str, Any]] = {
    "dit.net.final.AdaLNFinal": {"level": None},
    "dit.signals.guidance.GuidanceScale": {"in_training": None},
    "dit.codec.pretrained.Pretrained": {"lead": 0},
    "dit.codec.tiny.Tiny": {"dtype": "float32"},
    "dit.codec.vae.codec.VAE": {"dtype": "float32"},
    "dit.diffusion.given.Beside": {"in_start": 0.0, "scale": 1.0, "cut": 0},
    "dit.diffusion.given.Held": {"in_start": 0.0, "fresh": 0.0},
    "dit.diffusion.given.HeldAfresh": {"log_mean": -3.0, "log_std": 2.0},
    "dit.diffusion.loss.Objective": {"given": HELD},
    "dit.sampling.stochastic.FixedStride": {"num_steps": None},
    "dit.signals.image.Image": {"frames": "first"},
}


def current(node: Any) -> Any:
    """A config, or a part of one, as it is written today. node: plain containers, no deeper than Python recurses."""
    if isinstance(node, (list, tuple)):
        return [current(each) for each in node]
    if not isinstance(node, Mapping):
        return node
    target = node.get(TARGET)
    if not isinstance(target, str):
        return {key: current(value) for key, value in node.items()}
    target = CLASSES.get(target, target)
    arguments = ARGUMENTS.get(target, {})
    renamed = {arguments.get(key, key): current(value) for key, value in node.items()}
    renamed |= {key: value for key, value in ADDED.get(target, {}).items() if key not in renamed}
    renamed |= {key: value for key, value in NULLS.get(target, {}).items() if renamed.get(key, value) is None}
    if "pattern" in renamed:
        renamed["pattern"] = one_spelling(renamed["pattern"])
    return {**renamed, TARGET: target}


def one_spelling(pattern: Any) -> Any:
    """A network's `pattern` as `pattern.short` writes it; what is none stays."""
    try:
        return short(pattern) if isinstance(pattern, str) else pattern
    except ValueError:
        return pattern
