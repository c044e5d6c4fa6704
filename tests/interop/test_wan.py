"""Wan: diffusers' WanTransformer3DModel as our network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dit.interop import call_like_diffusers, from_diffusers
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
SIZE = (4, 6, 10)  # latents: frames, height, width
VARIANTS: dict[str, dict[str, Any]] = {
    "t2v": {},
    "no norm before the text": {"cross_attn_norm": False},
    "patch over time, another eps": {"patch_size": [2, 1, 2], "eps": 1e-3},
    "i2v": {"in_channels": 9, "image_dim": 10, "added_kv_proj_dim": 32},
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
