"""The check before a run survives what would stop a run: decoders that hang, crash, or see other frames."""

import csv
import os
import runpy
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.decode import Frames, Ladder, Pick, PyAV
from data.manifest import read_manifest
from data.validate import Finding, check_clips
from tests.data.videos import media, write_numbered

ROOT = Path(__file__).parents[2]


class Misbehaves(PyAV):
    """PyAV, but files whose name says so hang, crash or are read wrongly."""

    name = "misbehaves"

    def read(self, path: str | os.PathLike[str], pick: Pick) -> Frames:
        name = Path(path).stem
        if name == "hangs":
            time.sleep(600)
        if name == "crashes":
            os._exit(11)
        frames = super().read(path, pick)
        return np.roll(frames, 1, axis=0) if name == "shifted" else frames


def check(root: Path, *, timeout: float = 30, **settings: object) -> dict[str, Finding]:
    arguments: dict[str, object] = {"min_seconds": 0.0, "every_frame": False, "jobs": 2, **settings}
    ladder = Ladder(decoders=[Misbehaves(), PyAV()])
    manifest = read_manifest(root, root / "list.csv" if (root / "list.csv").exists() else None)
    findings = list(check_clips(manifest, ladder, timeout=timeout, **arguments))  # type: ignore[arg-type]
    assert len(findings) == len(manifest)
    return {finding.id: finding for finding in findings}


def test_a_clip_that_hangs_or_crashes_is_one_line_and_the_others_go_on(tmp_path: Path) -> None:
    for name in ("crashes", "fine", "hangs", "shifted"):
        write_numbered(tmp_path / f"{name}.mp4", count=30, fps=10)
    (tmp_path / "text.mp4").write_text("no video")
    found = check(tmp_path, timeout=10, jobs=3)  # the others must answer in that time
    assert found["fine.mp4"] == Finding("fine.mp4", True, "", "misbehaves pyav", 30, 10.0, 3.0, 64, 96)
    assert {id: finding.ok for id, finding in found.items() if id != "fine.mp4"} == dict.fromkeys(
        ["crashes.mp4", "hangs.mp4", "shifted.mp4", "text.mp4"], False
    )
    assert found["hangs.mp4"].why == "no answer within 10 s: its decoder hangs"
    assert found["crashes.mp4"].why == "its decoder crashed (exit code 11)"
    assert "grey levels apart" in found["shifted.mp4"].why


def test_the_part_of_a_file_counts_and_short_ones_are_found(tmp_path: Path) -> None:
    write_numbered(tmp_path / "clip.mp4", count=30, fps=10)
    (tmp_path / "list.csv").write_text(
        "path,caption,start,end\nclip.mp4,x,0.5,2.5\nclip.mp4,x,2,2.4\nclip.mp4,x,7,9\nclip.mp4,x,,\n"
    )
    found = check(tmp_path, min_seconds=1.0)
    assert found["clip.mp4#0.5-2.5"].ok and found["clip.mp4#0.5-2.5"].seconds == pytest.approx(2.0)
    assert found["clip.mp4"].ok and found["clip.mp4"].seconds == pytest.approx(3.0)
    assert found["clip.mp4#2-2.4"].why == "0.4 s are shorter than 1 s"
    assert "no frames between 7 and 9 s" in found["clip.mp4#7-9"].why


def test_every_frame_finds_damage_between_the_probes(tmp_path: Path) -> None:
    path = write_numbered(tmp_path / "clip.mp4", count=120, options={"g": "4", "bf": "0", "crf": "10"})
    whole = bytearray(path.read_bytes())
    found = {"probes": True, "every": True}
    for place in range(len(whole) // 4, len(whole) // 2, 400):
        spoiled = whole.copy()
        spoiled[place : place + 24] = b"\xff" * 24
        path.write_bytes(spoiled)
        found = {"probes": check(tmp_path)["clip.mp4"].ok, "every": check(tmp_path, every_frame=True)["clip.mp4"].ok}
        assert found["probes"] or not found["every"], "what few frames show, all frames show"
        if found == {"probes": True, "every": False}:
            return
    pytest.fail(f"no place tried was between the probes: {found}")


def run_script(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> object:
    """The exit code of the script, run in this process."""
    monkeypatch.setattr(sys, "argv", ["validate_data.py", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "scripts" / "validate_data.py"), run_name="__main__")
    return ended.value.code


def test_the_script_reports_the_real_clips(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, report = media("manifest.csv").parent, tmp_path / "r.csv"
    assert run_script(monkeypatch, "--root", folder, "--manifest", folder / "manifest.csv", "--report", report) == 1
    assert "7 of 9 clips are good" in capsys.readouterr().out
    rows = {row["id"]: row for row in csv.DictReader(report.open(newline=""))}
    assert sorted(id for id, row in rows.items() if row["ok"] != "True") == ["corrupted.mp4", "truncated.mp4"]
    assert (rows["rotated_90.mov"]["height"], rows["rotated_90.mov"]["width"]) == ("568", "320")
    assert "pyav" in rows["av1_video.mkv"]["decoder"] and rows["av1_video.mkv"]["frames"] == "125"
    assert rows["nasa_13013.mp4"]["fps"] == "29.97"


def test_the_script_says_what_is_wrong_with_its_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "r.csv"
    for wrong in (["--root", tmp_path / "nowhere"], ["--root", tmp_path], ["--root", tmp_path, "--jobs", "0"]):
        assert run_script(monkeypatch, *wrong, "--report", report) == 2
        said = capsys.readouterr().err
        assert said.startswith("error: ") and said.count("\n") == 1
        assert not report.exists()
    write_numbered(tmp_path / "clip.mp4", count=8)
    assert run_script(monkeypatch, "--root", tmp_path, "--report", report) == 0


def asked_of(script_out: str) -> list[str]:
    return [line for line in script_out.splitlines() if line.startswith(("note: ", "bad: "))]


def test_the_script_knows_what_the_run_will_ask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """At 30 frames a second from 8, most of 15 frames are shown again; a clip of 0.4 seconds is too short for them."""
    write_numbered(tmp_path / "slow.mp4", count=40, fps=8)
    write_numbered(tmp_path / "short.mp4", count=12, fps=30)
    Image.fromarray(np.zeros((20, 60, 3), np.uint8)).save(tmp_path / "still.png")
    (tmp_path / "broken.png").write_text("no picture")
    (tmp_path / "slow.txt").write_text("x" * 600)
    report = tmp_path / "r.csv"
    shape = ["--num-frames", "15", "--fps", "30", "--height", "64", "--width", "64", "--max-bytes", "511"]
    assert run_script(monkeypatch, "--root", tmp_path, "--report", report, "--jobs", "2", *shape) == 1
    told = asked_of(capsys.readouterr().out)
    assert "15 frames at 30 fps" in told[1] and told[1].startswith("bad: short.mp4: ")
    assert told[0].startswith("bad: broken.png: ") and len([line for line in told if line.startswith("bad")]) == 2
    rows = {row["id"]: row for row in csv.DictReader(report.open(newline=""))}
    assert rows["slow.mp4"]["notes"] == "10 of 15 frames at 30 fps are shown again; 33% of each frame is cut off"
    assert rows["still.png"]["notes"] == "enlarged to 64x64; 67% of each frame is cut off"
    assert "note: 10 of 15 frames at 30 fps are shown again: slow.mp4" in told
    assert "note: 3 clips have no caption" in told
    assert any("1 captions are longer than text.max_bytes=511" in line and "600 bytes" in line for line in told)
    # the same of a run's own config
    run = ["experiment=real_clips", f"data.root={tmp_path}", "data.num_frames=15", "data.fps=30"]
    assert run_script(monkeypatch, *run, "--report", report, "--jobs", "2") == 1
    assert asked_of(capsys.readouterr().out) == told
    assert run_script(monkeypatch, "experiment=demo", "--report", report) == 2
    assert "train on no files; add experiment=real_clips" in capsys.readouterr().err
    assert run_script(monkeypatch, "--root", tmp_path, "--fps", "8", "--report", report) == 2
    assert "both --num-frames and --fps" in capsys.readouterr().err
