"""Folders in which one process works at a time."""

from __future__ import annotations

import errno
import logging
import time
from pathlib import Path
from typing import Any

import pytest

from dit.locks import is_locked, lock

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
