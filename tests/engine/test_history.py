"""What a run directory says of how its run came about."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from dit.engine import history, run
from dit.engine.finite import NonFinite
from tests.engine.runs import config

TINY = (
    "net.depth=1", "net.width=32", "net.heads=2", "net.text_width=16", "text.width=16", "text.depth=1", "text.heads=2",
    "data.batch_size=2", "data.train.num_clips=7", "data.val.num_clips=3", "preview=none", "logger=none",
    "trainer.accelerator=cpu", "callbacks.validation.every=null", "callbacks.metrics.every=1",
    "callbacks.progress.seconds=1000", "callbacks.checkpoints.every=2", "lr_schedule=constant",
)  # fmt: skip


def events(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / history.HISTORY).read_text().splitlines()]


@pytest.mark.timeout(900)
def test_starts_ends_changes_and_a_way_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Two steps; a rate at which it diverges; and what that says brings it to an end."""
    caplog.set_level("INFO")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["train.py", "name=mine", "optim.lr=1e30"])
    mine = tmp_path / "runs/mine"
    run.train(config(*TINY, "trainer.max_steps=2"))
    changed = ("trainer.max_steps=6", "optim.lr=1.0e+30", "resume_changes=[optim]", "callbacks.checkpoints.every=50")
    with pytest.raises(NonFinite) as caught:
        run.train(config(*TINY, *changed))
    assert str(caught.value).endswith(
        "The last checkpoint, of step 2, is whole; to go on from it with half the rate:"
        " python train.py name=mine optim.lr=5e+29 'resume_changes=[optim]'"
    )
    run.train(config(*TINY, "trainer.max_steps=6", "optim.lr=1.0e-5", "resume_changes=[optim]"))
    found = events(mine)
    assert [event["event"] for event in found] == ["start", "finished", "start", "failed", "start", "finished"]
    assert [event["step"] for event in found[::2]] == [0, 2, 2] and found[1]["step"] == 2 and found[5]["step"] == 6
    assert found[2]["changes"] == ["optim.lr was 0.0001, now 1e+30"]
    assert "not finite" in str(found[3]["why"])
    first = found[0]
    assert first["command"] == "python train.py name=mine optim.lr=1e30"
    assert first["packages"]["torch"] and first["python"] and first["device"] and first["ranks"] == 1  # type: ignore[index]
    assert first["commit"] is None or len(str(first["commit"])) == 40
    assert (first["commit"] is None) == (first["changed_files"] is None)
    said = (mine / history.LOG).read_text()
    assert "step 2/2" in said and "finished: runs/mine after 6 steps" in said and "NonFinite: " in said


def test_what_cannot_be_written_ends_nothing(tmp_path: Path) -> None:
    (tmp_path / history.HISTORY).mkdir()
    (tmp_path / history.LOG).mkdir()
    handlers = list(logging.getLogger().handlers)
    with history.recorded(tmp_path, {}, lambda: 3):
        logging.getLogger("dit.engine").warning("a line")
    assert logging.getLogger().handlers == handlers
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(SystemExit), history.recorded(other, {}, lambda: 3):
        raise SystemExit(143)
    assert events(other)[-1] | {"time": 0} == {"time": 0, "event": "stopped", "exit_code": 143, "step": 3}
