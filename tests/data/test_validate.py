"""The check before a run survives what would stop a run: decoders that hang, crash, or see other frames."""

from __future__ import annotations

import csv
import io
import json
import multiprocessing
import os
import runpy
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image

from data import validate
from data.checks import Checks, Finding
from data.columns import FAULTS, FOUND
from data.decode import Frames, Ladder, PyAV
from data.manifest import chosen, read_manifest
from data.source import Source
from data.validate import Limits, check_clips
from tests.data.videos import media, write_numbered

ROOT = Path(__file__).parents[2]


class Misbehaves(PyAV):
    """PyAV, but files whose name says so hang, crash, eat memory, raise anything, or are read wrongly."""

    name = "misbehaves"

    def read(self, source: Source, indices: Sequence[int]) -> Frames:
        name = Path(source.path).stem
        if name == "hangs":
            time.sleep(600)
        if name == "crashes":
            os._exit(11)
        if name == "raises":
            raise ZeroDivisionError("of a library")
        if name == "eats":
            np.ones(2**33, np.uint8)
        frames = super().read(source, indices)
        return np.roll(frames, 1, axis=0) if name == "shifted" else frames


def check(root: Path, *, timeout: float = 30, jobs: int = 2, **checks: Any) -> dict[str, Finding]:
    ladder = Ladder(decoders=[Misbehaves(), PyAV()])
    manifest = read_manifest(root, root / "list.csv" if (root / "list.csv").exists() else None)
    rows = [(index, manifest[index]) for index in range(len(manifest))]
    findings = dict(check_clips(rows, ladder, Checks(**checks), Limits(timeout, 2.0, jobs)))
    assert len(findings) == len(manifest)
    return {manifest[index].id: finding for index, finding in findings.items()}


def test_a_clip_that_hangs_or_crashes_is_one_line_and_the_others_go_on(tmp_path: Path) -> None:
    for name in ("crashes", "fine", "hangs", "shifted", "raises", "eats"):
        write_numbered(tmp_path / f"{name}.mp4", count=30, fps=10)
    (tmp_path / "text.mp4").write_text("no video")
    found = check(tmp_path, timeout=10, jobs=3)  # the others must answer in that time
    fine = found["fine.mp4"]
    assert (fine.status, fine.reason, fine.decoders) == ("ok", "", "misbehaves pyav")
    assert (fine.frames, fine.fps, fine.duration, fine.height, fine.width) == (30, 10.0, 3.0, 64, 96)
    assert (fine.codec, fine.rotation, len(fine.hash), len(fine.looks)) == ("h264", 0, 64, 64)
    assert {id: finding.status for id, finding in found.items() if id != "fine.mp4"} == {
        "crashes.mp4": "crashes",
        "hangs.mp4": "hangs",
        "shifted.mp4": "decoders_differ",
        "text.mp4": "unreadable",
        "raises.mp4": "unreadable",
        "eats.mp4": "too_much_memory",
    }
    assert found["hangs.mp4"].reason == "no answer within 10 s: its decoder hangs"
    assert found["crashes.mp4"].reason == "its decoder crashed (exit code 11)"
    assert found["raises.mp4"].reason == "ZeroDivisionError: of a library"
    assert "grey levels apart" in found["shifted.mp4"].reason and found["shifted.mp4"].frames == 30


def test_the_part_of_a_file_counts_and_short_ones_are_found(tmp_path: Path) -> None:
    write_numbered(tmp_path / "clip.mp4", count=30, fps=10)
    parts = ["0.5,2.5", "2,2.4", "7,9", ",", "2,1", "-1,2"]
    (tmp_path / "list.csv").write_text("path,caption,start,end\n" + "".join(f"clip.mp4,x,{part}\n" for part in parts))
    found = check(tmp_path, min_seconds=1.0)
    assert found["clip.mp4#0.5-2.5"].ok and found["clip.mp4#0.5-2.5"].duration == pytest.approx(2.0)
    assert found["clip.mp4"].ok and found["clip.mp4"].duration == pytest.approx(3.0)
    faults = {id: (each.status, each.reason) for id, each in found.items() if not each.ok}
    assert faults["clip.mp4#2-2.4"] == ("too_short", "0.4 s are shorter than 1 s")
    assert faults["clip.mp4#7-9"][0] == "no_frames" and "no frames between 7 and 9 s" in faults["clip.mp4#7-9"][1]
    assert faults["clip.mp4#2-1"] == ("no_frames", "start=2 and end=1 name no part of a file")
    assert faults["clip.mp4#-1-2"][0] == "no_frames"


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


def rows_of(out: Path) -> list[dict[str, str]]:
    with out.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_script_reports_the_real_clips(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest, out = media("manifest.csv"), tmp_path / "out.csv"
    assert run_script(monkeypatch, f"manifest={manifest}", f"out={out}") == 1
    said = capsys.readouterr().out
    assert "7 of 9 clips are good" in said and "licence Apache-2.0, source dmlc/decord examples: 1 clips" in said
    rows = rows_of(out)
    assert [row["caption"] for row in rows] == [row["caption"] for row in rows_of(manifest)]
    by_name = {Path(row["path"]).name: row for row in rows}
    assert all((out.parent / row["path"]).is_file() for row in rows), "paths are relative to what is written"
    assert {name for name, row in by_name.items() if row["status"] != "ok"} == {"corrupted.mp4", "truncated.mp4"}
    turned = by_name["rotated_90.mov"]
    assert (turned["height"], turned["width"], turned["rotation"]) == ("568", "320", "-90")
    assert "pyav" in by_name["av1_video.mkv"]["decoders"] and by_name["av1_video.mkv"]["frames"] == "125"
    assert by_name["nasa_13013.mp4"]["fps"] == "29.97" and by_name["h265_video.mp4"]["codec"] == "hevc"
    report = json.loads(out.with_suffix(".report.json").read_text())
    assert report["by_status"] == {"ok": 7, "unreadable": 2} and report["rows"] == 9
    assert sum(row["clips"] for row in report["rights"]) == 7
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.csv", "out.report.json"]
    clips = chosen(read_manifest(None, out), None)
    assert len(clips) == 7 and clips.left_out == {"status unreadable": 2}


def test_the_script_says_what_is_wrong_with_its_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "r.csv"
    (tmp_path / "list.csv").write_text("path,caption,start\nclip.mp4,x,soon\n")
    for wrong, says in (
        ([f"root={tmp_path}/nowhere"], "no such folder"),
        ([f"root={tmp_path}"], "no videos"),
        ([], "no clips: give data.root=FOLDER"),
        ([f"root={tmp_path}", "jobs=0"], "at least 1"),
        ([f"root={tmp_path}", "jobs=many"], "jobs=many must be a whole number"),
        ([f"root={tmp_path}", "cuts=perhaps"], "cuts=perhaps must be true or false"),
        (["--root", str(tmp_path)], "'--root' is not name=value"),
        ([f"manifest={tmp_path}/list.csv"], "list.csv, row 1, column start: 'soon' is no number"),
        (
            [f"root={tmp_path}", "filter=durations > 1"],
            r"filter=durations > 1: no column durations (duration is meant?)",
        ),
        ([f"root={tmp_path}", "filter=open('x')"], "open('x') does not stand in a filter"),
        ([f"root={tmp_path}", f"out={tmp_path}/r.xlsx"], "cannot write .xlsx"),
        ([f"root={tmp_path}", f"out={tmp_path}/no/r.csv"], "no folder"),
        ([f"manifest={tmp_path}/list.csv", f"out={tmp_path}/list.csv"], "is the manifest itself"),
        ([f"root={tmp_path}", "fps=8"], "both num_frames and fps"),
        (["experiment=demo"], "train on no files; add experiment=real_clips"),
    ):
        assert run_script(monkeypatch, f"out={out}", *wrong) == 2
        said = capsys.readouterr().err
        assert said.startswith("error: ") and said.count("\n") == 1 and says in said
        assert [path.name for path in tmp_path.iterdir()] == ["list.csv"], wrong


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
    out = tmp_path / "r.csv"
    shape = ["num_frames=15", "fps=30", "height=64", "width=64", "max_bytes=511"]
    assert run_script(monkeypatch, f"root={tmp_path}", f"out={out}", "jobs=2", *shape) == 1
    told = asked_of(capsys.readouterr().out)
    assert "15 frames at 30 fps" in told[1] and told[1].startswith("bad: short.mp4: too_short: ")
    assert told[0].startswith("bad: broken.png: unreadable: ") and sum(line.startswith("bad") for line in told) == 2
    rows = {row["path"]: row for row in rows_of(out)}
    assert rows["slow.mp4"]["notes"] == "10 of 15 frames at 30 fps are shown again; 33% of each frame is cut off"
    assert rows["still.png"]["notes"] == "enlarged to 64x64; 67% of each frame is cut off"
    assert (rows["still.png"]["frames"], rows["still.png"]["codec"], rows["still.png"]["looks"]) == ("1", "png", "")
    assert "note: 10 of 15 frames at 30 fps are shown again: slow.mp4" in told
    assert "note: 1 clips have no caption" in told
    assert any("1 captions are longer than text.max_bytes=511" in line and "600 bytes" in line for line in told)
    # the same of a run's own config
    run = ["experiment=real_clips", "data/shapes=one", f"data.root={tmp_path}", "data.num_frames=15", "data.fps=30"]
    assert run_script(monkeypatch, *run, f"out={out}", "jobs=2") == 1
    assert asked_of(capsys.readouterr().out) == told


def spoil(whole: bytes, seed: int) -> bytes:
    """A damaged variant of a file: cut off, or with other bytes at some places."""
    rng = np.random.default_rng(seed)
    if seed % 2:
        return whole[: rng.integers(1, len(whole))]
    spoiled = np.frombuffer(whole, np.uint8).copy()
    places = rng.integers(0, len(whole) if seed % 4 else min(2000, len(whole)), rng.integers(1, 40))
    spoiled[places] = rng.integers(0, 256, len(places))
    return spoiled.tobytes()


def odd_files(folder: Path) -> list[str]:
    """Things that are no clips, under the names of clips."""
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("no video")
    (folder / "folder.mp4").mkdir()
    os.mkfifo(folder / "pipe.mp4")
    (folder / "device.mp4").symlink_to("/dev/zero")
    (folder / "loop.mp4").symlink_to("loop.mp4")
    (folder / "secret.mp4").write_bytes(b"x")
    (folder / "secret.mp4").chmod(0)
    return sorted(path.name for path in folder.iterdir()) + ["missing.mp4", "n" * 300 + ".mp4"]


@pytest.mark.slow
def test_spoiled_files_are_each_accounted_for_and_what_is_left_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A tenth of the whole trial, which docs/data.md has the figures of."""
    whole = write_numbered(tmp_path / "fine.mp4", count=24, options={"g": "6", "crf": "30"}).read_bytes()
    names = odd_files(tmp_path) + [f"spoiled-{seed}.mp4" for seed in range(20)]
    for seed in range(20):
        (tmp_path / f"spoiled-{seed}.mp4").write_bytes(spoil(whole, seed))
    (tmp_path / "list.csv").write_text("path,caption\n" + "".join(f"{name},{name}\n" for name in names))
    out = tmp_path / "out.csv"
    assert run_script(monkeypatch, f"manifest={tmp_path}/list.csv", f"out={out}", "jobs=2", "timeout=30") == 1
    capsys.readouterr()
    rows = rows_of(out)
    assert [row["path"] for row in rows] == names
    status = {row["path"]: row["status"] for row in rows}
    assert set(status.values()) <= {"ok", *FAULTS} and all(row["reason"] for row in rows if row["status"] != "ok")
    assert [status[name] for name in ("fine.mp4", "empty.mp4", "text.mp4")] == ["ok", "unreadable", "unreadable"]
    assert {status[f"{name}.mp4"] for name in ("folder", "pipe", "device")} == {"not_a_file"}
    assert {status[name] for name in ("missing.mp4", names[-21])} == {"missing"} and status["loop.mp4"] == "missing"
    clips = chosen(read_manifest(None, out), None)
    assert 1 <= len(clips) == sum(each == "ok" for each in status.values())


def checks_with_a_halt(arguments: list[str]) -> None:
    """The script in a process of its own, which does not come back from `5.mp4`."""
    plain = validate.check_clip

    def slow(*asked: Any) -> Finding:
        time.sleep(90 if asked[0].path.stem == "5" else 0)
        return plain(*asked)

    validate.check_clip = slow  # type: ignore[assignment]
    sys.stderr = sys.stdout = io.StringIO()
    sys.argv = ["validate_data.py", *arguments]
    runpy.run_path(str(ROOT / "scripts" / "validate_data.py"), run_name="__main__")


def is_running(process: str) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
def test_a_check_that_was_killed_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is written before the end; each clip is checked once, and the result is that of an undisturbed check."""
    for index in range(8):
        write_numbered(tmp_path / f"{index}.mp4", count=8 + index, height=32, width=32)
    (tmp_path / "4.mp4").write_text("no video")
    out, whole = tmp_path / "out.csv", tmp_path / "whole.csv"
    progress = tmp_path / "out.csv.progress"
    arguments = [f"root={tmp_path}", f"out={out}", "jobs=1"]
    process = multiprocessing.get_context("fork").Process(target=checks_with_a_halt, args=(arguments,))
    process.start()
    deadline = time.monotonic() + 60
    while not (progress.exists() and progress.read_text().count("\n") == 6):  # rows 0 to 4 behind the head
        assert time.monotonic() < deadline and process.is_alive()
        time.sleep(0.02)
    tasks = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    time.sleep(0.5)  # until the process that checked row 4 is gone, and that of row 5 there
    children = tasks.read_text().split() if tasks.exists() else []
    process.kill()
    process.join()
    while any(is_running(child) for child in children):  # the system ends what it has begun (Linux)
        assert time.monotonic() < deadline, "the process of a check has outlived it"
        time.sleep(0.02)
    assert not out.exists()
    before = progress.read_text()
    progress.write_text(before + '{"row": 7, "stat')  # as if it had been killed while it wrote
    with pytest.raises(SystemExit), monkeypatch.context() as changed:  # other settings
        changed.setattr(sys, "argv", ["", f"root={tmp_path}", f"out={out}", "every_frame=true"])
        runpy.run_path(str(ROOT / "scripts" / "validate_data.py"), run_name="__main__")
    assert progress.read_text() == before
    added: list[int] = []
    monkeypatch.setattr("data.journal.Journal.add", _noting(added))
    assert run_script(monkeypatch, f"root={tmp_path}", f"out={out}", "jobs=2") == 1
    assert sorted(added) == [5, 6, 7] and not progress.exists()
    assert run_script(monkeypatch, f"root={tmp_path}", f"out={whole}", "jobs=2") == 1
    assert out.read_text() == whole.read_text()


def _noting(added: list[int]) -> Any:
    from data.journal import Journal

    plain = Journal.add

    def add(self: Any, number: int, finding: Finding) -> None:
        added.append(number)
        plain(self, number, finding)

    return add


@pytest.mark.parametrize("to", [".csv", ".jsonl", ".parquet"])
def test_what_is_written_is_the_list_with_findings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str) -> None:
    """From each format into each: the same clips, captions and own columns, and what was found beside them."""
    (tmp_path / "clips").mkdir()
    write_numbered(tmp_path / "clips" / "a.mp4", count=12, height=32, width=32)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8)).save(tmp_path / "clips" / "b.png")
    rows = [
        {"path": "a.mp4", "captions": ["one, two", "three"], "licence": "MIT", "mine": 7, "end": 1.0, "frames": 99},
        {"path": "b.png", "captions": [], "licence": None, "mine": 8, "end": None, "frames": None},
        {"path": "a.mp4", "captions": ["once more"], "licence": "MIT", "mine": 9, "end": 1.0, "frames": 99},
    ]
    listed = tmp_path / "clips" / "list.jsonl"
    listed.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "out").mkdir()
    first, second = tmp_path / "out" / f"first{to}", tmp_path / "clips" / "second.csv"
    for manifest, out in ((listed, first), (first, second)):
        assert run_script(monkeypatch, f"manifest={manifest}", f"out={out}", "jobs=2") == 0
        clips = read_manifest(None, out, ["mine"], also=["codec", "frames"])
        assert [clips[index].path.resolve() for index in range(3)] == [
            tmp_path / "clips" / row["path"]
            for row in rows  # type: ignore[operator]
        ]
        assert [clips[index].captions for index in range(3)] == [("one, two", "three"), (), ("once more",)]
        assert [clips[index].columns["mine"] for index in range(3)] == [7, 8, 9] and clips[1].end == float("inf")
        table = clips.table
        assert table.column("licence").to_pylist() == ["MIT", "", "MIT"]
        assert table.column("frames").to_pylist() == [12, 1, 12], "found anew"
        assert table.column("codec").to_pylist() == ["h264", "png", "h264"]
        assert table.column("status").to_pylist() == ["ok"] * 3 and table.column("duration").to_pylist() == [
            1.0,
            None,
            1.0,
        ]
    names = pyarrow.parquet.read_schema(first).names if to == ".parquet" else None
    assert names is None or names[:3] == ["path", "captions", "licence"] and set(FOUND) <= set(names)


def test_licences_doubles_and_filters_are_faults_of_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = write_numbered(tmp_path / "a.mp4", count=30, height=64, width=96)
    (tmp_path / "b.mp4").write_bytes(plain.read_bytes())
    write_numbered(tmp_path / "c.mp4", count=30, height=128, width=192, codec="mpeg4", options={"b": "3000000"})
    write_numbered(tmp_path / "d.mp4", count=8, fps=30)
    rows = ["a.mp4,MIT,", "b.mp4,mit,", "c.mp4,MIT,", "d.mp4,MIT,", "a.mp4,MIT,1", "b.mp4,,"]
    (tmp_path / "list.csv").write_text("path,license,start,caption\n" + "".join(f"{row},x\n" for row in rows))
    out = tmp_path / "out.csv"
    asked = ["duplicates=true", "licences=MIT, CC0-1.0", "filter=duration > 2 or start is not None"]
    assert run_script(monkeypatch, f"manifest={tmp_path}/list.csv", f"out={out}", "jobs=2", *asked) == 1
    said = capsys.readouterr().out
    found = rows_of(out)
    assert [row["status"] for row in found] == ["ok", "duplicate", "duplicate", "filtered", "ok", "licence"]
    assert [row["duplicate_of"] for row in found] == ["", "a.mp4", "a.mp4", "", "", ""]
    assert found[5]["reason"] == "licence unknown is not allowed" and "not duration > 2 or start" in found[3]["reason"]
    assert "2 duplicate (looks as another clip does, or is the same file)" in said and "2 of 6 clips are good" in said
    assert "licence MIT, source unknown: 2 clips" in said


def test_a_finding_says_all_that_the_list_holds() -> None:
    assert set(vars(Finding())) == set(FOUND) - {"duplicate_of"}
    assert replace(Finding(), status="hangs").ok is False
