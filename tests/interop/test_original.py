"""Checkpoints of DiT's and SiT's own repositories, against a DiT written independently (scripts/twins)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dit.interop import to_diffusers
from dit.interop.describe import describe
from dit.interop.original import from_original, original_config, original_weights, to_original
from dit.interop.presets import build_empty, compose
from scripts.twins.dit_reference import DiT, sincos_2d
from scripts.twins.shape import Shape
from tests.interop.reference import gradients, randomise, relative

SHAPE = Shape(size=6, patch=2, in_channels=3, out_channels=6, width=24, depth=3, heads=2, num_classes=5)
SQUARE = (2, 3, 1, 6, 6)

# The twin's names -> the repositories'.
NAMES = {
    "x_embed": "x_embedder.proj",
    "t_embed": "t_embedder",
    "y_embed": "y_embedder.embedding_table",
    "positions": "pos_embed",
    "final_proj": "final_layer.linear",
    "final_modulation": "final_layer.adaLN_modulation",
    "mlp.0": "mlp.fc1",
    "mlp.2": "mlp.fc2",
    "modulation": "adaLN_modulation",
}


def name(key: str) -> str:
    first, _, rest = key.partition(".")
    if first != "blocks":
        return f"{NAMES[first]}.{rest}".rstrip(".")
    number, part, rest = rest.split(".", 2)
    if part == "mlp":
        index, rest = rest.split(".")
        return f"blocks.{number}.{NAMES[f'mlp.{index}']}.{rest}"
    return f"blocks.{number}.{NAMES.get(part, part)}.{rest}"


def reference(shape: Shape = SHAPE) -> DiT:
    """A random DiT in float64, its table of positions too."""
    twin = randomise(DiT(shape).double())
    twin.positions = sincos_2d(shape.width, shape.size // shape.patch)[None]
    return twin


def checkpoint(twin: DiT) -> dict[str, Tensor]:
    return {name(key): value for key, value in twin.state_dict().items()}


def inputs() -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(SQUARE, generator=generator, dtype=torch.float64, requires_grad=True)
    t = torch.rand(2, 1, generator=generator, dtype=torch.float64)
    return x, t, {"label": torch.tensor([SHAPE.num_classes, 2])}


def test_the_layout_is_the_repositories() -> None:
    """The keys of facebookresearch/DiT's models.py, written out."""
    block = [f"{part}.{kind}" for part in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2", "adaLN_modulation.1")
             for kind in ("weight", "bias")]  # fmt: skip
    others = ["x_embedder.proj", "t_embedder.mlp.0", "t_embedder.mlp.2", "final_layer.linear"]
    keys = [f"{part}.{kind}" for part in [*others, "final_layer.adaLN_modulation.1"] for kind in ("weight", "bias")]
    keys += ["pos_embed", "y_embedder.embedding_table.weight"]
    keys += [f"blocks.{i}.{part}" for i in range(SHAPE.depth) for part in block]
    theirs = checkpoint(reference())
    assert sorted(theirs) == sorted(keys)
    assert sorted(original_weights(from_original(theirs, heads=2), size=6)) == sorted(keys)


def test_dit_equals_the_reference() -> None:
    twin, (x, t, cond) = reference(), inputs()
    net = from_original(checkpoint(twin), "dit_s_2", heads=2)
    ours, theirs = net(x, t, cond), twin(x, t, cond)
    assert relative(ours, theirs) < 1e-9
    (mine,), (other,) = gradients(ours, [x]), gradients(theirs, [x])
    assert relative(mine, other) < 1e-7
    written = original_weights(from_original(original_weights(net, 6), heads=2), 6)
    assert all(torch.equal(value, written[key]) for key, value in checkpoint(twin).items() if key != "pos_embed")
    assert relative(written["pos_embed"], twin.positions) < 1e-12


def test_sit_equals_the_reference() -> None:
    """SiT's time s = 1 - t is not scaled (the twin multiplies by 1000); half of its channels are dropped; its velocity
    points to the data, ours to the noise."""
    twin, (x, t, cond) = reference(), inputs()
    net = from_original(checkpoint(twin), "sit_s_2", heads=2)
    ours = net(x, t, cond)
    theirs = -twin(x, (1 - t) / 1000, cond)[:, :3]
    assert relative(ours, theirs) < 1e-9
    (mine,), (other,) = gradients(ours, [x]), gradients(theirs, [x])
    assert relative(mine, other) < 1e-7
    again = from_original(original_weights(net, 6), "sit_s_2", heads=2)
    assert torch.equal(again(x, t, cond), ours)


@pytest.mark.parametrize("preset", ["dit_s_2", "sit_s_2"])
def test_round_trip_through_a_file(preset: str, tmp_path: Path) -> None:
    """Float32, positions as the repositories store them. SiT's training leaves the rows that it drops at zero."""
    theirs = {key: value.float() for key, value in checkpoint(reference()).items()}
    if preset == "sit_s_2":
        theirs["final_layer.linear.weight"].unflatten(0, (4, 6))[:, 3:] = 0
        theirs["final_layer.linear.bias"].unflatten(0, (4, 6))[:, 3:] = 0
    save_file(theirs, tmp_path / "theirs.safetensors")
    net = from_original(tmp_path / "theirs.safetensors", preset, heads=2)
    assert all(value.dtype is torch.float32 for value in net.state_dict().values())
    assert describe(build_empty(original_config(theirs, preset, heads=2))) == describe(net)
    to_original(net, tmp_path / "ours.safetensors", size=6)
    ours = load_file(tmp_path / "ours.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], value) for key, value in theirs.items())
    with pytest.raises(FileExistsError, match="ours.safetensors is there already"):
        to_original(net, tmp_path / "ours.safetensors", size=6)


def test_sit_without_the_channels_that_it_drops() -> None:
    """learn_sigma=False of its repository."""
    theirs = checkpoint(reference(Shape(**{**vars(SHAPE), "out_channels": 3})))
    net = from_original(theirs, "sit_s_2", heads=2)
    assert net.out_channels == 3
    assert torch.equal(net.final.linear.weight, -theirs["final_layer.linear.weight"])


@pytest.mark.parametrize("kind, size", [("dit", "s"), ("sit", "b"), ("dit", "l"), ("sit", "xl")])
def test_published_sizes_are_read_off_the_tensors(kind: str, size: str) -> None:
    """And their heads off the width; on the meta device."""
    net = build_empty(compose(f"{kind}_{size}_2"))
    theirs = original_weights(net, size=32)
    assert theirs["final_layer.linear.weight"].shape[0] == 32
    again = from_original({key: value for key, value in theirs.items() if key != "pos_embed"}, f"{kind}_s_2")
    shapes = {key: value.shape for key, value in again.state_dict().items()}
    assert shapes == {key: value.shape for key, value in net.state_dict().items()}
    assert again.heads == net.heads


# Parameters of the repositories' models: what they train, without the fixed table of positions.
@pytest.mark.parametrize("preset, millions", [("dit_s_2", 33), ("dit_b_2", 130), ("dit_l_2", 458), ("dit_xl_2", 675)])
def test_published_counts(preset: str, millions: int) -> None:
    """Table 1 of arXiv 2212.09748, in millions."""
    count = sum(p.numel() for p in build_empty(compose(preset)).parameters())
    assert round(count / 1e6) == millions


def spoilt(key: str, value: Tensor | None) -> dict[str, Tensor]:
    theirs = {**checkpoint(reference()), key: value}
    return {key: value for key, value in theirs.items() if value is not None}


@pytest.mark.parametrize(
    "key, value, words",
    [
        ("x_embedder.proj.weight", None, "x_embedder.proj.weight is missing: this is no checkpoint of DiT's"),
        ("blocks.1.attn.proj.bias", None, "blocks.1.attn.proj.bias is missing"),
        ("blocks.1.attn.qkv.weight", torch.zeros(72, 23), r"qkv.weight has the shape \(72, 23\), needed \(72, 24\)"),
        ("blocks.0.attn.q_norm.weight", torch.zeros(12), "blocks.0.attn.q_norm.weight has no place in this network"),
        ("pos_embed", torch.zeros(1, 9, 24), "pos_embed is off by 1 from DiT's sines and cosines"),
        ("pos_embed", torch.zeros(1, 8, 24), r"pos_embed has the shape \(1, 8, 24\), needed"),
        ("final_layer.linear.weight", torch.zeros(22, 24), "has 22 rows, needed 3 or 6 channels of 4 places"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(key: str, value: Tensor | None, words: str, tmp_path: Path) -> None:
    save_file(spoilt(key, value), tmp_path / "spoilt.safetensors")
    with pytest.raises(ValueError, match="spoilt.safetensors: .*" + words) as caught:
        from_original(tmp_path / "spoilt.safetensors", "sit_s_2", heads=2)
    assert "\n" not in str(caught.value)


def test_no_pickle_is_read(tmp_path: Path) -> None:
    file = tmp_path / "DiT-XL-2-256x256.pt"
    torch.save(checkpoint(reference()), file)
    with pytest.raises(ValueError, match=r"is a pickle, .*torch.load\('DiT-XL-2-256x256.pt', weights_only=True\)") as e:
        from_original(file)
    assert "\n" not in str(e.value)
    with pytest.raises(FileNotFoundError, match="nowhere.safetensors is not there"):
        from_original(tmp_path / "nowhere.safetensors")
    (tmp_path / "renamed.safetensors").write_bytes(file.read_bytes())
    with pytest.raises(ValueError, match="renamed.safetensors is no whole safetensors file"):
        from_original(tmp_path / "renamed.safetensors")


def test_heads_must_be_known() -> None:
    with pytest.raises(ValueError, match="width=24 is none of the published sizes .*, so heads must be given"):
        from_original(checkpoint(reference()))
    with pytest.raises(ValueError, match="^width=24 is not a multiple of heads=5; nearest: 20, 25$"):
        from_original(checkpoint(reference()), heads=5)


@pytest.mark.parametrize(
    "preset, words",
    [("dit_s_2", "time with the frequencies of DiT's own code"), ("sit_s_2", "time that runs from noise to data")],
)
def test_diffusers_has_no_class_for_it(preset: str, words: str, tmp_path: Path) -> None:
    """Its DiT embeds time otherwise, which no folder can say."""
    with pytest.raises(ValueError, match=f"this network is no DiTTransformer2DModel: it embeds {words}") as caught:
        to_diffusers(from_original(checkpoint(reference()), preset, heads=2), tmp_path / "out")
    assert str(caught.value).endswith(
        "write it as ours (--to ours), or for that code by dit.interop.original.to_original"
    )
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


def test_another_network_is_not_written(tmp_path: Path) -> None:
    for preset, overrides, words in (
        ("dit_s_2", ["net/qk_norm=rms"], "neither DiT nor SiT as their repositories have them: "),
        ("dit_tiny", [], "neither DiT nor SiT"),
        ("latte_tiny", [], "neither DiT nor SiT"),
    ):
        with pytest.raises(ValueError, match=words):
            to_original(build_empty(compose(preset, overrides)), tmp_path / "other.safetensors", size=32)
    with pytest.raises(ValueError, match="size=31 is not a multiple of the patch's 2"):
        to_original(build_empty(compose("dit_s_2")), tmp_path / "other.safetensors", size=31)
    assert not list(tmp_path.iterdir())
