"""What this machine has and is slow at, and which settings are warned of for that."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from dit import machine
from dit.engine.training import Training
from dit.sampling.runtime import warn_of_precision


def test_memory_is_that_of_the_container(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (limit := tmp_path / "memory.max").write_text("4096\n")
    monkeypatch.setattr(machine, "CGROUP", limit)
    assert machine.memory() == 4096
    limit.write_text("max\n")
    assert machine.memory() > 4096


def test_slowdown_is_of_bfloat16_to_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_seconds", {torch.bfloat16: 6.0, torch.float32: 0.5}.__getitem__)
    assert machine.bfloat16_slowdown() == 12.0
    monkeypatch.undo()
    assert machine.bfloat16_slowdown() > 0


def training(precision: str, accelerator: str = "cpu") -> Training:
    return Training(1, accelerator, 1, 1, None, precision, "highest", 1, None, None)  # type: ignore[arg-type]


def test_a_precision_that_is_slow_here_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(machine, "bfloat16_slowdown", lambda: 67.3)
    said = "on this CPU a product takes 67 times as long in bfloat16 as in float32; use "
    assert training("bf16-mixed").slow_precision() == f"trainer.precision=bf16-mixed: {said}trainer.precision=32-true"
    assert training("32-true").slow_precision() is None
    assert machine.bfloat16_warning("x", "y", "cuda") is None
    with caplog.at_level(logging.WARNING):
        warn_of_precision(torch.bfloat16, torch.device("cpu"))
        assert caplog.messages == [f"precision=bfloat16: {said}precision=null"]
        warn_of_precision(None, torch.device("cpu"))
        monkeypatch.setattr(machine, "bfloat16_slowdown", lambda: 0.5)
        warn_of_precision(torch.bfloat16, torch.device("cpu"))
        assert training("bf16-mixed").slow_precision() is None
    assert len(caplog.messages) == 1
