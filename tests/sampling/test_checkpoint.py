"""Checkpoints: found, read without unpickling, loaded strictly, and nothing run that is not trusted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dit.checkpoint.opened import find
from dit.sampling.checkpoint import Checkpoint
from tests.sampling.fakes import FAKES, FakeNet, checkpoint, config


def parts(file: Checkpoint) -> dict[str, Any]:
    return {name: file.part(name, trusted=FAKES) for name in ("net", "codec", "text")}


def changed(run: Path, **entries: Any) -> Path:
    """The run's checkpoint with entries of its content replaced (None: removed)."""
    path = run / "checkpoints" / "last.ckpt"
    content = torch.load(path, weights_only=True) | entries
    torch.save({key: value for key, value in content.items() if value is not None}, path)
    return run


def test_a_run_and_its_file_are_the_same(tmp_path: Path) -> None:
    run = checkpoint(tmp_path / "mine")
    assert find(run) == find(run / "checkpoints" / "last.ckpt") == run / "checkpoints" / "last.ckpt"


@pytest.mark.parametrize(
    "weights, label, shift", [("raw", "raw", 0.0), ("ema", "ema:long", 0.5), ("short", "ema:short", 0.25)]
)
def test_which_weights(tmp_path: Path, weights: str, label: str, shift: float) -> None:
    file = Checkpoint.load(checkpoint(tmp_path))
    said, averaged = file.choose(weights)
    built = parts(file)
    file.fill(built, averaged)
    assert said == label
    torch.testing.assert_close(built["net"].gain, file.weights["net.gain"] + shift)
    torch.testing.assert_close(built["text"].scale, torch.tensor(1.5 + shift))
    assert torch.equal(built["net"].offset, file.weights["net.offset"]), "buffers are not averaged"


def test_without_a_used_profile_ema_is_the_first(tmp_path: Path) -> None:
    assert Checkpoint.load(checkpoint(tmp_path, ema=None)).choose("ema")[0] == "ema:short"


def test_a_part_that_was_not_trained_brings_its_own_weights(tmp_path: Path) -> None:
    run = checkpoint(tmp_path)
    content = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    kept = {key: value for key, value in content["state_dict"].items() if not key.startswith("text.")}
    file = Checkpoint.load(changed(run, state_dict=kept, ema={}))
    built = parts(file)
    file.fill(built, file.choose("raw")[1])
    assert built["text"].scale == 1.0
    with pytest.raises(ValueError, match="weights=ema is not in .*; there are: raw"):
        file.choose("ema")


def test_weights_are_loaded_strictly(tmp_path: Path) -> None:
    run = checkpoint(tmp_path)
    original = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    for change, message in [
        ({"net.gain": None}, "net.gain is not in the checkpoint"),
        ({"net.more": torch.zeros(1)}, "net.more is not in the network"),
        ({"net.gain": torch.zeros(5)}, r"net.gain is \(5,\), needed \(3, 1, 1, 1\)"),
    ]:
        weights = {key: value for key, value in (original | change).items() if value is not None}
        file = Checkpoint.load(changed(run, state_dict=weights))
        with pytest.raises(ValueError, match=message):
            file.fill(parts(file), {})
    file = Checkpoint.load(changed(run, state_dict=original, ema={"long": {"net.strange": torch.zeros(1)}}))
    with pytest.raises(ValueError, match="net.strange"):
        file.fill(parts(file), file.choose("ema")[1])


def test_missing_and_broken_files(tmp_path: Path) -> None:
    checkpoint(tmp_path / "mine")
    (tmp_path / "empty").mkdir()
    (tmp_path / "other" / "checkpoints").mkdir(parents=True)
    (tmp_path / "other" / "checkpoints" / "step-00000200.ckpt").touch()
    (tmp_path / "text.ckpt").write_text("hello")
    torch.save({"weights": 1}, tmp_path / "foreign.ckpt")
    for name, kind, message in [
        ("mien", FileNotFoundError, "mien is not there; in .*mine"),
        ("mien/checkpoints/last.ckpt", FileNotFoundError, "is not there; in .*mine"),
        ("empty", FileNotFoundError, "no checkpoints/last.ckpt; it holds no checkpoint at all"),
        ("other", FileNotFoundError, "checkpoints there: checkpoints/step-00000200.ckpt"),
        ("text.ckpt", ValueError, "cannot be read as a checkpoint"),
        ("foreign.ckpt", ValueError, "has no state_dict and no config"),
    ]:
        with pytest.raises(kind, match=message) as caught:
            Checkpoint.load(tmp_path / name)
        assert "\n" not in str(caught.value)


class Payload:
    ran = False

    def __reduce__(self) -> tuple[Any, ...]:
        return setattr, (Payload, "ran", True)


def test_a_checkpoint_runs_no_code(tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "config": Payload()}, tmp_path / "evil.ckpt")
    with pytest.raises(ValueError, match="cannot be read"):
        Checkpoint.load(tmp_path / "evil.ckpt")
    assert not Payload.ran
    torch.load(tmp_path / "evil.ckpt", weights_only=False)
    assert Payload.ran, "the payload works, so the test shows something"


@pytest.mark.parametrize(
    "target",
    ["os.system", "dit.checkpoint.archive.torch.load", "dit.sampling.checkpoint.find", "tests.hostile.watched"],
)
def test_a_config_calls_only_what_is_trusted(tmp_path: Path, target: str) -> None:
    nested = config()["net"] | {"norm": [{"_target_": target}]}
    file = Checkpoint.load(checkpoint(tmp_path))
    file.config["net"] = nested
    with pytest.raises(ValueError, match=f"net.norm.0._target_ asks for {target}.*not run"):
        file.part("net", trusted=FAKES)
    with pytest.raises(ValueError, match=r"last.ckpt: text._target_ .*FakeText: only classes of dit.text.*\[tests\]"):
        file.part("text")
    assert isinstance(Checkpoint.load(tmp_path).part("net", trusted=FAKES), FakeNet)


def test_a_config_without_an_entry(tmp_path: Path) -> None:
    file = Checkpoint.load(checkpoint(tmp_path, sampling={"num_steps": 3}))
    with pytest.raises(ValueError, match="the config in .* has no sampling.solver"):
        file.part("sampling", "solver", trusted=FAKES)
