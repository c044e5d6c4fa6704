"""Adapters of our layers and those of diffusers' classes: the same sum, exactly, in both directions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dit.adapters import Adapter, LoRA, adapters, bare, chosen, merge
from dit.interop import call_like_diffusers, from_diffusers, to_diffusers
from dit.interop.families import FAMILIES
from dit.interop.family import Family
from dit.interop.lora import FILE, METADATA, adapters_to_ours, adapters_to_theirs, load_lora, save_lora
from dit.interop.presets import build_empty, compose
from dit.interop.weights import Copies, Joined, Link, Reordered, Same, Split
from tests.interop.equality import build, example, sample
from tests.interop.reference import relative
from tests.interop.test_wan import SIZE, TINY

diffusers = pytest.importorskip("diffusers")
peft = pytest.importorskip("peft")

IMAGE = {**TINY, "image_dim": 10, "added_kv_proj_dim": 32, "pos_embed_seq_len": 6}


def randomised(model: nn.Module) -> nn.Module:
    """All adapters random: the second half of each begins at zero."""
    generator = torch.Generator().manual_seed(5)
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            parameter.data.copy_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return model


def wan(config: dict[str, Any]) -> tuple[nn.Module, dict[str, Any]]:
    """A reference in true float64, and arguments for it."""
    model = build(diffusers.WanTransformer3DModel, config)
    return model, example(model, SIZE, text_tokens=7)


@pytest.mark.parametrize("rslora", [False, True])
def test_diffusers_loads_what_we_save(rslora: bool, tmp_path: Path) -> None:
    model, arguments = wan(IMAGE)
    net = from_diffusers(model)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    LoRA(4, 6, 0.0, rslora, ["*attention.*", "mlp.up", "text.embed.hidden", "level.out"])(net)
    randomised(net)
    ours = call_like_diffusers(net, **arguments)
    assert relative(ours, sample(model, arguments)) > 0.1
    saved = save_lora(net, tmp_path / "lora")
    assert len(saved) == 2 * (4 + 4 + 2 + 1) + 2  # blocks: attn1, attn2, its image's k and v, ffn; two outside of them
    model.load_lora_adapter(str(tmp_path / "lora"), use_safetensors=True)
    theirs = sample(model, arguments)
    assert relative(ours, theirs) < 1e-9

    with safe_open(tmp_path / "lora" / FILE, "pt") as file:
        about = json.loads(file.metadata()[METADATA])
    assert about["transformer.r"] == 4 and about["transformer.lora_alpha"] == pytest.approx(12 if rslora else 6)

    again = from_diffusers(build(diffusers.WanTransformer3DModel, IMAGE))
    load_lora(again, tmp_path / "lora")
    mine, loaded = adapters(net), adapters(again)
    assert mine.keys() == loaded.keys()  # one adapter for qkv again, of the rank that it had
    assert all(torch.equal(mine[key].a, loaded[key].a) and torch.equal(mine[key].b, loaded[key].b) for key in mine)
    assert relative(call_like_diffusers(again, **arguments), theirs) < 1e-9

    with pytest.raises(ValueError, match="has adapters: merge them"):
        to_diffusers(net, tmp_path / "whole")
    with bare(net):
        assert net.state_dict().keys() == before.keys()
        assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    merge(net)
    assert net.state_dict().keys() == before.keys()
    assert relative(call_like_diffusers(net, **arguments), theirs) < 1e-9


def test_we_load_what_diffusers_saves(tmp_path: Path) -> None:
    """Adapters of their own for q and v alone, of other ranks, with another scale each."""
    model, arguments = wan(TINY)
    model.add_adapter(
        peft.LoraConfig(
            r=3, lora_alpha=5, use_rslora=True, target_modules=["to_q", "to_v", "to_out.0", "net.2"],
            rank_pattern={"attn1.to_q": 2}, alpha_pattern={"attn1.to_v": 7},
        )
    )  # fmt: skip
    randomised(model).save_lora_adapter(tmp_path, adapter_name="default")
    theirs = sample(model, arguments)
    net = from_diffusers(build(diffusers.WanTransformer3DModel, TINY))
    load_lora(net, tmp_path)
    assert adapters(net)["blocks.0.attention.qkv"].rank == 2 + 3
    assert relative(call_like_diffusers(net, **arguments), theirs) < 1e-9
    assert {name.split(".")[-2] for name, p in net.named_parameters() if p.requires_grad} == {"default"}

    # Without peft's metadata: kohya's alphas, or a scale of one.
    tensors = load_file(tmp_path / FILE)
    for name, changed in (
        ("alpha", {key.replace("lora_A.weight", "alpha"): torch.tensor(6.0) for key in tensors if "lora_A" in key}),
        ("plain", {}),
    ):
        save_file({**tensors, **changed}, tmp_path / f"{name}.safetensors")
        net = from_diffusers(build(diffusers.WanTransformer3DModel, TINY))
        load_lora(net, tmp_path / f"{name}.safetensors")
        first = adapters(net)["blocks.1.mlp.down"]
        assert first.scale == (2.0 if name == "alpha" else 1.0) and first.rank == 3


def adapter(outputs: int, inputs: int, rank: int, scale: float) -> Adapter:
    generator = torch.Generator().manual_seed(outputs + 10 * inputs + 100 * rank)
    a, b = (
        torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((rank, inputs), (outputs, rank))
    )
    return Adapter(a, b, scale)


def delta(adapters: dict[str, Adapter], name: str, shape: tuple[int, int]) -> Tensor:
    return adapters[name].delta() if name in adapters else torch.zeros(shape, dtype=torch.float64)


LINKS = {
    "joined rows": Link(("x.weight",), ("p.weight", "q.weight", "r.weight"), Joined(3, sizes=(2, 3, 1))),
    "joined equal rows": Link(("x.weight",), ("p.weight", "q.weight"), Joined(2)),
    "joined columns": Link(("x.weight",), ("p.weight", "q.weight"), Joined(2, axis=1, sizes=(1, 3))),
    "split rows": Link(("x.weight", "y.weight"), ("p.weight",), Split((2, 4))),
    "split columns": Link(("x.weight", "y.weight"), ("p.weight",), Split((1, 3), axis=1)),
    "reordered rows": Link(("x.weight",), ("p.weight",), Reordered((2, 0, 1, 5, 3, 4))),
    "reordered columns": Link(("x.weight",), ("p.weight",), Reordered((3, 0, 2, 1), axis=1)),
    "same": Link(("x.weight",), ("p.weight",)),
}


@pytest.mark.parametrize("skipped", [None, "first", "last"])
@pytest.mark.parametrize("kind", LINKS)
def test_every_change_acts_on_adapters_as_on_weights(kind: str, skipped: str | None) -> None:
    """6 x 4 matrices: what the adapters add, changed as weights are, is what the changed adapters add."""
    link = LINKS[kind]
    whole = {key: torch.Size((6, 4)) for key in link.ours}
    if isinstance(link.change, Split):
        parts = link.change.into([torch.empty(6, 4)])
        whole = {key: part.shape for key, part in zip(link.ours, parts, strict=True)}
    theirs = [tuple(t.shape) for t in link.change.back([torch.empty(shape) for shape in whole.values()])]

    def given(names: list[str], shapes: list[tuple[int, int]]) -> dict[str, Adapter]:
        made = {
            name: adapter(*shape, 1 + i, 1.5 * 2**i) for i, (name, shape) in enumerate(zip(names, shapes, strict=True))
        }
        if skipped is not None and len(made) > 1:
            made.pop(names[0 if skipped == "first" else -1])
        return made

    mine = given([key.removesuffix(".weight") for key in link.ours], [tuple(shape) for shape in whole.values()])
    made = adapters_to_theirs([link], mine)
    wanted = link.change.back([delta(mine, key.removesuffix(".weight"), tuple(shape)) for key, shape in whole.items()])
    for key, each, shape in zip(link.theirs, wanted, theirs, strict=True):
        torch.testing.assert_close(delta(made, key.removesuffix(".weight"), shape), each, rtol=0, atol=1e-12)

    other = given([key.removesuffix(".weight") for key in link.theirs], theirs)
    made = adapters_to_ours([link], other, whole)
    wanted = link.change.into(
        [delta(other, key.removesuffix(".weight"), shape) for key, shape in zip(link.theirs, theirs, strict=True)]
    )
    for (key, shape), each in zip(whole.items(), wanted, strict=True):
        torch.testing.assert_close(delta(made, key.removesuffix(".weight"), tuple(shape)), each, rtol=0, atol=1e-12)


@pytest.mark.parametrize("change", [Same((6, 4, 1, 1)), Copies(2)])
def test_what_is_no_matrix_there_is_refused(change: Any) -> None:
    link = Link(("x.weight",), ("p.weight", "q.weight")[: getattr(change, "count", 1)], change)
    with pytest.raises(ValueError, match="x is no matrix in both layouts"):
        adapters_to_theirs([link], {"x": adapter(6, 4, 2, 1.0)})


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    net = from_diffusers(build(diffusers.WanTransformer3DModel, TINY))
    with pytest.raises(ValueError, match="this network has no adapters"):
        save_lora(net, tmp_path / "none")
    before = list(net.state_dict())
    a, b = torch.ones(2, 32), torch.ones(32, 2)
    there, nowhere = "transformer.blocks.0.attn1.to_q", "transformer.blocks.7.attn1.to_q"
    for name, tensors, said in (
        ("half", {f"{there}.lora_A.weight": a}, "blocks.0.attn1.to_q has no pair of lora_A.weight"),
        ("dora", {f"{there}.lora_magnitude_vector": a}, "lora_magnitude_vector is no plain LoRA"),
        ("conv", {f"{there}.lora_A.weight": torch.ones(2, 32, 1, 1)}, "lora_A.weight is no plain LoRA"),
        ("size", {f"{there}.lora_A.weight": torch.ones(2, 9), f"{there}.lora_B.weight": b},
         r"blocks.0.attn1.to_q adapts a weight \(32, 9\); this network's is \(32, 32\)"),
        ("unknown", {f"{nowhere}.lora_A.weight": a, f"{nowhere}.lora_B.weight": b},
         "blocks.7.attn1.to_q is no layer of this network"),
    ):  # fmt: skip
        save_file(tensors, tmp_path / f"{name}.safetensors")
        with pytest.raises(ValueError, match=said) as caught:
            load_lora(net, tmp_path / f"{name}.safetensors")
        assert str(caught.value).startswith(str(tmp_path / name)) and "\n" not in str(caught.value)
    (tmp_path / "cut.safetensors").write_bytes(b"\x00")
    with pytest.raises(ValueError, match="cut.safetensors is no whole safetensors file"):
        load_lora(net, tmp_path / "cut.safetensors")
    with pytest.raises(FileNotFoundError, match=f"{FILE} is not there"):
        load_lora(net, tmp_path)
    assert list(net.state_dict()) == before
    LoRA(2, 2, 0.0, False, ["embed"])(net)  # a convolution there
    with pytest.raises(ValueError, match="embed is no matrix in both layouts"):
        save_lora(net, tmp_path / "conv")
    assert not (tmp_path / "conv").exists()


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.class_name)
def test_every_class_takes_the_default_adapters(family: Family) -> None:
    """Those of all attentions: to the class's layers and back they add the same to our weights, and nothing else."""
    net = build_empty(compose(family.preset))
    shapes = {key: value.shape for key, value in net.state_dict().items()}
    names = chosen(net, ["*attention.*"])
    mine = {name: adapter(*shapes[f"{name}.weight"], 2, 0.5) for name in names}
    theirs = adapters_to_theirs(family.links(net), mine)
    assert len(theirs) >= len(mine) > 0
    back = adapters_to_ours(family.links(net), theirs, shapes)
    for name in mine.keys() | back.keys():
        wanted = delta(mine, name, shapes[f"{name}.weight"])
        torch.testing.assert_close(delta(back, name, wanted.shape), wanted, rtol=0, atol=1e-12)
