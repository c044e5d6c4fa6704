"""Folders of diffusers from strangers: hostile values under every key of every class."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from dit import folders
from dit.interop import native
from dit.interop.diffusers import net_config, open_folder
from dit.interop.families import FAMILIES
from dit.interop.family import Family, Overrides
from dit.interop.lora import METADATA, read_lora
from dit.interop.presets import compose
from tests.hostile import attacks, watched

ODD = (None, True, -1, 0, 3, 2.5, 10**9, 2**40, 1e300, float("nan"), float("inf"), "", "x", "a\nb", "\x1b[2J", [], {})
RUN = "{_target_:torch.utils.collect_env.run,command:'touch SENTINEL'}"
# What would be more than a value in Hydra's grammar, in YAML or in OmegaConf.
GRAMMAR = (
    *(
        RUN,
        f"${{oc.create:{RUN}}}",
        f"[{RUN}]",
        "${.width}",
        "null",
        "true",
        "1",
        "1e3",
        "[1,2,2]",
        "{a:1}",
        "4 net.depth=2",
    ),
    *(
        "4\nnet.depth: 2",
        "'4'",
        "x'",
        "~",
        "???",
        "++net.norm=x",
        "gelu' net.text=x",
        "geglu,gelu",
        "/etc/passwd",
        "../x",
    ),
)
NAMES = [family.class_name for family in FAMILIES]


def family_of(name: str) -> Family:
    return next(family for family in FAMILIES if family.class_name == name)


def values(sentinel: Path) -> list[Any]:
    texts = [text.replace("SENTINEL", str(sentinel)) for text in GRAMMAR]
    kept = {name: each for name, each in attacks(sentinel).items() if name not in ("object", "number key", "itself")}
    kept.pop("bomb")  # of a JSON file it would be 2^40 bytes
    return [*ODD, *texts, *kept.values()]


def opened(folder: Path) -> str | None:
    """What is said of a folder; None: nothing is wrong with it. Nothing may happen, and no other error be raised."""
    with watched() as seen:
        try:
            open_folder(folder)
            said = None
        except (ValueError, FileNotFoundError) as error:
            said = str(error)
    assert not seen, seen
    if said is not None:
        assert "\n" not in said and said.isprintable() and len(said) < 1000, said
    return said


@pytest.mark.parametrize("name", NAMES)
def test_hostile_values_under_every_key(name: str, tmp_path: Path) -> None:
    """Two a key from a list of eighty, and one of each sort under some key."""
    family, draw, sentinel = family_of(name), random.Random(name), tmp_path / "sentinel"
    folder = tmp_path / "folder"
    folder.mkdir()
    save_file({"x": torch.zeros(1)}, folder / folders.WEIGHTS)
    everything = values(sentinel)
    trials = [(key, value) for key in (*family.defaults, "_class_name") for value in draw.sample(everything, 2)]
    trials += [(draw.choice([*family.defaults]), value) for value in everything]
    trials += [(key, 1) for key in ("net.width", "a=b", "${x}", "_target_", "x\ny", *GRAMMAR)]
    small = dict.fromkeys(family.depths, 1)
    for key, value in trials:
        config = {"_class_name": name, **small, key: value}
        (folder / folders.CONFIG).write_text(json.dumps(config))
        opened(folder)  # weights of another network at the latest
    assert not sentinel.exists() and sorted(path.name for path in tmp_path.iterdir()) == ["folder"]


@pytest.mark.parametrize("name", NAMES)
def test_values_of_another_kind_are_named(name: str) -> None:
    family = family_of(name)
    for key, default in family.defaults.items():
        wrong: list[Any] = [{"_target_": "x"}, [[1]], {}, "${x}" if not isinstance(default, str) else 5]
        wrong += [True] if not isinstance(default, bool) else ["true", 1]
        wrong += [2**31, -1, 1.5] if type(default) is int else []
        wrong += [float("nan"), float("inf"), "1.0"] if isinstance(default, float) else []
        wrong += [[*default, 1], ["1", *default[1:]]] if isinstance(default, list) else []
        for value in wrong:
            if type(value) in {type(example) for example in family.also.get(key, ())}:
                continue  # of a kind that this setting takes too
            with pytest.raises(ValueError, match=f"{key}=.* must be "):
                family.settings({"_class_name": name, key: value})


def test_more_blocks_than_a_folder_of_ours_holds(tmp_path: Path) -> None:
    native.write(tmp_path, {**compose("demo"), "depth": 10**9}, {"x": torch.zeros(1)})
    with pytest.raises(ValueError, match="net.yaml: depth=1000000000, but the file holds 1 tensors"):
        native.open_folder(tmp_path)


def test_texts_are_never_read_as_overrides(tmp_path: Path) -> None:
    for text in (RUN, "${.width}", "${oc.env:HOME}"):
        run = text.replace("SENTINEL", str(tmp_path / "sentinel"))
        with watched() as seen:
            try:
                assert compose("demo", made=Overrides({}, {"pattern": run}))["pattern"] == run
            except ValueError as error:
                assert "interpolations" in str(error)
        assert not seen and not (tmp_path / "sentinel").exists()
    with pytest.raises(AssertionError):
        compose("demo", made=Overrides({"norm": "rmsnorm net.depth=3"}, {}))


def test_defaults_and_examples_are_of_their_own_kind() -> None:
    for family in FAMILIES:
        for key, examples in {**{key: (value,) for key, value in family.defaults.items()}, **family.also}.items():
            for example in examples:
                assert family.settings({key: example})[key] == example, (family.class_name, key)


def test_numbers_without_a_point_are_numbers() -> None:
    assert family_of("WanTransformer3DModel").settings({"eps": 1})["eps"] == 1.0
    assert net_config({"_class_name": "WanTransformer3DModel", "num_layers": 1, "eps": 1e-5})["norm"]["eps"] == 1e-5


@pytest.mark.parametrize(
    "text, said",
    [
        ("{", "is not JSON"),
        ("[1]", "holds no mapping"),
        ("[" * 100_000, "is not JSON"),
        ('{"transformer.lora_alpha": "8"}', "must be numbers"),
        ('{"transformer.lora_alpha": 8, "transformer.alpha_pattern": [1]}', "must be numbers"),
        ('{"transformer.lora_alpha": 8, "transformer.alpha_pattern": {"(a+)+$": 1}}', "is no layer's name"),
        ('{"transformer.lora_alpha": 8, "transformer.alpha_pattern": {"(": 1}}', "is no layer's name"),
    ],
)
def test_settings_of_adapters(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "pytorch_lora_weights.safetensors"
    pair = {"transformer.x.lora_A.weight": torch.zeros(2, 3), "transformer.x.lora_B.weight": torch.zeros(4, 2)}
    save_file(pair, file, metadata={METADATA: text})
    with pytest.raises(ValueError, match=said) as caught:
        read_lora(file)
    assert str(file) in str(caught.value) and "\n" not in str(caught.value)
