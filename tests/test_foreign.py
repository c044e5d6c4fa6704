"""Configs from elsewhere: what is built equals what Hydra builds, and nothing else is built."""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hydra
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn

from dit.config.kinds import TARGET, arguments
from dit.foreign import DEEPEST, MOST, Kind, Refused, build, check_plain, read_yaml
from dit.interop.describe import describe
from dit.interop.presets import compose
from dit.sampling.checkpoint import KINDS
from tests.hostile import attacks, watched
from tests.same import same

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
ANY = Kind(Any, "dit")
NET = KINDS["net"]
NETS = sorted(file.stem for file in (CONFIGS / "net").glob("[!_]*.yaml"))
FULL = {"_target_": "dit.net.layout.Full"}
NORM = {"_target_": "dit.net.layers.LayerNorm", "_partial_": True, "eps": 1e-6, "affine": False}
TWO = {"_target_": "dit.net.layers.TwoNorms", "dim": 4, "second": NORM}


def composed(name: str, *overrides: str) -> Any:
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return OmegaConf.to_container(hydra.compose(name, overrides=list(overrides)), resolve=True)


@pytest.mark.parametrize("name", NETS)
def test_every_network_gets_what_hydra_gives_it(name: str) -> None:
    """All parts and values; the networks themselves of the small ones."""
    config = compose(name)  # of Hydra, once for all tests
    for key, part in config.items():
        if isinstance(part, dict) and TARGET in part:
            assert same(build(part, Kind(Any, "dit.net"), key), instantiate(part, _convert_="all")), key
    if name == "demo" or name.endswith("_tiny"):
        with torch.device("meta"):
            ours, theirs = build(config, NET, "net"), instantiate(config, _convert_="all")
        assert describe(ours) == describe(theirs)
        assert [*ours.state_dict()] == [*theirs.state_dict()]
        own, other = dict(ours.named_buffers()), dict(theirs.named_buffers())
        assert {key: value.shape for key, value in own.items()} == {key: value.shape for key, value in other.items()}


@pytest.mark.parametrize("group", ["position", "text", "modulation", "qk_norm", "mlp", "kernel", "final", "templates"])
def test_every_part_of_a_network_is_what_hydra_builds(group: str) -> None:
    for file in sorted((CONFIGS / "net" / group).glob("*.yaml")):
        config = OmegaConf.load(file)
        if "defaults" in config or "_target_" not in config or "${" in file.read_text():
            continue  # these are in the networks above
        plain = OmegaConf.to_container(config)
        theirs = instantiate(plain, _convert_="all")
        assert same(build(plain, Kind(Any, "dit.net"), file.stem), theirs), file


def test_worlds_are_what_hydra_builds() -> None:
    for option in ("demo", "world_full"):
        data = composed("train", "experiment=demo", "name=x", f"data={option}")["data"]
        for half in ("train", "val"):
            ours, theirs = build(data[half], KINDS["data.val"], half), instantiate(data[half], _convert_="all")
            assert ours.clip(3).caption == theirs.clip(3).caption
            assert (ours.clip(3).pixels == theirs.clip(3).pixels).all()


def test_a_difference_is_seen() -> None:
    theirs = instantiate(NORM)
    assert same(build(NORM, Kind(Any, "dit.net"), "norm"), theirs)
    assert not same(build({**NORM, "eps": 1e-5}, Kind(Any, "dit.net"), "norm"), theirs)
    assert not same(build({**NORM, "_target_": "dit.net.layers.RMSNorm"}, Kind(Any, "dit.net"), "norm"), theirs)


@pytest.mark.parametrize("name", attacks(Path("x")))
def test_attacks_are_refused_at_every_place(name: str, tmp_path: Path) -> None:
    """As the thing itself, and as an argument of every sort."""
    attack = attacks(tmp_path / "sentinel")[name]
    mlp = {"_target_": "dit.net.layers.GELUMLP", "width": 8, "ratio": 4.0, "approximate": "tanh", "bias": True}
    norms = {"_target_": "dit.net.layers.TwoNorms", "dim": 4, "first": NORM, "second": NORM}
    several = {"_target_": "dit.net.position.base.Several", "width": 4, "head_dim": 4, "parts": {}}
    trials = [
        attack,
        *({**mlp, key: attack} for key in mlp if key != "_target_"),
        {**norms, "first": attack},
        {**several, "parts": {"a": attack}},
        {**several, "parts": attack},
        {**mlp, "more": attack},
        {**NORM, "eps": attack},
        {"_target_": "torch.nn.Sequential", "args": attack},
        {"_target_": attack},
        {**mlp, "_partial_": attack},
        {**mlp, "_convert_": attack},
        {**mlp, "_args_": attack},
    ]
    for trial in trials:
        with watched() as seen, pytest.raises(Refused) as caught:
            build(trial, NET, "net")
        assert not seen, seen
        assert not (tmp_path / "sentinel").exists()
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_the_watch_sees_what_it_must(tmp_path: Path) -> None:
    for action in (
        lambda: instantiate({"_target_": "torch.utils.collect_env.run", "command": f"touch {tmp_path / 'a'}"}),
        lambda: (tmp_path / "b").touch(),
        lambda: (tmp_path / "c").write_text("x"),
        lambda: (tmp_path / "d").mkdir(),
    ):
        with watched() as seen:
            action()
        assert seen
    with watched() as seen:
        (tmp_path / "c").read_text()
    assert not seen


@pytest.mark.parametrize(
    "node, said",
    [
        ({"_target_": "dit.net.layers.hidden_width", "width": 4, "ratio": 1.0}, "is no class: it is not run"),
        ({"_target_": "dit.engine.run._make"}, "no dotted name"),
        (
            {"_target_": "dit.engine.writers.Wandb"},
            r"only classes of dit.net or torch.nn \(GELU, .*, SiLU\) belong there",
        ),
        ({"_target_": "mine.nets.Own"}, r"If you trust the file, and have that package: trusted=\[mine\]"),
        ({"_target_": "dit.net.gone.Net"}, "net._target_ asks for dit.net.gone.Net, which is not in this code"),
        ({"_target_": "dit.net.layers.Gone"}, "not in this code"),
        ({"_target_": "dit.net.layers.functional"}, "is no class"),
        ({"_target_": "dit.net.layers.Tensor"}, "which is torch.Tensor: only classes"),
        ({"_target_": "torch.nn.Parameter"}, "only classes of dit.net or torch.nn .* belong there"),
        *(
            ({"_target_": f"torch.nn.{name}"}, f"torch.nn.{name}: only classes")
            for name in ("LSTM", "Transformer", "DataParallel", "Sequential", "Linear.x", "modules.linear.Linear")
        ),
        *(
            ({"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 2, name: value}, f"net.{name}=.* layer")
            for name, value in (("device", "cpu"), ("device", None), ("dtype", "float32"))
        ),
        ({"_target_": "torch.nn.Linear", "_partial_": True, "device": "cpu"}, "net.device='cpu' is refused"),
        (
            {"_target_": "dit.net.layout.Full"},
            r"net would be a Full, which does not go there; a part with a _target_ \(Module\) does",
        ),
        ({**NORM}, r"net would be a call of LayerNorm \(_partial_: true\), which does not go there"),
        ({**NORM, "_partial_": False, "dim": 4, "eps": "x"}, "net.eps=x is not a number"),
        ({**NORM, "_partial_": False, "dim": 4, "epz": 1}, "net.epz: LayerNorm takes no epz; did you mean eps"),
        ({**NORM, "_partial_": False, "dim": 4, "eps": -1.0}, "net.eps=-1.0 must be at least 0"),
        ({**NORM, "_partial_": False, "dim": 10**5000}, "net.dim is a number of thousands of digits, more than can be"),
        ({**NORM, "_partial_": False}, "net.dim is missing: LayerNorm needs it"),
        ({**NORM, "_partial_": False, "dim": NORM}, "net.dim would be a call of LayerNorm .*; a whole number does"),
        (
            {**TWO, "first": FULL},
            "net.first would be a Full, which does not go there; .* _partial_: true",
        ),
        (
            {**TWO, "first": {**FULL, "_partial_": True}},
            "net.first would be a call of Full",
        ),
        ({"in_channels": 3}, "names no class to build"),
        ("dit.net.backbone.Backbone", "names no class to build"),
        ({**NORM, "eps": "${x}"}, r"net.eps is '\$\{x\}': interpolations are not resolved"),
    ],
)
def test_refusals_say_what_is_wrong(node: Any, said: str) -> None:
    with pytest.raises(Refused, match=said):
        build(node, NET, "net")


def test_trust_is_for_classes_of_that_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "__init__.py").write_text("")
    (tmp_path / "mine" / "nets.py").write_text(
        "import os\nfrom pathlib import Path\nfrom torch import nn\n"
        "class Own(nn.Linear): pass\ndef make(): os.mkdir('made')\n"
    )
    (tmp_path / "minefield.py").write_text("from pathlib import Path\nPath('imported').touch()\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    own = {"_target_": "mine.nets.Own", "in_features": 2, "out_features": 3}
    for trusted in (["mine"], ["mine."], ["mine.nets"], ["dit.", "torch.nn.", "mine."]):
        assert build(own, NET, "net", trusted).weight.shape == (3, 2)
    for trusted in ([], ["min"], ["dit."], ["torch"], [""], ["."]):
        with pytest.raises(Refused, match="only classes of"):
            build(own, NET, "net", trusted)
    for target in ("mine.nets.make", "mine.nets.os.system", "mine.nets.Path", "minefield.Path", "dit.engine.run.Parts"):
        with pytest.raises(Refused):
            build({"_target_": target}, NET, "net", ["mine", "dit", "data", "torch"])
    with pytest.raises(Refused, match="interpolations"):
        build({**own, "out_features": "${in_features}"}, NET, "net", ["mine"])
    assert not (tmp_path / "made").exists() and not (tmp_path / "imported").exists()


def test_annotations_of_all_that_may_be_built_can_be_read() -> None:
    """An argument whose annotation cannot be read is an argument that anything may be given to."""
    for found in reachable():
        if inspect.isfunction(found.__init__) and found.__init__.__module__.startswith(("dit.", "data.")):
            parameters = set(inspect.signature(found).parameters) - {"args", "kwargs"}
            hints = typing.get_type_hints(found.__init__)
            assert parameters <= hints.keys(), found
            assert arguments(f"{found.__module__}.{found.__qualname__}", partial=False) is not None, found


def test_what_may_be_built_neither_opens_nor_writes() -> None:
    """By their source: a class that does would be a weapon in a file from elsewhere.

    Codecs with weights of their own call functions that read them: tests/codec/test_codec_hostile.py.
    """
    weapons = (
        r"(?<![.\w])(open|write\w*|torch\.load|torch\.save|subprocess|os|import_module|instantiate|eval|exec)\b[.(]"
    )
    for found in reachable():
        weapon = re.search(weapons, re.sub(r'"""(.|\n)*?"""', "", inspect.getsource(found)))
        assert weapon is None, f"{found}: {weapon}"


def reachable() -> Iterator[type]:
    """Every class of this project within one of the kinds."""
    for home in sorted({home for kind in KINDS.values() for home in kind.homes}):
        owner = home if home.rpartition(".")[2][0].islower() else home.rpartition(".")[0]
        package = importlib.import_module(owner)
        inner = [each.name for each in pkgutil.walk_packages(getattr(package, "__path__", []), f"{owner}.")]
        for name in [owner, *inner]:
            for found in vars(importlib.import_module(name)).values():
                own = isinstance(found, type) and found.__module__ == name
                if own and (f"{name}.{found.__name__}" == home or owner == home):
                    yield found


def test_plain_data_has_limits() -> None:
    check_plain({"a": [1, 2.5, None, True, "x", {"b": (1, 2)}]}, "x")
    for value in ([0] * MOST, functools.reduce(lambda inner, _: [inner], range(DEEPEST + 1), 1), nn.Linear, {1.5: 2}):
        with pytest.raises(Refused):
            check_plain(value, "x")


@pytest.mark.parametrize(
    "text, said",
    [
        ("!!python/object/apply:os.system ['touch made']", "is not YAML"),
        ("a: !!python/name:os.system", "is not YAML"),
        ("- 1", "holds no mapping"),
        ("a: 2001-99-99", "is not YAML"),
        ("a: 2001-01-01", "is of type date"),
        ("a: !!binary aGk=", "is of type bytes"),
        ("a: !!set {x}", "is of type set"),
        ("a: [" * 3000, "is not YAML"),
        ("b0: &b0 [1]\n" + "".join(f"b{i + 1}: &b{i + 1} [*b{i},*b{i}]\n" for i in range(40)), "is no config"),
        ("? [a]\n: b", "is not YAML"),
        ("? 2001-01-01\n: b", "which is no text"),
        ("\x00", "is not YAML"),
    ],
)
def test_yaml_is_read_as_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: str) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "net.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=said) as caught:
        read_yaml(file)
    assert str(file) in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "made").exists()
    file.write_bytes(b"a: \xff")
    with pytest.raises(ValueError, match="is not YAML"):
        read_yaml(file)
    file.write_text("a: ${b}\nprompts: [x]")
    assert read_yaml(file) == {"a": "${b}", "prompts": ["x"]}
