"""Kandinsky 5: diffusers' Kandinsky5Transformer3DModel as our network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dit.interop import call_like_diffusers, from_diffusers
from dit.interop.families.kandinsky5 import Kandinsky5
from tests.interop import equality
from tests.interop.equality import assert_equal, assert_notices, assert_round_trip, example, sample
from tests.interop.reference import relative

diffusers = pytest.importorskip("diffusers")

TINY = {
    "in_visual_dim": 4,
    "in_text_dim": 12,
    "in_text_dim2": 6,
    "time_dim": 10,
    "out_visual_dim": 3,
    "model_dim": 32,
    "ff_dim": 40,
    "num_text_blocks": 2,
    "num_visual_blocks": 2,
    "axes_dims": [4, 6, 6],
}
SIZE = (3, 4, 6)  # latents: frames, height, width
VARIANTS: dict[str, dict[str, Any]] = {
    "t2v": {},
    "channels of given frames": {"visual_cond": True},
    "other sizes": {"patch_size": [3, 1, 2], "num_text_blocks": 1, "axes_dims": [8, 4, 4]},
    "no text block": {"num_text_blocks": 0},
}


def model_of(variant: str) -> nn.Module:
    """Without an epsilon torch's norm takes that of the precision it computes in: float32, as the class asks for."""
    model = equality.build(diffusers.Kandinsky5Transformer3DModel, {**TINY, **VARIANTS[variant]})
    for module in model.modules():
        if isinstance(module, nn.RMSNorm):
            assert module.eps is None
            module.eps = torch.finfo(torch.float32).eps
    return model


@pytest.mark.parametrize("variant", VARIANTS)
def test_equals_diffusers(variant: str) -> None:
    model = model_of(variant)
    assert_equal(model, example(model, SIZE, text_tokens=7))


def test_every_weight_matters() -> None:
    model = model_of("channels of given frames")
    assert_notices(model, example(model, SIZE, text_tokens=7))


@pytest.mark.parametrize("variant", VARIANTS)
def test_round_trip(variant: str, tmp_path: Path) -> None:
    assert_round_trip(model_of(variant), tmp_path)


def test_the_scale_of_positions_is_that_of_the_call() -> None:
    """It goes by the resolution, so no config holds it."""
    model = model_of("t2v")
    net, given = from_diffusers(model), example(model, SIZE, text_tokens=7)
    with torch.no_grad():
        right = call_like_diffusers(net, **given)
        for scale in ((1.0, 1.0, 1.0), (2.0, 2.0, 2.0)):
            other = {**given, "scale_factor": scale}
            assert relative(call_like_diffusers(net, **other), sample(model, other)) < 1e-9
            assert relative(call_like_diffusers(net, **other), right) > 1e-6
        without = {name: value for name, value in given.items() if name != "scale_factor"}
        assert relative(call_like_diffusers(net, **without), sample(model, without)) < 1e-9


def test_padding_of_the_text_is_not_read() -> None:
    """The class has no mask; where cond holds one, a text is the same as without its padding."""
    model = model_of("t2v")
    net, given = from_diffusers(model), example(model, SIZE, text_tokens=7)
    x, t, cond = Kandinsky5().call(net, given)
    mask = torch.arange(9) < 7
    padded = torch.cat([cond["text"], torch.full((2, 2, 12), 9.0, dtype=torch.float64)], dim=1)
    with torch.no_grad():
        found = net(x, t, {**cond, "text": padded, "text_mask": mask.expand(2, -1)})
        assert relative(found, net(x, t, cond)) < 1e-12


@pytest.mark.parametrize(
    "setting, message",
    [
        ({"attention_type": "nabla"}, "attention_type=nabla: sparse attention is not supported; regular is"),
        ({"axes_dims": [3, 6, 7]}, "axes_dims=.3, 6, 7. must be even sizes whose sum divides model_dim=32"),
        ({"axes_dims": [4, 4, 4]}, "axes_dims=.4, 4, 4. must be even sizes whose sum divides model_dim=32"),
    ],
)
def test_refuses_settings(setting: dict[str, Any], message: str) -> None:
    family = Kandinsky5()
    with pytest.raises(ValueError, match=message):
        family.overrides(family.settings({**TINY, **setting}))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"sparse_params": {"P": 0.9}}, "sparse_params is not an argument that this network can take"),
        ({"pooled_projections": None}, "pooled_projections is missing"),
        ({"text_rope_pos": torch.arange(6)}, r"text_rope_pos is of \[6\] tokens along its axes; here there are \[7\]"),
        ({"text_rope_pos": 1 + torch.arange(7)}, "text_rope_pos must count from 0"),
        ({"visual_rope_pos": None}, "visual_rope_pos is missing"),
    ],
)
def test_refuses_calls(change: dict[str, Any], message: str) -> None:
    model = model_of("t2v")
    with pytest.raises(ValueError, match=message):
        call_like_diffusers(from_diffusers(model), **{**example(model, SIZE, text_tokens=7), **change})
