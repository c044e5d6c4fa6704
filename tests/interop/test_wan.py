"""Wan: diffusers' WanTransformer3DModel as our network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate

from dit.interop import call_like_diffusers, from_diffusers
from dit.interop.diffusers import recognise
from dit.interop.presets import compose
from tests.interop.equality import assert_equal, assert_notices, assert_round_trip, build, example

diffusers = pytest.importorskip("diffusers")

TINY = {
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "in_channels": 4,
    "out_channels": 5,
    "text_dim": 12,
    "freq_dim": 8,
    "ffn_dim": 40,
    "num_layers": 2,
}
# `TINY` as presets had it for image-to-video: one input with all channels
SMALL = ["net.in_channels=14", "net.out_channels=5", "net.width=32", "net.heads=2", "net.text_width=12",
         "net.level.frequencies=8", "net.mlp.ratio=1.25", "net.norm.eps=1e-6"]  # fmt: skip
SIZE = (4, 6, 10)  # latents: frames, height, width
VARIANTS: dict[str, dict[str, Any]] = {
    "t2v": {},
    "no norm before the text": {"cross_attn_norm": False},
    "patch over time, another eps": {"patch_size": [2, 1, 2], "eps": 1e-3},
    "i2v": {"in_channels": 14, "image_dim": 10, "added_kv_proj_dim": 32},
    "i2v without image tokens": {"in_channels": 14},
    "other channels": {"in_channels": 9, "image_dim": 10, "added_kv_proj_dim": 32},
    "first and last frame": {"image_dim": 10, "added_kv_proj_dim": 32, "pos_embed_seq_len": 6},
}


def arguments(model: torch.nn.Module, timestep: str = "sample") -> dict[str, Any]:
    given = example(model, SIZE, text_tokens=7)
    if timestep == "frame":
        f, h, w = (n // p for n, p in zip(SIZE, model.config["patch_size"], strict=True))
        given["timestep"] = (1000 * torch.rand(2, f, generator=torch.manual_seed(4))).repeat_interleave(h * w, dim=1)
    return given


@pytest.mark.parametrize("timestep", ["sample", "frame"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_equals_diffusers(variant: str, timestep: str) -> None:
    config = {**TINY, **VARIANTS[variant]}
    if timestep == "frame" and config.get("patch_size"):
        pytest.skip("the reference takes one timestep a token there, ours one a latent frame")
    model = build(diffusers.WanTransformer3DModel, config)
    assert_equal(model, arguments(model, timestep))


def test_every_weight_matters() -> None:
    model = build(diffusers.WanTransformer3DModel, {**TINY, **VARIANTS["i2v"]})
    assert_notices(model, arguments(model))


@pytest.mark.parametrize("variant", VARIANTS)
def test_round_trip(variant: str, tmp_path: Path) -> None:
    assert_round_trip(build(diffusers.WanTransformer3DModel, {**TINY, **VARIANTS[variant]}), tmp_path)


def test_the_given_frames_are_channels_of_their_own() -> None:
    """So that the network takes a codec's latents; one input with all channels, as presets had it, still goes out."""
    model = build(diffusers.WanTransformer3DModel, {**TINY, "in_channels": 14})
    net = from_diffusers(model)
    assert (net.in_channels, net.concat_channels) == (5, {"given_frames": 4, "given_latents": 5})

    before = instantiate(compose("wan21_tiny", SMALL)).double()
    before.load_state_dict(net.state_dict())
    assert recognise(before).class_name == "WanTransformer3DModel"
    given = arguments(model)
    with torch.no_grad():
        assert torch.equal(call_like_diffusers(before, **given), call_like_diffusers(net, **given))


def test_a_text_of_another_length_beside_an_image() -> None:
    """The class counts 512 back from the end, and would take tokens of one for the other."""
    model = build(diffusers.WanTransformer3DModel, {**TINY, **VARIANTS["i2v"]})
    given = arguments(model)
    given["encoder_hidden_states"] = given["encoder_hidden_states"][:, :7]
    with pytest.raises(ValueError, match="encoder_hidden_states has 7 tokens; beside an image it must have 512"):
        call_like_diffusers(from_diffusers(model), **given)


def test_settings_of_an_object_that_no_part_can_be() -> None:
    model = diffusers.WanTransformer3DModel(**{**TINY, "attention_head_dim": 4})
    with pytest.raises(ValueError, match=r"^RoPE with head size 4[^\n]*$"):
        from_diffusers(model)
