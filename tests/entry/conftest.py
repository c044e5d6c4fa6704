"""Commands as a shell would start them, in this process: much cheaper than a process each."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dit.entry import ROOT


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """Runs a script of ours in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(script: str, *arguments: str) -> None:
        spec = importlib.util.spec_from_file_location("command_under_test", ROOT / script)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, "command_under_test", module)
        spec.loader.exec_module(module)
        monkeypatch.setattr(sys, "argv", [script, *arguments])
        module.main()

    return run
