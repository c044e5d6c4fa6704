"""Allegro: diffusers' AllegroTransformer3DModel as our network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from dit.interop import call_like_diffusers, from_diffusers
from dit.interop.diffusers import adopted, net_config
from dit.interop.presets import compose
from scripts.twins.exact import exact
from tests.interop import equality
from tests.interop.equality import assert_equal, assert_notices, assert_round_trip

diffusers = pytest.importorskip("diffusers")

TINY = {
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "in_channels": 4,
    "out_channels": 5,
    "num_layers": 2,
    "cross_attention_dim": 24,
    "caption_channels": 10,
}
SIZE = (4, 6, 10)  # latents: frames, height, width
VARIANTS: dict[str, dict[str, Any]] = {
    "as published": {},
    "other scales": {"interpolation_scale_t": 1.0, "interpolation_scale_h": 1.25, "interpolation_scale_w": 3.0},
    "other parts": {"attention_bias": False, "activation_fn": "gelu", "norm_eps": 1e-3, "patch_size": 1},
}


def build(variant: str) -> torch.nn.Module:
    return equality.build(diffusers.AllegroTransformer3DModel, {**TINY, **VARIANTS[variant]})


def arguments(model: torch.nn.Module) -> dict[str, Any]:
    with exact():  # the rotary embedding too
        return equality.example(model, SIZE, text_tokens=7)


@pytest.mark.parametrize("variant", VARIANTS)
def test_equals_diffusers(variant: str) -> None:
    model = build(variant)
    assert_equal(model, arguments(model))


def test_equals_diffusers_without_a_mask_and_with_the_pipelines_text() -> None:
    """The pipeline gives text (B, 1, L, channels); a mask of the video that keeps everything says nothing."""
    model = build("as published")
    given = arguments(model)
    del given["encoder_attention_mask"]
    given["encoder_hidden_states"] = given["encoder_hidden_states"][:, None]
    given["attention_mask"] = torch.ones(2, *SIZE, dtype=torch.long)
    assert_equal(model, given)


def test_every_weight_matters() -> None:
    model = build("as published")
    assert_notices(model, arguments(model))


def test_a_text_without_real_tokens() -> None:
    """The class lowers all its scores alike, so it attends to all of them."""
    model = build("as published")
    given = arguments(model)
    given["encoder_attention_mask"][1] = False
    assert_equal(model, given)


@pytest.mark.parametrize("variant", VARIANTS)
def test_round_trip(variant: str, tmp_path: Path) -> None:
    assert_round_trip(build(variant), tmp_path)


# What rhymes-ai/Allegro's config.json has beside the settings of diffusers' class, and for three of them.
AUTHORS = {
    "_diffusers_version": "0.30.3",
    "ca_attention_mode": "xformers",
    "double_self_attention": False,
    "downsampler": None,
    "model_max_length": 300,
    "norm_type": "ada_norm_single",
    "num_embeds_ada_norm": 1000,
    "only_cross_attention": False,
    "sa_attention_mode": "flash",
    "sample_size": [90, 160],
    "sample_size_t": 22,
    "upcast_attention": False,
    "use_additional_conditions": None,
    "use_linear_projection": False,
    "use_rope": True,
}


def test_the_published_folder_has_settings_of_the_authors_class(tmp_path: Path) -> None:
    published = json.loads((Path(__file__).parent / "published/allegro.json").read_text())
    plain = {key: value for key, value in published.items() if not key.startswith("sample_")}
    assert net_config(adopted({**plain, **AUTHORS})) == compose("allegro")
    for setting, value in {"use_rope": False, "norm_type": "layer_norm", "double_self_attention": True}.items():
        with pytest.raises(ValueError, match=f"not known here: {setting}={value}"):
            net_config(adopted({**plain, **AUTHORS, setting: value}))

    made = build("as published").float()
    made.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for name in ("sample_height", "sample_width", "sample_frames"):
        del config[name]
    (tmp_path / "config.json").write_text(json.dumps({**config, **AUTHORS}))
    given = equality.example(made, SIZE, text_tokens=7)
    given = {
        key: value.float() if getattr(value, "dtype", None) == torch.float64 else value for key, value in given.items()
    }
    with torch.no_grad():
        wanted = call_like_diffusers(from_diffusers(made), **given)
        assert torch.equal(call_like_diffusers(from_diffusers(tmp_path), **given), wanted)


def test_refuses_arguments_that_it_would_ignore() -> None:
    model = build("as published")
    given, net = arguments(model), from_diffusers(model)
    holes = torch.ones(2, *SIZE)
    holes[0, -1] = 0
    tables, (t, h, w) = given["image_rotary_emb"]
    for change, says in (
        ({"attention_mask": holes}, "attention_mask is not supported"),
        ({"encoder_attention_mask": torch.zeros(2, 1, 7)}, "must be"),
        ({"encoder_attention_mask": torch.full((2, 7), 0.5)}, "must hold 1 for real tokens and 0 for padding"),
        ({"timestep": None}, "timestep=None must be a tensor"),
        ({"image_rotary_emb": None}, "image_rotary_emb is missing"),
        ({"image_rotary_emb": (tables, (t, h.flip(1), w))}, "is not that of this network"),
    ):
        with pytest.raises(ValueError, match=says):
            call_like_diffusers(net, **{**given, **change})


@pytest.mark.parametrize(
    "setting, says",
    [
        ({"activation_fn": "geglu"}, "activation_fn=geglu"),
        ({"norm_elementwise_affine": True}, "never uses"),
        ({"patch_size_t": 2}, "patch_size_t=2"),
        ({"dropout": 0.1}, "dropout=0.1"),
        ({"cross_attention_dim": 8}, "must be the width 24"),
        ({"num_attention_heads": 3, "attention_head_dim": 8}, "multiple of 6"),
        ({"interpolation_scale_h": None}, "interpolation_scale_h=null"),
    ],
)
def test_refuses_settings_that_no_part_can_be(setting: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        net_config({"_class_name": "AllegroTransformer3DModel", **TINY, **setting})
