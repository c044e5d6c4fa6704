"""DiT: diffusers' DiTTransformer2DModel as our network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from torch import nn

from dit.interop import call_like_diffusers, from_diffusers, to_diffusers
from dit.interop.diffusers import adopted, net_config
from dit.interop.presets import build_empty, compose
from dit.net.modulation import AdaLNZero, PerBlockAdaLNZero
from tests.interop.equality import (
    assert_equal,
    assert_notices,
    assert_round_trip,
    build,
    example,
    plain,
)

diffusers = pytest.importorskip("diffusers")

TINY = {
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "in_channels": 3,
    "out_channels": 5,
    "num_layers": 3,
    "sample_size": 8,
    "num_embeds_ada_norm": 6,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "another patch": {"patch_size": 4},
    "no bias, another norm": {"attention_bias": False, "norm_elementwise_affine": True, "norm_eps": 1e-2},
    "exact gelu": {"activation_fn": "gelu"},
    "geglu": {"activation_fn": "geglu"},
    "swiglu": {"activation_fn": "swiglu", "num_layers": 1},
}


def model(variant: str = "plain", shared: bool = True) -> nn.Module:
    """With `shared`, the embedders of all blocks are copies of the first, as in the published weights."""
    made = build(diffusers.DiTTransformer2DModel, {**TINY, **VARIANTS[variant]})
    if shared:
        first = made.transformer_blocks[0].norm1.emb.state_dict()
        for block in made.transformer_blocks:
            block.norm1.emb.load_state_dict(first)
    return made


def arguments(made: nn.Module, size: int = 8) -> dict[str, Any]:
    given = example(made, (1, size, size + 4), text_tokens=0)
    given["class_labels"][0] = TINY["num_embeds_ada_norm"]  # no class
    return given


@pytest.mark.parametrize("variant, size", [(variant, 12) for variant in VARIANTS] + [("plain", 4), ("plain", 8)])
def test_equals_diffusers_with_an_embedder_in_each_block(variant: str, size: int) -> None:
    """sample_size is 8: other images have positions within the same range."""
    made = model(variant, shared=False)
    several = made.config["num_layers"] > 1
    assert isinstance(from_diffusers(made).modulation, PerBlockAdaLNZero) is several
    assert_equal(made, arguments(made, size))


@pytest.mark.parametrize("size", [8, 12])
def test_equals_diffusers_with_one_embedder(size: int) -> None:
    made = model()
    assert type(from_diffusers(made).modulation) is AdaLNZero
    assert_equal(made, arguments(made, size))


def test_every_weight_matters() -> None:
    for shared in (True, False):
        made = model(shared=shared)
        assert_notices(made, arguments(made))


def test_one_embedder_computes_what_its_copies_do() -> None:
    """The same weights as one embedder and as an embedder in each block."""
    made = model()
    net = from_diffusers(made)
    given = arguments(made)
    with torch.no_grad():
        shared = call_like_diffusers(net, **given)
        made.transformer_blocks[1].norm1.emb.timestep_embedder.linear_1.bias += 1e-13
        apart = from_diffusers(made)
        assert isinstance(apart.modulation, PerBlockAdaLNZero)
        torch.testing.assert_close(call_like_diffusers(apart, **given), shared, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("variant", VARIANTS)
def test_round_trip(variant: str, shared: bool, tmp_path: Path) -> None:
    assert_round_trip(model(variant, shared), tmp_path)


@pytest.mark.parametrize("name", ["timestep_embedder.linear_2.weight", "class_embedder.embedding_table.weight"])
def test_the_last_of_the_copies_is_looked_at(name: str, tmp_path: Path) -> None:
    """In a folder, too: the last entry of the last block's embedder is the one that differs."""
    made = model().to(torch.float32)
    with torch.no_grad():
        made.transformer_blocks[-1].norm1.emb.get_parameter(name)[-1, -1] += 1
    made.save_pretrained(tmp_path / "apart", max_shard_size="20KB")
    net = from_diffusers(tmp_path / "apart")
    assert isinstance(net.modulation, PerBlockAdaLNZero)
    to_diffusers(net, tmp_path / "written")
    again = diffusers.DiTTransformer2DModel.from_pretrained(tmp_path / "written").state_dict()
    assert all(torch.equal(value, again[key]) for key, value in made.state_dict().items())
    assert not any(key.startswith("_embedder") for key in json.loads((tmp_path / "written/config.json").read_text()))


@pytest.mark.parametrize("shared", [True, False])
def test_a_network_of_ours_is_recognised(shared: bool, tmp_path: Path) -> None:
    """Not the object that was read, but one that computes the same."""
    made = model(shared=shared)
    net = from_diffusers(made)
    again = build_copy(net, made)
    to_diffusers(again, tmp_path / "written")
    written = diffusers.DiTTransformer2DModel.from_pretrained(tmp_path / "written").state_dict()
    assert all(torch.equal(written[key], value.float()) for key, value in made.state_dict().items())


def build_copy(net: nn.Module, made: nn.Module) -> Any:
    """The same network built from its config, in float32."""
    embedders = {"_embedder_in_each_block": isinstance(net.modulation, PerBlockAdaLNZero)}
    again = instantiate(net_config({"_class_name": "DiTTransformer2DModel", **plain(made), **embedders}))
    again.load_state_dict(net.state_dict())
    return again


def test_without_out_channels_as_many_come_out_as_go_in() -> None:
    config = {"_class_name": "DiTTransformer2DModel", **TINY}
    assert net_config({**config, "out_channels": None}) == net_config({**config, "out_channels": 3})
    assert net_config({**config, "out_channels": None}) != net_config(config)


def test_published_folders_name_an_older_class(tmp_path: Path) -> None:
    """facebook/DiT-XL-2-256 was saved as a Transformer2DModel; diffusers reads it as a DiTTransformer2DModel."""
    published = json.loads((Path(__file__).parent / "published/dit_xl_2_256.json").read_text())
    older = {"cross_attention_dim": None, "num_vector_embeds": None, "only_cross_attention": False}
    older |= {"use_linear_projection": False, "_class_name": "Transformer2DModel", "_diffusers_version": "0.12.0"}
    assert net_config(adopted({**published, **older})) == compose("dit_xl_2_256")
    with pytest.raises(ValueError, match="Transformer2DModel is not a class"):
        net_config(adopted({**published, **older, "norm_type": "ada_norm"}))

    made = model("no bias, another norm", shared=False).to(torch.float32)
    made.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **older}))
    given = {k: v.float() if v.is_floating_point() else v for k, v in arguments(made).items()}
    with torch.no_grad():
        wanted = call_like_diffusers(from_diffusers(made), **given)
        assert torch.equal(call_like_diffusers(from_diffusers(tmp_path), **given), wanted)


@pytest.mark.parametrize(
    "setting, value, words",
    [
        ("dropout", 0.1, "dropout=0.1 is not supported"),
        ("activation_fn", "linear-silu", "activation_fn=linear-silu is not supported; there are gelu-approximate"),
        ("norm_type", "ada_norm_single", "norm_type=ada_norm_single is not supported"),
        ("cross_attention_dim", 24, "setting that is not known here: cross_attention_dim=24"),
    ],
)
def test_what_cannot_be_ours_is_refused(setting: str, value: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        net_config({"_class_name": "DiTTransformer2DModel", **TINY, setting: value})


def test_images_that_are_no_squares_are_refused() -> None:
    made = model()
    given = {**arguments(made), "hidden_states": torch.zeros(2, 3, 4, 8, dtype=torch.float64)}
    with pytest.raises(ValueError, match="takes \\(batch, channels, size, size\\)"):
        call_like_diffusers(from_diffusers(made), **given)


def test_more_blocks_than_level_vectors_are_refused() -> None:
    with pytest.raises(ValueError, match="level_width=96 holds 1 vectors of width=96.*depth \\* width"):
        build_empty(compose("dit_tiny", ["net/modulation=adaln_zero_per_block"]))
    with pytest.raises(ValueError, match="level_width=97 is not a multiple of blocks=2; nearest: 96, 98"):
        build_empty(compose("dit_tiny", ["net/level=sinusoid_per_block", "net.level_width=97"]))
