"""Jobs of a sweep (`-m`): one that fails ends no other."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from dit.codec.pixel import PixelCodec
from dit.entry import command, main


def test_jobs_that_fail_end_no_other(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A mistake of the user's and a bug: the others run, the failed ones are listed, the exit code is 2."""
    ran = []

    def task(config: dict[str, Any]) -> None:
        ran.append(config["name"])
        if config["seed"] == 1:
            PixelCodec(scale=-1.0)
        if config["seed"] == 2:
            raise RuntimeError("a bug")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train.py", "-m", "experiment=demo", "name=s", "seed=1,2,3"])
    with pytest.raises(SystemExit) as end:
        main("train")(task)()
    assert end.value.code == 2 and ran == [f"s-seed.{seed}" for seed in (1, 2, 3)]
    said = capsys.readouterr().err.splitlines()
    assert said[-3:] == [
        "error: 2 jobs of the sweep failed:",
        "  s-seed.1: scale=-1.0 must be above 0; 1.0 leaves pixels as they are",
        "  s-seed.2: RuntimeError, see its traceback above",
    ]
    assert "RuntimeError: a bug" in said


def test_a_job_in_another_process_needs_no_name_that_annotations_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """A launcher pickles the task by its code: names that only its annotations use, as texts, stay behind."""
    monkeypatch.setattr(sys, "argv", ["evaluate.py"])
    known: dict[str, Any] = {}
    exec(
        "from __future__ import annotations\nfrom dit.engine.config import Config\ndef task(config: Config): ...", known
    )
    made = command._Command("train", known["task"])
    wanted = known.pop("Config")
    assert made.wanted is wanted
    monkeypatch.setattr(command, "checked", lambda config, kind: {"wanted": kind})
    seen: list[dict[str, Any]] = []
    made.task = seen.append
    made.one(OmegaConf.create({}))
    assert seen == [{"wanted": wanted}]
