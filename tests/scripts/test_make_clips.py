"""The clips of docs/own_clips.md: the same on every machine, read as anyone's."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

from data.clips import ClipDataset, MiddleView
from data.decode import Ladder, PyAV
from data.manifest import read_manifest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "make_clips.py"


def make(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["make_clips.py", *map(str, arguments)])
    runpy.run_path(str(SCRIPT), run_name="__main__")


def test_clips_are_made_alike_and_read_with_their_captions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two"):
        make(monkeypatch, tmp_path / name, "--videos", 2, "--images", 1)
    manifest = read_manifest(tmp_path / "one", None)
    assert [manifest[index].is_image for index in range(3)] == [True, False, False]
    assert list(manifest.captions())[1:] == ["a red circle moves left", "a green triangle moves right"]
    sets = [
        ClipDataset(read_manifest(tmp_path / name, None), Ladder(decoders=[PyAV()]), MiddleView(), 8, 64, 64, 8.0)
        for name in ("one", "two")
    ]
    for index in range(3):
        first, second = (clips[index]["pixels"] for clips in sets)
        assert (first == second).all() and first.float().std() > 10
        assert bool((first[:, 0] == first[:, 7]).all()) == manifest[index].is_image, "videos move, images do not"


def test_a_folder_that_holds_something_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(SystemExit, match="2"):
        make(monkeypatch, tmp_path)
    assert "is there and not empty; name a new folder" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]
