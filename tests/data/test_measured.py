"""Sizes that no list says, read from the files."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from PIL import Image

from data.decode import Ladder, PyAV
from data.extents import extents
from data.manifest import read_manifest
from data.measured import measured
from tests.data.videos import media, write_numbered

LADDER = Ladder(decoders=[PyAV()])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_numbered(tmp_path / "a.mp4", count=20, fps=10, height=48, width=80)
    Image.new("RGB", (60, 40)).save(tmp_path / "b.png")
    (tmp_path / "c.mp4").write_text("no video")
    return tmp_path


def test_a_folder_of_few_clips_knows_their_sizes(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    clips = measured(read_manifest(folder, None), LADDER)
    found = extents(clips, fps=5.0)
    assert found.heights.tolist() == [48, 40, -1] and found.widths.tolist() == [80, 60, -1]
    assert found.frames.tolist()[0] == 10 and found.images.tolist() == [False, True, False]
    assert clips.stated.equals(read_manifest(folder, None).stated), "the clips are no others for it"
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1 and warnings[0].startswith("c.mp4: ")


def test_what_a_list_says_is_believed_and_the_rest_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = ["a.mp4,x,0,0.5,,,", "a.mp4,y,1,,,,", "a.mp4,z,,,500,700,9"]
    (folder / "list.csv").write_text("\n".join(["path,caption,start,end,height,width,duration", *rows]))
    clips = read_manifest(None, folder / "list.csv")
    found = extents(measured(clips, LADDER), fps=10.0)
    assert found.heights.tolist() == [48, 48, 500] and found.widths.tolist() == [80, 80, 700]
    assert found.frames.tolist() == [5, 10, 90]
    monkeypatch.setattr("data.measured.MOST", 1)
    assert measured(clips, LADDER) is clips, "of many a check writes them down once"


def test_a_rotated_clip_is_measured_upright() -> None:
    file = media("rotated_90.mov")
    clips = read_manifest(file.parent, file.parent / "manifest.csv")
    names = clips.table.column("path").to_pylist()
    found = extents(measured(clips, LADDER), fps=8.0)
    at = names.index("rotated_90.mov")
    assert found.heights[at] > found.widths[at] > 0
    assert found.frames[names.index("nasa_13013.mp4")] == 104 and found.heights[names.index("truncated.mp4")] == -1
