"""A few of the kills of `kill_runs.py`; `python -m tests.engine.kill_runs count=30` does many."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import commands

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc to see processes in")
def test_runs_that_are_killed_and_interrupted_end_as_if_nothing_was(tmp_path: Path) -> None:
    done = commands.run("tests/engine/kill_runs.py", "count=2", "steps=12", f"folder={tmp_path}", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 SIGKILLs, 2 signals to the group" in done.stdout
