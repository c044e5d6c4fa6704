"""Folders in which one process works at a time."""

from __future__ import annotations

import errno
import logging
import time
from pathlib import Path
from typing import Any

import pytest

from dit.locks import LOCK, is_locked, lock

HELD = "being trained by another process; wait for it"


def test_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    mine = tmp_path / "mine"
    assert not is_locked(mine)
    with lock(mine, HELD):
        again = lock(mine, HELD)
        with pytest.raises(ValueError, match="mine is being trained by another process; wait for it"), again:
            pass
        assert is_locked(mine)
    assert not is_locked(mine)
    with lock(mine, HELD):
        pass


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unknown(*_: Any) -> None:
        raise OSError(number, "not here")

    monkeypatch.setattr("fcntl.flock", unknown)
    with caplog.at_level(logging.WARNING), lock(tmp_path / "mine", HELD):
        assert not is_locked(tmp_path / "mine")
    assert "mine cannot be locked here (not here): never let two commands work in it at a time" in caplog.text


def test_an_error_of_the_disk_is_none_of_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr("fcntl.flock", broken)
    with pytest.raises(OSError, match="broken"), lock(tmp_path / "mine", HELD):
        pass


def test_a_folder_in_the_place_of_the_lock(tmp_path: Path) -> None:
    (tmp_path / "other/.lock").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"other/.lock is a folder"), lock(tmp_path / "other", HELD):
        pass


@pytest.mark.parametrize("goal", ["mine.txt", "gone.txt", "."])
def test_a_link_in_the_place_of_the_lock(tmp_path: Path, goal: str) -> None:
    """It may be a stranger's: what it leads to stays as it is, and nothing is made there."""
    (tmp_path / "mine.txt").write_text("precious")
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / LOCK).symlink_to(tmp_path / goal)
    assert not is_locked(tmp_path / "theirs")
    with pytest.raises(ValueError, match=r"theirs/.lock is a link, .*; remove it$"), lock(tmp_path / "theirs", HELD):
        pass
    assert (tmp_path / "mine.txt").read_text() == "precious"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["mine.txt", "theirs"]


def test_looking_and_locking_change_no_file(tmp_path: Path) -> None:
    assert not is_locked(tmp_path)
    assert not (tmp_path / LOCK).exists()
    (tmp_path / LOCK).write_text("as it was")
    assert not is_locked(tmp_path)
    with lock(tmp_path, HELD):
        assert is_locked(tmp_path)
    assert (tmp_path / LOCK).read_text() == "as it was"
