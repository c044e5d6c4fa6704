"""SkyReels-V2: diffusers' SkyReelsV2Transformer3DModel as our network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dit.interop import call_like_diffusers, from_diffusers, to_diffusers
from dit.interop.diffusers import recognise
from dit.interop.presets import build_empty, compose
from tests.interop.equality import assert_equal, assert_notices, assert_round_trip, build, example, sample
from tests.interop.reference import relative

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
    "full": {},
    "causal": {"num_frame_per_block": 2},
    "no norm before the text": {"cross_attn_norm": False, "eps": 1e-3},
    "frame rate": {"inject_sample_info": True},
    "causal, frame rate, patch over time": {
        "num_frame_per_block": 2,
        "inject_sample_info": True,
        "patch_size": [2, 1, 2],
    },
    "i2v": {"in_channels": 14, "image_dim": 10, "added_kv_proj_dim": 32},
    "causal first and last frame": {
        "num_frame_per_block": 2,
        "image_dim": 10,
        "added_kv_proj_dim": 32,
        "pos_embed_seq_len": 6,
    },
}


def arguments(model: torch.nn.Module, forcing: bool = False, frames: int = SIZE[0]) -> dict[str, Any]:
    """`forcing`: a timestep of its own for each frame of tokens."""
    frames *= model.config["patch_size"][0]
    given = example(model, (frames, *SIZE[1:]), text_tokens=7)
    if forcing:
        tokens = frames // model.config["patch_size"][0]
        given["timestep"] = 1000 * torch.rand(2, tokens, generator=torch.manual_seed(4), dtype=torch.float64)
        given["enable_diffusion_forcing"] = True
    return given


def reference(variant: str) -> torch.nn.Module:
    return build(diffusers.SkyReelsV2Transformer3DModel, {**TINY, **VARIANTS[variant]})


def of_sample(given: dict[str, Any], i: int) -> dict[str, Any]:
    """The arguments of one sample alone."""
    each = {name: len(value) // 2 for name, value in given.items() if isinstance(value, (torch.Tensor, list))}
    return {name: value[i * each[name] :][: each[name]] if name in each else value for name, value in given.items()}


@pytest.mark.parametrize("forcing", [False, True], ids=["one level", "diffusion forcing"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_equals_diffusers(variant: str, forcing: bool) -> None:
    model = reference(variant)
    given = arguments(model, forcing)
    if not (forcing and model.config["inject_sample_info"]):
        assert_equal(model, given)
        return
    # There the class can take only one sample: it repeats frame rates along the batch.
    with pytest.raises(RuntimeError):
        sample(model, given)
    for i in range(2):
        assert_equal(model, of_sample(given, i))
    with torch.no_grad():
        wanted = torch.cat([sample(model, of_sample(given, i)) for i in range(2)])
        assert relative(call_like_diffusers(from_diffusers(model), **given), wanted) < 1e-9


def test_earlier_blocks_do_not_see_later_ones() -> None:
    """Also where the frames are no multiple of the block, which the class of diffusers refuses: the last is shorter."""
    model = reference("causal")
    given = arguments(model, forcing=True, frames=5)
    with pytest.raises(RuntimeError):
        sample(model, given)
    net = from_diffusers(model)
    with torch.no_grad():
        whole = call_like_diffusers(net, **given)
        first = {**given, "hidden_states": given["hidden_states"][:, :, :4], "timestep": given["timestep"][:, :4]}
        start = sample(model, first)
    assert relative(whole[:, :, :4], start) < 1e-9


@pytest.mark.parametrize("variant", ["i2v", "causal, frame rate, patch over time"])
def test_every_weight_matters(variant: str) -> None:
    model = reference(variant)
    assert_notices(model, arguments(model))


@pytest.mark.parametrize("variant", VARIANTS)
def test_round_trip(variant: str, tmp_path: Path) -> None:
    assert_round_trip(reference(variant), tmp_path)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"fps": [0, 2]}, r"fps=\[0, 2\] must be 0"),
        ({"fps": None}, r"needs cond\['fps'\]"),
        ({"enable_diffusion_forcing": True}, r"timestep has shape \(2,\): with enable_diffusion_forcing"),
        ({"timestep": torch.ones(2, 4)}, r"timestep has shape \(2, 4\)"),
    ],
)
def test_arguments_that_cannot_be(change: dict[str, Any], message: str) -> None:
    model = reference("frame rate")
    net = from_diffusers(model)
    with pytest.raises(ValueError, match=message):
        call_like_diffusers(net, **{**arguments(model), **change})


def test_the_class_can_be_asked_for(tmp_path: Path) -> None:
    """Without a frame rate SkyReels-V2 computes what Wan does: the preset or the caller says which of the two it is."""
    plain = build_empty(compose("skyreels_v2_14b", ["net.depth=1", "net.width=32", "net.heads=2", "net.text_width=12"]))
    net = plain.to_empty(device="cpu")
    net.init_weights()
    assert recognise(net).class_name == "SkyReelsV2Transformer3DModel"
    assert recognise(net, class_name="WanTransformer3DModel").class_name == "WanTransformer3DModel"
    to_diffusers(net, tmp_path / "skyreels")
    again = diffusers.SkyReelsV2Transformer3DModel.from_pretrained(tmp_path / "skyreels")
    assert again.num_parameters() == sum(p.numel() for p in net.parameters())
    with pytest.raises(ValueError, match="this network is no MochiTransformer3DModel: "):
        to_diffusers(net, tmp_path / "mochi", class_name="MochiTransformer3DModel")
    assert not (tmp_path / "mochi").exists()
