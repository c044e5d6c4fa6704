"""What bench_clips.py prints, on two tiny clips; its figures are in docs/benchmarks.md."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from data.decode import Decord
from scripts import bench_clips
from tests.data.videos import write_numbered


def clips(root: Path) -> Path:
    for name in ("a.mp4", "b.mkv"):
        write_numbered(root / name, count=40, width=128)
    (root / "text.mp4").write_text("no video")
    return root


SMALL = ["num_frames=4", "height=32", "width=32", "repeats=2", "warmup=1"]


@pytest.mark.skipif(Decord().missing() is not None, reason="decord is not installed")
def test_speed_is_held_against_plain_decord(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench_clips.main([f"root={clips(tmp_path)}", *SMALL, "reads=0"])
    said = capsys.readouterr().out
    assert "left out: text.mp4: Invalid data" in said and "2 videos, an excerpt of 4 frames of each a turn" in said
    rows = [line.split(" | ") for line in said.splitlines() if line.startswith("| ")]
    assert [row[0] for row in rows[2:]] == ["| plain decord", "| looked at, decoded", "| as training reads it"]
    assert rows[2][3:] == ["1.000 [1.000, 1.000]", "1.000 [1.000, 1.000] |"]
    assert "memory of a worker" not in said


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads memory from /proc")
def test_a_worker_is_weighed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench_clips.main([f"root={clips(tmp_path)}", *SMALL, "decoder=pyav", "reads=20", "settle=5"])
    weighed = re.search(r"memory of a worker: ([\d.]+) MiB after 5 reads, ([\d.]+) MiB", capsys.readouterr().out)
    assert weighed is not None and all(float(each) > 10 for each in weighed.groups())


def test_wrong_settings_are_one_line(tmp_path: Path) -> None:
    for wrong, says in ((["decoder=ffmpeg"], "there are auto, decord, pyav, torchcodec"), ([], "root=FOLDER")):
        with pytest.raises(ValueError, match=says):
            bench_clips.main(wrong)
