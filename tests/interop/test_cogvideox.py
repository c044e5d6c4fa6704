"""CogVideoX: diffusers' CogVideoXTransformer3DModel as our network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dit.interop import call_like_diffusers, from_diffusers
from dit.interop.diffusers import net_config
from scripts.twins.exact import exact
from tests.interop import equality
from tests.interop.equality import assert_equal, assert_notices, assert_round_trip
from tests.interop.reference import relative

diffusers = pytest.importorskip("diffusers")

TINY = {
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "in_channels": 4,
    "out_channels": 5,
    "time_embed_dim": 24,
    "text_embed_dim": 12,
    "num_layers": 2,
    "sample_height": 10,
    "sample_width": 18,
}
SIZE = (4, 6, 10)  # latents: frames, height, width
ROTARY = {"use_rotary_positional_embeddings": True}
LEARNED = {
    **ROTARY,
    "use_learned_positional_embeddings": True,
    "max_text_seq_length": 7,
    "sample_height": SIZE[1],
    "sample_width": SIZE[2],
    "sample_frames": 13,
}
# What 1.5 reads of these settings is the largest picture alone, and that it has no bias of a patch is not true.
COUNTED = {
    **ROTARY,
    "patch_size_t": 2,
    "patch_bias": False,
    "sample_height": 300,
    "sample_width": 300,
    "sample_frames": 81,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "sincos": {"max_text_seq_length": 7, "temporal_interpolation_scale": 1.5, "sample_height": 60, "sample_width": 90},
    "rotary, wider training": ROTARY,
    "rotary, higher training": {**ROTARY, "sample_height": 18, "sample_width": 10},
    "learned": LEARNED,
    "1.5": COUNTED,
    "1.5 with ofs": {**COUNTED, "ofs_embed_dim": 24},
    "i2v": {**LEARNED, "in_channels": 10},
    "1.5 i2v": {**COUNTED, "ofs_embed_dim": 24, "in_channels": 10},
    "other parts": {
        **ROTARY,
        "freq_shift": 1,
        "attention_bias": False,
        "patch_bias": False,
        "activation_fn": "gelu",
        "norm_elementwise_affine": False,
        "norm_eps": 1e-3,
    },
}


def build(variant: str) -> torch.nn.Module:
    """A random model; the learned positions are a buffer there, and random too."""
    model = equality.build(diffusers.CogVideoXTransformer3DModel, {**TINY, **VARIANTS[variant]})
    if VARIANTS[variant].get("use_learned_positional_embeddings"):
        table = model.patch_embed.pos_embedding
        table.copy_(torch.randn(table.shape, generator=torch.manual_seed(7), dtype=table.dtype))
    return model


def arguments(model: torch.nn.Module) -> dict[str, Any]:
    with exact():  # the rotary embedding too
        return equality.example(model, SIZE, text_tokens=7)


@pytest.mark.parametrize("variant", VARIANTS)
def test_equals_diffusers(variant: str) -> None:
    model = build(variant)
    assert_equal(model, arguments(model))


@pytest.mark.parametrize("size", [(1, 2, 18), (3, 14, 4), (2, 14, 8), (1, 4, 22)])
def test_equals_diffusers_on_pictures_of_other_shapes(size: tuple[int, int, int]) -> None:
    """They are fitted into the training's picture by another side, and stand in its middle."""
    model = build("rotary, wider training")
    with exact():
        given = equality.example(model, size, text_tokens=5)
    assert_equal(model, given)


@pytest.mark.parametrize("variant", ["rotary, wider training", "learned", "1.5"])
def test_tables_in_float32_are_all_that_parts_it(variant: str) -> None:
    """The pipelines hand over tables in float32; what that does to the class is what parts it from ours."""
    model = build(variant)
    right = arguments(model)
    rounded = {**right, "image_rotary_emb": equality.example(model, SIZE, text_tokens=7)["image_rotary_emb"]}
    assert rounded["image_rotary_emb"][0].dtype is torch.float32
    with torch.no_grad():
        ours = call_like_diffusers(from_diffusers(model), **rounded)
        exactly, roughly = equality.sample(model, right), equality.sample(model, rounded)
    assert relative(ours, exactly) < 1e-12
    assert 1e-10 < relative(roughly, exactly) < 1e-6
    assert relative(ours, roughly) < 1.01 * relative(exactly, roughly)


@pytest.mark.parametrize("variant", ["learned", "1.5 with ofs"])
def test_every_weight_matters(variant: str) -> None:
    model = build(variant)
    assert_notices(model, arguments(model))


@pytest.mark.parametrize("variant", VARIANTS)
def test_round_trip(variant: str, tmp_path: Path) -> None:
    assert_round_trip(build(variant), tmp_path)


@pytest.mark.parametrize(
    "change, says",
    [
        ({"image_rotary_emb": None}, "image_rotary_emb is missing"),
        ({"size": (4, 6, 12)}, "image_rotary_emb has the shape"),
        ({"turned": True}, "is not that of this network"),
        ({"ofs": torch.ones(2)}, "has no ofs_embed_dim"),
        ({"timestep_cond": torch.ones(2)}, "timestep_cond is not an argument"),
    ],
)
def test_refuses_arguments_that_it_would_ignore(change: dict[str, Any], says: str) -> None:
    model = build("rotary, wider training")
    given = arguments(model)
    if change.pop("turned", False):
        cos, sin = given["image_rotary_emb"]
        change = {"image_rotary_emb": (cos, -sin)}
    if size := change.pop("size", None):
        given["hidden_states"] = torch.zeros(2, size[0], 4, *size[1:], dtype=torch.float64)
    with pytest.raises(ValueError, match=says):
        call_like_diffusers(from_diffusers(model), **{**given, **change})


def test_refuses_sizes_that_learned_positions_are_not_for() -> None:
    model = build("learned")
    with exact():
        given = equality.example(model, (3, *SIZE[1:]), text_tokens=7)
    with pytest.raises(ValueError, match="learned positions there are"):
        call_like_diffusers(from_diffusers(model), **given)


def test_refuses_rotary_embeddings_where_positions_are_added() -> None:
    model = build("sincos")
    given = {**arguments(model), "image_rotary_emb": (torch.ones(60, 16), torch.zeros(60, 16))}
    with pytest.raises(ValueError, match="not rotary"):
        call_like_diffusers(from_diffusers(model), **given)


def test_refuses_texts_of_another_length() -> None:
    model = build("sincos")
    given = arguments(model)
    given["encoder_hidden_states"] = given["encoder_hidden_states"][:, :5]
    with pytest.raises(ValueError, match="5 tokens; this network reads texts of 7"):
        call_like_diffusers(from_diffusers(model), **given)


@pytest.mark.parametrize(
    "setting, says",
    [
        ({"activation_fn": "geglu"}, "activation_fn=geglu"),
        ({"flip_sin_to_cos": False}, "flip_sin_to_cos=False"),
        ({"timestep_activation_fn": "gelu"}, "timestep_activation_fn=gelu"),
        ({"dropout": 0.1}, "dropout=0.1"),
        ({"ofs_embed_dim": 8}, "ofs_embed_dim=8 must be time_embed_dim=24"),
        ({"patch_size_t": 2}, "positions that are rotary alone"),
        ({**ROTARY, "attention_head_dim": 24}, "attention_head_dim=24 must be a multiple of 16"),
        ({"num_attention_heads": 1, "attention_head_dim": 24}, "the width 24 must be a multiple of 16"),
        ({"use_learned_positional_embeddings": True}, "needs use_rotary_positional_embeddings"),
    ],
)
def test_refuses_settings_that_no_part_can_be(setting: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        net_config({"_class_name": "CogVideoXTransformer3DModel", **TINY, **setting})
