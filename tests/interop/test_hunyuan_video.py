"""HunyuanVideo: diffusers' HunyuanVideoTransformer3DModel as our network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dit.interop import call_like_diffusers, from_diffusers
from dit.interop.families.hunyuan_video import HunyuanVideo
from tests.interop.equality import assert_equal, assert_notices, assert_round_trip, build, example, sample
from tests.interop.reference import relative

diffusers = pytest.importorskip("diffusers")

TINY = {
    "in_channels": 4,
    "out_channels": 5,
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "num_layers": 2,
    "num_single_layers": 3,
    "num_refiner_layers": 2,
    "text_embed_dim": 12,
    "pooled_projection_dim": 8,
    "rope_axes_dim": [4, 4, 8],
}
SIZE = (4, 6, 10)  # latents: frames, height, width
CONCAT = {"in_channels": 12, "image_condition_type": "latent_concat"}
REPLACE = {"image_condition_type": "token_replace"}
VARIANTS: dict[str, dict[str, Any]] = {
    "t2v": {},
    "without guidance": {"guidance_embeds": False},
    "image as channels": {**CONCAT, "guidance_embeds": False},
    "image as first frame": REPLACE,
    "image as first frame, without guidance": {**REPLACE, "guidance_embeds": False},
    "image as first frame, patch over time": {**REPLACE, "patch_size_t": 2},
    "other sizes": {"patch_size": 1, "patch_size_t": 2, "mlp_ratio": 2.5, "rope_theta": 100.0, "num_refiner_layers": 1},
    "dual alone": {"num_single_layers": 0},
    "single alone": {"num_layers": 0},
    "LayerNorm of queries and keys": {"qk_norm": "layer_norm"},
    "no norm of queries and keys": {"qk_norm": None},
}


def model_of(variant: str) -> torch.nn.Module:
    return build(diffusers.HunyuanVideoTransformer3DModel, {**TINY, **VARIANTS[variant]})


@pytest.mark.parametrize("variant", VARIANTS)
def test_equals_diffusers(variant: str) -> None:
    model = model_of(variant)
    assert_equal(model, example(model, SIZE, text_tokens=7))


@pytest.mark.parametrize("variant", ["t2v", "image as first frame"])
def test_every_weight_matters(variant: str) -> None:
    model = model_of(variant)
    assert_notices(model, example(model, SIZE, text_tokens=7))


@pytest.mark.parametrize("variant", VARIANTS)
def test_round_trip(variant: str, tmp_path: Path) -> None:
    assert_round_trip(model_of(variant), tmp_path)


def test_padding_is_not_read() -> None:
    model = model_of("t2v")
    arguments = example(model, SIZE, text_tokens=7)
    net = from_diffusers(model)
    with torch.no_grad():
        right = call_like_diffusers(net, **arguments)
        padding = ~arguments["encoder_attention_mask"]
        assert padding.any()
        arguments["encoder_hidden_states"] = arguments["encoder_hidden_states"].masked_fill(padding[..., None], 9.0)
        assert relative(call_like_diffusers(net, **arguments), right) < 1e-12


def test_a_text_of_padding_alone_is_no_text() -> None:
    """The class divides by the number of its tokens. With zero for the mean of none, it computes what we do."""
    model = model_of("t2v")
    arguments = example(model, SIZE, text_tokens=7)
    arguments["encoder_attention_mask"][1] = False
    theirs = sample(model, arguments)
    assert theirs[1].isnan().all() and not theirs[0].isnan().any()
    net = from_diffusers(model)
    ours = call_like_diffusers(net, **arguments)
    mean = model.context_embedder.time_text_embed.text_embedder
    mean.register_forward_pre_hook(lambda _, given: (given[0].nan_to_num(nan=0.0),))
    assert relative(ours, sample(model, arguments)) < 1e-9
    ours.square().sum().backward()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in net.parameters())


@pytest.mark.parametrize(
    "setting, message",
    [
        ({"qk_norm": "l2"}, "qk_norm=l2 is not supported; there are rms_norm, layer_norm, None"),
        ({"rope_axes_dim": [4, 4, 4]}, "rope_axes_dim=.4, 4, 4. must be three even sizes that add up"),
        ({"image_condition_type": "latent_concat"}, "in_channels=4 has no room for the image's latents"),
        ({"image_condition_type": "other"}, "image_condition_type=other is not known"),
    ],
)
def test_refuses_settings(setting: dict[str, Any], message: str) -> None:
    family = HunyuanVideo()
    with pytest.raises(ValueError, match=message):
        family.overrides(family.settings({**TINY, **setting}))


@pytest.mark.parametrize(
    "variant, change, message",
    [
        ("t2v", lambda a: a["encoder_attention_mask"].__setitem__((1, 0), False), "real tokens in front"),
        ("image as first frame", lambda a: a["timestep"].zero_(), "timestep=0 is that of the image"),
        (
            "image as first frame",
            lambda a: a.update(hidden_states=a["hidden_states"][:, :, :1]),
            "needs frames behind the image's, and got only 1",
        ),
    ],
)
def test_refuses_calls(variant: str, change: Any, message: str) -> None:
    model = model_of(variant)
    arguments = example(model, SIZE, text_tokens=7)
    change(arguments)
    with pytest.raises(ValueError, match=message):
        call_like_diffusers(from_diffusers(model), **arguments)
