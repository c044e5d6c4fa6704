"""HunyuanVideo 1.5: diffusers' HunyuanVideo15Transformer3DModel as our network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dit.interop import call_like_diffusers, from_diffusers
from dit.interop.families.hunyuan_video15 import HunyuanVideo15
from tests.interop.equality import assert_equal, assert_notices, assert_round_trip, build, example, sample
from tests.interop.reference import relative

diffusers = pytest.importorskip("diffusers")

TINY = {
    "in_channels": 9,
    "out_channels": 4,
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "num_layers": 2,
    "num_refiner_layers": 2,
    "text_embed_dim": 12,
    "text_embed_2_dim": 6,
    "image_embed_dim": 10,
    "rope_axes_dim": [4, 4, 8],
}
SIZE = (3, 4, 6)  # latents: frames, height, width
VARIANTS: dict[str, dict[str, Any]] = {
    "with an image": {},
    "other sizes": {"patch_size": 2, "patch_size_t": 3, "mlp_ratio": 2.5, "rope_theta": 100.0, "num_refiner_layers": 1},
    "channels of a video alone": {"in_channels": 4},
    "LayerNorm of queries and keys": {"qk_norm": "layer_norm"},
}


def model_of(variant: str) -> torch.nn.Module:
    return build(diffusers.HunyuanVideo15Transformer3DModel, {**TINY, **VARIANTS[variant]})


def arguments(model: torch.nn.Module, image: bool = True) -> dict[str, Any]:
    given = example(model, SIZE, text_tokens=7)
    return given if image else {**given, "image_embeds": torch.zeros_like(given["image_embeds"])}


@pytest.mark.parametrize("variant", VARIANTS)
def test_equals_diffusers(variant: str) -> None:
    model = model_of(variant)
    assert_equal(model, arguments(model))


def test_equals_diffusers_without_an_image() -> None:
    """Text-to-video: an image of zeros, whose tokens the class masks and ours leaves out."""
    model = model_of("with an image")
    net, given = from_diffusers(model), arguments(model, image=False)
    with torch.no_grad():
        ours = call_like_diffusers(net, **given)
        assert relative(ours, sample(model, given)) < 1e-9
        assert relative(ours, call_like_diffusers(net, **arguments(model))) > 1e-3


def test_padding_is_not_read_wherever_it_stands() -> None:
    model = model_of("with an image")
    net, given = from_diffusers(model), arguments(model)
    given["encoder_attention_mask"][1] = given["encoder_attention_mask"][1].flip(0)
    with torch.no_grad():
        right = call_like_diffusers(net, **given)
        assert relative(right, sample(model, given)) < 1e-9
        for name, mask in (("", given["encoder_attention_mask"]), ("_2", given["encoder_attention_mask_2"])):
            key = f"encoder_hidden_states{name}"
            assert not mask.all()
            changed = {**given, key: given[key].masked_fill(~mask[..., None], 9.0)}
            assert relative(call_like_diffusers(net, **changed), right) < 1e-12


def test_every_weight_matters() -> None:
    """But for those that make the text behind the last block, which nobody reads."""
    model = model_of("with an image")
    last = "blocks.1"
    assert_notices(
        model,
        arguments(model),
        skip=(f"{last}.attention.text_out.", f"{last}.attention.text.norm_q.", f"{last}.text_mlp."),
    )


@pytest.mark.parametrize("variant", VARIANTS)
def test_round_trip(variant: str, tmp_path: Path) -> None:
    assert_round_trip(model_of(variant), tmp_path)


@pytest.mark.parametrize(
    "setting, message",
    [
        ({"use_meanflow": True}, "use_meanflow=True is not supported"),
        ({"qk_norm": "l2"}, "qk_norm=l2 is not supported; there are rms_norm, layer_norm, None"),
        ({"rope_axes_dim": [4, 4, 4]}, "rope_axes_dim=.4, 4, 4. must be three even sizes that add up"),
    ],
)
def test_refuses_settings(setting: dict[str, Any], message: str) -> None:
    family = HunyuanVideo15()
    with pytest.raises(ValueError, match=message):
        family.overrides(family.settings({**TINY, **setting}))


def test_refuses_calls() -> None:
    model = model_of("with an image")
    net, given = from_diffusers(model), arguments(model)
    for name in ("encoder_attention_mask", "encoder_hidden_states_2", "encoder_attention_mask_2", "image_embeds"):
        with pytest.raises(ValueError, match=f"{name} is missing"):
            call_like_diffusers(net, **{**given, name: None})
