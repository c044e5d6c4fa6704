"""The format of a checkpoint has one owner, and files from before mean what they did."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch

from dit.checkpoint import entries, files
from dit.checkpoint.entries import Entry

ROOT = Path(__file__).resolve().parents[2]
BEFORE = ROOT / "tests/engine/before/step-3.ckpt"
OF_LIGHTNING = {"callbacks", "epoch", "loops", "pytorch-lightning_version", "hparams_name", "hyper_parameters"}
ALL = [each for each in vars(entries).values() if isinstance(each, Entry)]
COMMON = {"ema", "config", "classes", "frozen", "seconds", "fingerprint", "seen"}  # words that name other things, too


def test_nobody_else_names_the_entries() -> None:
    names, found = {each.name for each in ALL} - COMMON, []
    assert len(names) > 8
    for file in sorted((ROOT / "dit").rglob("*.py")):
        if file.is_relative_to(ROOT / "dit/checkpoint"):
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Constant) and node.value in names:
                found.append(f"{file.relative_to(ROOT)}:{node.lineno}: {node.value}")
    assert not found, found


def test_a_file_of_before_holds_entries_that_are_known() -> None:
    content = torch.load(BEFORE, weights_only=True)
    assert content.keys() <= {each.name for each in ALL} | OF_LIGHTNING
    assert all(each.is_in(content) for each in ALL if each.always and each is not entries.FINGERPRINT)
    assert entries.OTHER_RUNNING_LOSSES.of(content) == {} and entries.FROZEN.of(content) is None


@pytest.mark.parametrize("each", ALL, ids=lambda each: each.name)
def test_an_entry_reads_what_it_wrote(each: Entry[object]) -> None:
    content: dict[str, object] = {}
    assert not each.is_in(content)
    if each.always:
        with pytest.raises(KeyError):
            each.of(content)
    else:
        assert each.of(content) == each.absent
    each.put(content, "value")
    assert each.is_in(content) and each.of(content) == "value" and list(content) == [each.name]


def test_the_rate_of_files_that_do_not_say_their_factor() -> None:
    assert entries.lr_factor({}) is None
    assert entries.lr_factor({"lr_schedulers": [{"base_lrs": [0.0, 0.2], "_last_lr": [0.0, 0.05]}]}) == 0.25
    assert entries.lr_factor({"lr_factor": 0.5, "lr_schedulers": [{"base_lrs": [1.0], "_last_lr": [0.1]}]}) == 0.5


def test_names_of_files(tmp_path: Path) -> None:
    for name in (files.step_name(20), files.step_name(3), "step-x.ckpt", "step-00000004.part", files.LAST):
        (tmp_path / name).touch()
    (tmp_path / "step-00000005.ckpt").mkdir()
    assert files.numbered(tmp_path) == [(step, tmp_path / files.step_name(step)) for step in (3, 20)]
    assert files.run_of(Path("runs/a/checkpoints/last.ckpt")) == Path("runs/a")
    assert files.run_of(Path("elsewhere/last.ckpt")) == Path("elsewhere/last.ckpt")
