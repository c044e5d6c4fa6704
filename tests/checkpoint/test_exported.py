"""A run that is passed on: one file of safetensors that every command takes in the place of a run's checkpoint."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dit.checkpoint import exported
from dit.checkpoint.opened import find
from dit.engine.initial import open_source
from dit.sampling.checkpoint import Checkpoint
from dit.sampling.pipeline import Pipeline
from scripts import convert_weights
from tests.evaluation.checkpoints import _content, make_run

PROMPT = "a red circle moves right"


def export(source: Path, out: Path, *options: str) -> Path:
    sys.argv = ["convert_weights.py", str(source), str(out), "--to", "run", *options]
    convert_weights.main()
    return out


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose averages are not its raw weights, and none of them zero."""
    draw = torch.Generator().manual_seed(1)
    raw = _content()["state_dict"]
    averaged = {key: value + 0.1 * torch.randn(value.shape, generator=draw) for key, value in raw.items()}
    classes = ["red circle", "blue bar"]
    folder = make_run(
        tmp_path_factory.mktemp("runs") / "mine",
        ema={"narrow": averaged, "wide": {key: 0.5 * value for key, value in averaged.items()}},
        classes=classes,
        data_cards=["00ff"],
    )
    (folder / "metrics.csv").write_text("step,seen/clips,speed/seconds\n5,40,60\n7,56,90\n20,160,300\n")
    return folder


@pytest.fixture(scope="module")
def folder(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    before = sys.argv
    try:
        return export(run, tmp_path_factory.mktemp("out") / "mine")
    finally:
        sys.argv = before


def test_it_is_the_checkpoint_with_one_set_of_weights(run: Path, folder: Path) -> None:
    theirs, ours = Checkpoint.load(run), Checkpoint.load(folder)
    assert ours.file == find(folder) == folder / exported.FILE and exported.is_exported(ours.file)
    assert ours.config == theirs.config, "keys that are whole numbers, too"
    assert (ours.step, ours.classes, ours.data_cards) == (7, theirs.classes, ("00ff",))
    for weights in ("ema", "narrow", "ema:narrow"):
        label, averaged = ours.choose(weights)
        assert (label, averaged) == ("ema:narrow", {})
    assert all(torch.equal(value, theirs.ema["narrow"][key]) for key, value in ours.weights.items())
    assert ours.weights.keys() == theirs.weights.keys()
    for absent in ("raw", "wide", "ema@0.1"):
        with pytest.raises(ValueError, match=f"weights={absent} is not in .*, which holds ema:narrow alone"):
            ours.choose(absent)
    card = (folder / "README.md").read_text()
    assert "1.5 minutes by the clock until step 7, 56 clips" in card, "not what came behind the weights' step"


def test_its_samples_are_the_runs(run: Path, folder: Path) -> None:
    one, other = (Pipeline.from_checkpoint(each, device="cpu")(PROMPT, seeds=[3]).pixels for each in (run, folder))
    assert torch.equal(one, other)


def test_in_16_bits_and_once_more(run: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [])
    small = export(folder, tmp_path / "small", "--dtype", "float16")  # of a folder to pass on, another one
    held = load_file(small / exported.FILE)
    assert {value.dtype for value in held.values()} == {torch.float16}
    assert (small / exported.FILE).stat().st_size < 0.7 * (folder / exported.FILE).stat().st_size
    one, other = (Pipeline.from_checkpoint(each, device="cpu") for each in (folder, small))
    assert next(other.net.parameters()).dtype == torch.float32
    pixels = [each(PROMPT, seeds=[3]).pixels for each in (one, other)]
    assert 0 < (pixels[0] - pixels[1]).abs().max() < 0.02
    raw = export(run, tmp_path / "raw", "--weights", "raw")
    assert Checkpoint.load(raw).choose("raw") == ("raw", {})
    with pytest.raises(ValueError, match="weights=ema is not in .*, which holds raw alone"):
        Checkpoint.load(raw).choose("ema")
    export(small, tmp_path / "network", "--to", "ours")  # and a network alone
    assert (tmp_path / "network/net.safetensors").is_file()


def test_training_begins_with_it(folder: Path) -> None:
    for weights in ("raw", "ema"):
        for place in (folder, folder / exported.FILE):
            source = open_source(str(place), weights)
            assert source.about.endswith("(ema:narrow)") and source.data_cards == ("00ff",)
            assert {key.split(".")[0] for key in source.shapes} == {"net", "text"}
    with pytest.raises(ValueError, match="init_weights=wide is not in"):
        open_source(str(folder), "wide")


def test_what_is_damaged_or_foreign_is_one_line(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / exported.FILE
    whole = (folder / exported.FILE).read_bytes()
    tensors = {"net.x": torch.ones(2)}
    files = {
        "no whole safetensors": lambda: file.write_bytes(whole[:-1]),
        "its header has no dit_checkpoint": lambda: save_file(tensors, file),
        "is not YAML": lambda: save_file(tensors, file, {exported.HEADER: "a: [1"}),
        "holds no mapping": lambda: save_file(tensors, file, {exported.HEADER: "- 1"}),
        "is not YAML ": lambda: save_file(tensors, file, {exported.HEADER: "a: !!python/object/apply:os.getcwd []"}),
        "has no config": lambda: save_file(tensors, file, {exported.HEADER: "only_weights: raw"}),
        "does not say which weights": lambda: save_file(tensors, file, {exported.HEADER: "config: {}"}),
        "its config is no mapping": lambda: save_file(
            tensors, file, {exported.HEADER: "{only_weights: raw, config: 1}"}
        ),
    }
    for said, make in files.items():
        make()
        with pytest.raises(ValueError, match=said) as caught:
            Checkpoint.load(file)
        assert str(file) in str(caught.value) and "\n" not in str(caught.value)


def test_its_config_is_data_too(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / exported.FILE
    weights, header = load_file(folder / exported.FILE), exported.read(folder / exported.FILE)
    header["config"] = {**header["config"], "net": {"_target_": "os.system", "command": f"touch {tmp_path}/ran"}}
    said = {each.name: header[each.name] for each in exported.SAID}
    exported.write(file, weights, said, torch.float32)
    with pytest.raises(ValueError, match="net._target_ asks for os.system"):
        Checkpoint.load(file).network()
    assert not (tmp_path / "ran").exists()


def test_what_cannot_be_written(run: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [])
    large = make_run(tmp_path / "large", state_dict={"net.x": torch.tensor([7e4])})
    with pytest.raises(ValueError, match="net.x holds values up to 7e.04, beyond torch.float16: take --dtype bfloat16"):
        export(large, tmp_path / "out", "--dtype", "float16")
    assert not (tmp_path / "out").exists()
    export(large, tmp_path / "out", "--dtype", "bfloat16")
    with pytest.raises(FileExistsError, match="is there already"):
        export(run, folder)
    with pytest.raises(ValueError, match="--dtype float16 is for --to run"):
        export(run, tmp_path / "other", "--dtype", "float16", "--to", "ours")
    export(run, tmp_path / "ours", "--to", "ours")
    with pytest.raises(ValueError, match="is no run; --to run wants one, or its checkpoint"):
        export(tmp_path / "ours", tmp_path / "other")
