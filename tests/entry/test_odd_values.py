"""Values that nobody means: each is one line and exit code 2, before anything is written."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dit.entry import ROOT, sweep

sys.path.insert(0, str(ROOT / "tests/sampling"))

import fakes

SMALL = ("experiment=demo", "net.depth=1", "net.width=48", "net.heads=2", "text.depth=1", "logger=none")


@pytest.fixture
def refused(command: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture) -> Callable[..., str]:
    """The line with which a script, run in this process and in an empty folder, refuses; it may write nothing."""

    def run(script: str, *arguments: str) -> str:
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(SystemExit) as stop:
            command(script, *arguments)
        said = capsys.readouterr().err
        lines = [line for line in said.splitlines() if line.startswith("error: ")]
        assert stop.value.code == 2 and len(lines) == 1 and "Traceback" not in said, said
        assert sorted(tmp_path.rglob("*")) == before, "nothing may be written"
        return lines[0]

    return run


@pytest.mark.parametrize(
    "argument, said",
    [
        ("seed=-1", "seed=-1"),
        ("text=null", "text can be: allegro, bytes, "),
        ("net.heads=0", "net.heads=0"),
        ("net.patch=[1,4]", "net.patch=[1, 4]"),
        ("net.width=-24", "net.width=-24"),
        ("net.depth=-1", "net.depth=-1 must be at least 1"),
        ("net.position.split.h=1e20", "too few for split={'f': 1, 'h': 1e+20, 'w': 1}; its shares are too far apart"),
        ("trainer.accelerator=tpu", "trainer.accelerator=tpu is not one of auto, cpu, gpu, cuda"),
        ("text.heads=0", "text.heads=0"),
        (f"name={'n' * 300}", "300 bytes"),
        ("optim.adjust_lr=x", "optim.adjust_lr=x must be original or match_rms_adamw"),
        ("optim.weight_decay=nan", "optim.weight_decay=nan must be a finite number"),
        ("optim.adamw_betas=[1,1]", "optim.adamw_betas[0]=1 must be at least 0 and below 1"),
        ("logger=[null]", "logger=[null] is no config of that group"),
    ],
)
def test_of_training(argument: str, said: str, refused: Callable[..., str]) -> None:
    assert said in refused("train.py", *SMALL, "name=mine", argument)


@pytest.mark.parametrize("file", ["runs", "runs/mine"])
def test_a_file_where_a_folder_is_to_be(file: str, refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text("mine")
    assert file in refused("train.py", *SMALL, "name=mine")
    assert (tmp_path / file).read_text() == "mine"


def test_a_lock_that_is_a_folder(refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "runs/mine/.lock").mkdir(parents=True)
    assert "runs/mine/.lock is a folder" in refused("train.py", *SMALL, "name=mine", "data.num_workers=0")


@pytest.mark.parametrize(
    "argument, said",
    [
        ("fps=nan", "fps=nan"),
        ("num_steps=2.5", "num_steps=2.5"),
        ("seed=-1", "seed=-1"),
        ("device=meta", "device=meta"),
        ("out=taken", "taken"),
    ],
)
def test_of_sampling(argument: str, said: str, refused: Callable[..., str], tmp_path: Path) -> None:
    fakes.checkpoint(tmp_path / "runs/mine")
    (tmp_path / "taken").write_text("mine")
    assert said in refused("sample.py", "ckpt=runs/mine", "trusted=[tests]", "prompt=a", "num_steps=1", argument)
    assert (tmp_path / "taken").read_text() == "mine"


@pytest.mark.parametrize("damage", [b"", b"\x80\x04 no archive", b"PK\x03\x04" + bytes(100)])
def test_a_checkpoint_that_is_none_passes_on_no_advice_of_torch(
    damage: bytes, refused: Callable[..., str], tmp_path: Path
) -> None:
    """torch advises to unpickle the file with weights_only=False, which would run whatever it holds."""
    (tmp_path / "bad.ckpt").write_bytes(damage)
    said = refused("sample.py", "ckpt=bad.ckpt", "prompt=a")
    assert "bad.ckpt" in said and "weights" not in said.lower()


def test_a_checkpoint_with_an_object_passes_on_no_advice_of_torch(refused: Callable[..., str], tmp_path: Path) -> None:
    torch.save({"config": Path("x")}, tmp_path / "bad.ckpt")
    said = refused("sample.py", "ckpt=bad.ckpt", "prompt=a")
    assert "bad.ckpt" in said and "weights_only" not in said and "False" not in said


def test_sixteen_swept_keys_make_a_name_that_a_file_system_takes() -> None:
    long = "-".join(["mine", *(f"key{index}.{'größer' * 4}" for index in range(16))])
    names = {sweep._short(f"{long}-seed.{seed}") for seed in range(3)}
    assert len(names) == 3 and all(len(name.encode()) < 255 for name in names)
