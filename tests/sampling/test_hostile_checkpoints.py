"""Checkpoints of strangers: every kind of attack at every place of a config, and values that nobody would choose."""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hydra
import pytest
import torch
from omegaconf import OmegaConf

from dit.foreign import Kind, build
from dit.sampling.checkpoint import KINDS, Checkpoint
from dit.sampling.pipeline import Pipeline
from tests.hostile import attacks, places, replaced, watched

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
SMALL = ("net.width=24", "net.depth=2", "net.heads=2", "text.width=16", "net.text_width=16", "net/kernel=sdpa")
PATHS = [tuple(["signals", "text"] if key == "signals" else key.split(".")) for key in KINDS]
ATTACKS = list(attacks(Path("x")))
# What a place may be given that is plain, and yet no sensible value.
ODD = (None, True, -1, 0, 3, 10**9, 2**70, 1e300, float("nan"), float("-inf"), "", "x", "a\nb", "\x1b[2J", [], {}, [[]])


@functools.cache
def config() -> dict[str, Any]:
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        made = hydra.compose("train", ["experiment=demo", "name=x", "lora=default", "signals=[text]", *SMALL])
    return OmegaConf.to_container(made, resolve=True)  # type: ignore[return-value]


@functools.cache
def weights() -> dict[str, torch.Tensor]:
    built = {name: build(config()[name], KINDS[name], name) for name in ("net", "text")}
    return {f"{part}.{key}": value for part, made in built.items() for key, value in made.state_dict().items()}


def checkpoint(changed: dict[str, Any]) -> Checkpoint:
    return Checkpoint(Path("x.ckpt"), weights(), {}, changed)


def part_of(file: Checkpoint, path: tuple[str, ...]) -> str | None:
    """What is said when a part is asked for; None: it was built. Nothing may happen, and no other error be raised."""
    with watched() as seen:
        try:
            file.part(*path)
            said = None
        except ValueError as error:
            said = str(error)
    assert not seen, seen
    if said is not None:
        assert "\n" not in said and "x.ckpt" in said, said
        assert len(said) < 600 and said.isprintable(), said
    return said


def node_of(path: tuple[str, ...]) -> Any:
    return functools.reduce(lambda node, key: node[key], path, config())


def test_the_config_is_sound() -> None:
    for path in PATHS:
        assert part_of(checkpoint(config()), path) is None


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_at_all_places(name: str, tmp_path: Path) -> None:
    """At each part itself, and at a third of the places in it; each place sees a third of the attacks."""
    attack, turn = attacks(tmp_path / "sentinel")[name], ATTACKS.index(name) % 3
    for path in PATHS:
        for place in ("", *list(places(node_of(path)))[turn::3]):
            key = ".".join([*path, place]) if place else ".".join(path)
            said = part_of(checkpoint(replaced(config(), key, attack)), path)
            assert said is not None, f"{name} at {key} was built"
    assert not list(tmp_path.iterdir())


def test_odd_values_at_every_place() -> None:
    """Built, or refused in one line: nothing else, and soon."""
    draw = random.Random(0)
    for path in PATHS:
        if path[0] == "lora":
            continue  # `network` puts it to use, below
        for place in places(node_of(path)):
            for value in draw.sample(ODD, 2):
                part_of(checkpoint(replaced(config(), ".".join([*path, place]), value)), path)


@pytest.mark.parametrize(
    "rank, said", [(16, "rank=16, but the file's adapters have rank 0"), ("x", "is not a whole number")]
)
def test_odd_adapters(rank: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        checkpoint(replaced(config(), "lora.rank", rank)).network()


@pytest.mark.parametrize(
    "key, value, said",
    [
        ("net.depth", 10**9, "net.depth=1000000000, but the file holds"),
        ("text.depth", 10**9, "text.depth=1000000000, but the file holds"),
        ("net.width", 24 * 10**6, "weights, but the file holds"),
        ("text.width", 16 * 10**6, "text has .* weights, but the file holds"),
        ("text.buckets", 2**40, "text has .* weights, but the file holds"),
        ("net.width", 2**70, "net"),
        ("net.mlp.ratio", 1e9, "weights, but the file holds"),
        ("net.mlp.ratio", float("inf"), "net.mlp.ratio=inf must be above 0"),
        ("net.heads", 0, "net.heads=0 must be at least 1"),
    ],
)
def test_sizes_that_no_file_holds(key: str, value: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        checkpoint(replaced(config(), key, value)).part(key.split(".")[0])


WIDE = {"_target_": "torch.nn.Linear", "in_features": 20000, "out_features": 20000}
BLOCKS = {"_target_": "torch.nn.Transformer", "d_model": 8, "nhead": 1, "num_encoder_layers": 10**9}
LAYERS = {"_target_": "torch.nn.LSTM", "input_size": 1, "hidden_size": 1, "num_layers": 10**9}
COPIES = {"_target_": "torch.nn.DataParallel", "module": {"_target_": "torch.nn.Identity"}}
STAGES = {"_target_": "dit.codec.vae.network.Autoencoder", "encoder_blocks": [1, 10**9]}


@pytest.mark.parametrize(
    "key, value, said",
    [
        ("net", WIDE, "net has 400,020,000 weights, but the file holds"),
        ("net", {**WIDE, "device": "cpu"}, "net.device='cpu' is refused"),
        ("net", {**WIDE, "dtype": "float64"}, "net.dtype='float64' is refused"),
        ("net.embed", {"_target_": "torch.nn.Linear", "_partial_": True, "device": "cpu"}, "net.embed.device='cpu'"),
        ("net", BLOCKS, "net._target_ asks for torch.nn.Transformer: only classes of"),
        ("net", LAYERS, "net._target_ asks for torch.nn.LSTM: only classes of"),
        ("net", COPIES, "net._target_ asks for torch.nn.DataParallel: only classes of"),
        ("text", LAYERS, "text._target_ asks for torch.nn.LSTM: only classes of"),
        ("codec", STAGES, "codec.encoder_blocks=.*, but the file holds"),
        ("net.mlp", {"depth": [10**9]}, "net.mlp.depth=.*, but the file holds"),
    ],
)
def test_layers_of_torch(key: str, value: Any, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which take no memory and no time before they are refused."""
    made: list[Any] = []
    monkeypatch.setattr(torch.nn.Linear, "reset_parameters", lambda self: made.append(self.weight.is_meta))
    with pytest.raises(ValueError, match=said) as caught:
        checkpoint(replaced(config(), key, value)).part(key.split(".")[0])
    assert all(made) and "\n" not in str(caught.value)


def test_what_the_memory_does_not_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of which a file holds nothing, and clips."""
    own = {key: value for key, value in weights().items() if not key.startswith("text.")}
    sampled = Checkpoint(Path("x.ckpt"), own, {}, config())
    sampled.part("text")
    monkeypatch.setattr("dit.sampling.checkpoint.memory", lambda: 10_000)
    with pytest.raises(ValueError, match="x.ckpt: text holds .* kB, and this machine has 10 kB"):
        sampled.part("text")
    monkeypatch.undo()
    for key, at in (("data.val.height", ("data", "val")), ("data.num_frames", ())):
        huge = checkpoint(replaced(config(), key, 10**12))
        with pytest.raises(ValueError, match="x.ckpt: data.* makes clips of .* PB, and this machine has"):
            huge.part(*at) if at else huge.clip()
    words = {f"word{index}": 0.1 + index * 1e-6 for index in range(1500)}
    many = replaced(replaced(config(), "data.val.sizes", words), "data.val.speeds", words)
    with pytest.raises(ValueError, match="x.ckpt: data.val cannot be built: .* x 1500 x 1500 x .* name fewer words"):
        checkpoint(many).part("data", "val")


def saved(file: Path, **entries: Any) -> Path:
    torch.save({"state_dict": weights(), "config": config(), **entries}, file)
    return file


def hostile_files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Files whose entries are not what they should be, or whose config attacks where a pipeline reads it."""
    attack = attacks(folder / "sentinel")
    own = config() | {"lora": None}
    yield "no mapping", saved(folder / "a.ckpt", state_dict=[1])
    yield "is no tensor", saved(folder / "b.ckpt", state_dict={"net.x": "x"})
    yield "is no tensor", saved(folder / "c.ckpt", state_dict={1: torch.zeros(1)})
    yield "config is no mapping", saved(folder / "d.ckpt", config=["x"])
    yield "ema is no mapping", saved(folder / "e.ckpt", ema=[1])
    yield "no mapping", saved(folder / "f.ckpt", ema={"power": 1})
    yield "holds adapters alone", saved(folder / "g.ckpt", frozen="x")
    yield "interpolations", saved(folder / "h.ckpt", config=replaced(own, "net.norm", attack["resolver"]))
    yield "interpolations", saved(folder / "i.ckpt", config=replaced(own, "data.fps", attack["resolver"]))
    yield "no number", saved(folder / "j.ckpt", config=replaced(own, "data.height", "32"))
    yield "no number", saved(folder / "k.ckpt", config=replaced(own, "sampling.num_steps", [5]))
    yield "only classes of", saved(folder / "l.ckpt", config=replaced(own, "path", attack["system"]))
    yield "only classes of", saved(folder / "m.ckpt", config=replaced(own, "net", attack["functions that compose"]))
    yield "signals is .*, which is no mapping", saved(folder / "o.ckpt", config={**own, "signals": ["x"]})
    other = {"_target_": "dit.signals.base.Around", "_partial_": True}
    yield (
        "would be a call of Around",
        saved(folder / "p.ckpt", config={**own, "signals": {"x": other}}),
    )
    yield "has no sampling", saved(folder / "n.ckpt", config={**own, "sampling": "x"})


def test_pipelines_of_hostile_files(tmp_path: Path) -> None:
    for said, file in hostile_files(tmp_path):
        with watched() as seen, pytest.raises((ValueError, FileNotFoundError), match=said) as caught:
            Pipeline.from_checkpoint(file, weights="raw", device="cpu")
        assert not seen and "\n" not in str(caught.value), file
    assert not (tmp_path / "sentinel").exists()


def test_prompts_in_a_config_are_text(tmp_path: Path) -> None:
    """Nothing reads them, so they may say what they like."""
    own = config() | {"lora": None, "preview": {"prompts": [attacks(tmp_path / "sentinel")["resolver"]]}}
    pipeline = Pipeline.from_checkpoint(saved(tmp_path / "x.ckpt", config=own), weights="raw", device="cpu")
    assert pipeline.settings.num_steps == config()["sampling"]["num_steps"]
    assert not (tmp_path / "sentinel").exists()


def test_every_kind_is_one_that_configs_use() -> None:
    for key, kind in KINDS.items():
        assert isinstance(kind, Kind)
        assert node_of(tuple(key.split("."))) is not None
