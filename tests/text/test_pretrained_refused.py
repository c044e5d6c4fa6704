"""Published text encoders that are not whole, settings that cannot be, and attacks: one line each, and nothing runs."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import pytest

from dit import encoders, foreign
from dit.config.build import build
from dit.sampling.checkpoint import KINDS
from tests.hostile import attacks, places, replaced, watched
from tests.text.tiny import CAT
from tests.text.wan import equal, node

pytest.importorskip("transformers")


def spoiled(folder: Path, tmp_path: Path, how: str) -> Path:
    made = shutil.copytree(folder, tmp_path / how)
    config = made / "text_encoder/config.json"
    said = json.loads(config.read_text())
    match how:
        case "no_folder":
            shutil.rmtree(made)
        case "a_file":
            shutil.rmtree(made)
            made.write_text("")
        case "no_encoder":
            shutil.rmtree(made / "text_encoder")
        case "no_tokenizer":
            shutil.rmtree(made / "tokenizer")
        case "no_tokenizer_json":
            (made / "tokenizer/tokenizer.json").unlink()
        case "no_config":
            config.unlink()
        case "no_json":
            config.write_text("{")
        case "unknown_class":
            config.write_text(json.dumps({**said, "model_type": "bert"}))
        case "own_code":
            config.write_text(json.dumps({**said, "auto_map": {"AutoModel": "evil.Model"}}))
        case "odd_value":
            config.write_text(json.dumps({**said, "d_model": "many"}))
        case "pickle":
            (made / "text_encoder/model.safetensors").rename(made / "text_encoder/pytorch_model.bin")
        case "no_weights":
            (made / "text_encoder/model.safetensors").unlink()
        case "cut_weights":
            file = made / "text_encoder/model.safetensors"
            file.write_bytes(file.read_bytes()[:-40])
        case "other_sizes":
            config.write_text(json.dumps({**said, "d_ff": 48}))
        case "more_layers":
            config.write_text(json.dumps({**said, "num_layers": 3}))
        case "bad_tokenizer":
            (made / "tokenizer/tokenizer.json").write_text('{"version": "1.0"}')
    return made


@pytest.mark.parametrize(
    "how, match",
    [
        ("no_folder", "text.folder=.* is not there"),
        ("a_file", "text.folder=.* is a file"),
        ("no_encoder", "no folder text_encoder, which is needed; it holds tokenizer"),
        ("no_tokenizer", "no folder tokenizer, which is needed"),
        ("no_tokenizer_json", "has no tokenizer.json"),
        ("no_config", "config.json is not there"),
        ("no_json", "is not JSON"),
        ("unknown_class", "model_type 'bert' is not among those that are read: t5, umt5"),
        ("own_code", "config.json: auto_map=.* is refused, since it may name code of its own"),
        ("odd_value", "text_encoder"),
        ("pickle", "pickle"),
        ("no_weights", "model.safetensors is not there"),
        ("cut_weights", "is no whole safetensors file"),
        ("other_sizes", "text_encoder"),
        ("more_layers", "lacks .* of the weights that its config names"),
        ("bad_tokenizer", "cannot be read"),
    ],
)
def test_a_folder_that_is_not_whole_is_one_line(folder: Path, tmp_path: Path, how: str, match: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=match) as said:
        build(node(spoiled(folder, tmp_path, how)))([CAT])
    assert "\n" not in str(said.value)


def test_an_encoder_that_is_larger_than_memory_is_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoders, "memory", lambda: 10_000)
    with pytest.raises(ValueError, match="text_encoder holds .* of weights, and this machine has 10 kB"):
        build(node(folder))([CAT])


def test_settings_that_cannot_be_are_one_line(folder: Path) -> None:
    with pytest.raises(ValueError, match="text.folder is missing"):
        build(node(None))
    with pytest.raises(ValueError, match="hides_empty=true"):
        build(node(folder, hides_empty=True))
    with pytest.raises(ValueError, match="states.layers=9, but the encoder has 2 layers"):
        build(node(folder, states={"_target_": "dit.text.states.Skipping", "layers": 9}))
    with pytest.raises(ValueError, match="a template has one {}"):
        build(node(folder, template={"_target_": "dit.text.template.Fixed", "text": "none", "crop": 0}))
    none = node(folder)
    none["parts"] = {}
    with pytest.raises(ValueError, match="text.parts holds 0 of Tokens"):
        build(none)


def test_a_missing_package_is_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(ValueError, match="pip install -r requirements-pretrained.txt") as said:
        build(node(folder))
    assert "\n" not in str(said.value)


def test_a_checkpoint_may_name_one_and_nothing_else(folder: Path) -> None:
    made = foreign.build(node(folder), KINDS["text"], "text")
    assert equal(made([CAT]), build(node(folder))([CAT]))
    hostile = copy.deepcopy(node(folder))
    hostile["parts"]["tokens"]["clean"] = {"_target_": "dit.feature_store.FeatureStore", "folder": "x", "mark": "y"}
    with pytest.raises(foreign.Refused):
        foreign.build(hostile, KINDS["text"], "text")


def test_attacks_at_every_place_run_and_write_nothing(folder: Path, tmp_path: Path) -> None:
    config = node(folder, template={"_target_": "dit.text.template.Fixed", "text": "{}", "crop": 0})
    foreign.build(config, KINDS["text"], "text")  # and all is imported
    sentinel = tmp_path / "sentinel"
    for place in places(config):
        for name, attack in attacks(sentinel).items():
            with watched() as seen:
                try:
                    foreign.build(replaced(config, place, attack), KINDS["text"], "text")
                except foreign.Refused as refused:
                    assert "\n" not in str(refused), (place, name)
            assert not seen and not sentinel.exists(), (place, name, seen)
