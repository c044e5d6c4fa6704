"""metrics.csv over resumes and kills; other writers, and writers that fail."""

from __future__ import annotations

import csv
import errno
import io
import logging
import math
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from dit.engine.details import Details
from dit.engine.writers import CSV, TensorBoard, Wandb, Writers
from dit.media.video import write_video
from dit.runfiles import DETAILS
from tests.engine import small


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_floats_read_back_bit_for_bit_and_columns_grow(tmp_path: Path) -> None:
    writer = CSV()
    writer.start(tmp_path, {}, 0)
    writer.metrics(1, {"train/loss": 0.1 + 0.2})
    writer.flush()
    writer.metrics(2, {"train/loss": 1 / 3})
    writer.metrics(2, {"val/loss": math.pi})  # a new column: the table is written anew
    writer.flush()
    writer.metrics(2, {"val/late": 1.0})  # even behind a flush it joins its row
    writer.metrics(3, {"train/loss": math.nan})
    writer.close()
    table = rows(tmp_path)
    assert [row["step"] for row in table] == ["1", "2", "3"]
    assert float(table[0]["train/loss"]) == 0.1 + 0.2 and table[0]["val/loss"] == ""
    assert float(table[1]["val/loss"]) == math.pi and table[1]["val/late"] == "1.0"
    assert table[2]["train/loss"] == "nan"


def test_resuming_repeats_no_step(tmp_path: Path) -> None:
    writer = CSV()
    writer.start(tmp_path, {}, 0)
    for step in range(1, 6):
        writer.metrics(step, {"loss": step / 3})
    writer.close()
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("6")  # a kill cut this row off
    resumed = CSV()
    resumed.start(tmp_path, {}, 3)
    assert [row["step"] for row in rows(tmp_path)] == ["1", "2", "3"]
    for step in range(4, 7):
        resumed.metrics(step, {"loss": step / 3})
    resumed.close()
    assert [(row["step"], float(row["loss"])) for row in rows(tmp_path)] == [(str(s), s / 3) for s in range(1, 7)]


def test_what_a_kill_left_half_written_goes(tmp_path: Path) -> None:
    left, others = tmp_path / ".metrics.csv.4711.part", tmp_path / ".metrics.damaged.csv.4711.part"
    for file in (left, others):
        file.write_text("step,lo")
    CSV().start(tmp_path, {}, 0)
    assert not left.exists() and others.exists()


class Broken:
    def __init__(self, when: str) -> None:
        self.when = when
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any) -> None:
            self.calls += 1
            if name == self.when:
                raise ConnectionError("no network")

        return call


@pytest.mark.parametrize("when", ["start", "metrics", "video", "flush", "close"])
def test_a_writer_that_fails_is_dropped_and_training_goes_on(
    tmp_path: Path, when: str, caplog: pytest.LogCaptureFixture
) -> None:
    broken = Broken(when)
    writers = Writers([broken, CSV()])
    with caplog.at_level(logging.WARNING):
        writers.start(tmp_path, {}, 0)
        for step in (1, 2):
            writers.metrics(step, {"loss": step})
            writers.video(step, "samples/0", tmp_path / "a.mp4", "a")
            writers.flush()
        writers.close()
    assert [row["loss"] for row in rows(tmp_path)] == ["1.0", "2.0"]
    assert sum("no network" in record.message for record in caplog.records) == 1


def test_nothing_happens_before_start(tmp_path: Path) -> None:
    broken = Broken("metrics")
    writers = Writers([broken])
    writers.metrics(1, {"loss": 1.0})
    writers.close()
    assert broken.calls == 0


def test_tensorboard(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for first, step in ((0, 0), (2, 2)):  # resumed at step 2: what was written behind it is purged
        writer = TensorBoard()
        writer.start(tmp_path, {}, step)
        for s in range(first + 1, first + 4):
            writer.metrics(s, {"loss": s + 0.5 * first})
        clip = torch.zeros(3, 5, 16, 24, dtype=torch.uint8)
        clip[0] = 50 * torch.arange(5, dtype=torch.uint8)[:, None, None] + first
        write_video(tmp_path / "x.mp4", clip, 8, {}, 20)
        writer.video(first + 1, "samples/0", tmp_path / "x.mp4", "a red circle")
        writer.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(1, 1), (2, 2), (3, 4), (4, 5), (5, 6)]
    films = events.Images("samples/0")  # under the name that wandb has, and they play
    assert [(each.step, each.width, each.height) for each in films] == [(1, 320, 213), (3, 320, 213)]
    with Image.open(io.BytesIO(films[0].encoded_image_string)) as film:
        assert film.format == "GIF" and film.n_frames == 5 and film.info["loop"] == 0
        reds, times = [], []
        for place in range(5):
            film.seek(place)
            reds.append(film.convert("RGB").getpixel((160, 100))[0])
            times.append(film.info["duration"])
    assert reds == pytest.approx([0, 50, 100, 150, 200], abs=8)
    assert sum(times) == pytest.approx(5 / 8 * 1000, abs=10)
    assert "samples/0/text_summary" in events.Tags()["tensors"]


@pytest.mark.slow
def test_wandb_offline_keeps_its_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    ids = []
    for step in (0, 2):
        writer = Wandb(project="test", mode="offline", entity=None, tags=["t"])
        writer.start(tmp_path, {"net": {"depth": 2}}, step)
        writer.metrics(step + 1, {"loss": 1.0})
        write_video(tmp_path / "x.mp4", torch.full((3, 4, 16, 16), 99, dtype=torch.uint8), 8, {})
        writer.video(step + 1, "samples/0", tmp_path / "x.mp4", "a red circle")
        kept = writer.run.summary["samples/0"]
        assert kept["_type"] == "video-file" and kept["caption"] == "a red circle"
        ids.append(writer.run.id)
        writer.close()
    assert ids[0] == ids[1] == (tmp_path / "wandb_id").read_text().strip()
    reporting = [thread.name for thread in threading.enumerate() if thread.name.startswith("Otel")]
    assert not reporting, "wandb would ask the network, where offline was said"
    assert len(list((tmp_path / "wandb").glob(f"offline-run-*-{ids[0]}"))) >= 1
    with pytest.raises(ValueError, match="logger.wandb.mode=on: wandb knows offline, online and disabled"):
        Wandb(project="test", mode="on", entity=None, tags=[])


class FullDisk:
    """No room for the tables while `full`: half of what is new arrives."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full = False
        for kind in (CSV, Details):
            self.fill(monkeypatch, kind)

    def fill(self, monkeypatch: pytest.MonkeyPatch, kind: Any) -> None:
        write = kind._write

        def _write(table: Any) -> None:
            if not self.full or (isinstance(table, Details) and not table.unwritten()):
                return write(table)
            with table.path.open("a") as file:
                file.write("7,0.12")
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(kind, "_write", _write)


def test_a_moment_of_a_full_disk_costs_no_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    disk, writers = FullDisk(monkeypatch), Writers([CSV()])
    writers.start(tmp_path, {}, 0)
    with caplog.at_level(logging.WARNING):
        for step in range(1, 3001):
            disk.full = 1000 < step < 2000
            writers.metrics(step, {"loss": step / 3})
        writers.close()
    assert [(row["step"], float(row["loss"])) for row in rows(tmp_path)] == [(str(s), s / 3) for s in range(1, 3001)]
    assert [record.message.partition("metrics.csv ")[2] for record in caplog.records] == [
        "cannot be written: No space left on device; its rows are kept until it can",
        "is written again, nothing is missing",
    ]


def test_what_there_is_no_room_for_goes_with_the_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk takes the checkpoint, not the tables, and then the run is killed. What was validated at step 3 is in the
    checkpoint of step 6 alone; the validation of step 6 is made again."""
    straight, run = tmp_path / "straight", tmp_path / "run"
    small.train(small.model(max_steps=9), straight, small.video_data())
    disk = FullDisk(monkeypatch)
    disk.full = True
    small.train(small.model(max_steps=6), run, small.video_data())
    for table, name in (("metrics.csv", "train/loss"), (DETAILS, "val/")):
        content = (run / table).read_text()
        assert name not in content and "7,0.12" in content
    disk.full = False
    small.train(small.model(max_steps=9, seed=1), run, small.video_data())
    assert small.table(run) == small.table(straight)
    assert (run / DETAILS).read_text() == (straight / DETAILS).read_text()
    assert {line.split(",")[0] for line in (run / DETAILS).read_text().splitlines()[1:]} == {"3", "6", "9"}


@pytest.mark.parametrize(
    ("damage", "kept"),
    [
        (lambda text: text.replace(b"\r\n3,", b"\r\n\x00\xff\xfe\x803,"), "1 2 4 5"),
        (lambda text: text.replace(b"\r\n2,", b'\r\n"2,'), "1 3 4 5"),  # a quote would take all that follows with it
        (lambda text: text.replace(b"\r\n", b"\n"), "1 2 3 4 5"),
        (lambda text: text.replace(b"\r\n3,", b"\r\n3,x"), "1 2 4 5"),
        (lambda text: text.replace(b"step", b"st,ep", 1), ""),
        (lambda text: b"", ""),
        (lambda text: bytes(range(256)) * 8, ""),
        (lambda text: text[:-4], "1 2 3 4"),
    ],
    ids=["junk", "a quote", "other line ends", "no number", "head", "empty", "binary", "cut"],
)
def test_a_damaged_table_loses_its_damaged_lines_alone(tmp_path: Path, damage: Any, kept: str) -> None:
    writer = CSV()
    writer.start(tmp_path, {}, 0)
    for step in range(1, 6):
        writer.metrics(step, {"loss": step / 3, "val": step / 7})
    writer.close()
    whole = (tmp_path / "metrics.csv").read_bytes()
    damaged = damage(whole)
    (tmp_path / "metrics.csv").write_bytes(damaged)
    writer = CSV()
    writer.start(tmp_path, {}, 5)
    writer.metrics(6, {"loss": 2.0})
    writer.close()
    found = rows(tmp_path)
    assert [row["step"] for row in found] == [*kept.split(), "6"]
    assert all(float(row["loss"]) == int(row["step"]) / 3 for row in found)
    copy = tmp_path / "metrics.damaged.csv"
    dropped = kept not in ("1 2 3 4 5", "1 2 3 4") and damaged != b""
    assert copy.exists() == dropped and (not dropped or copy.read_bytes() == damaged)


def test_a_table_that_is_removed_or_cut_meanwhile_is_written_anew(tmp_path: Path) -> None:
    writer = CSV()
    writer.start(tmp_path, {}, 0)
    writer.metrics(1, {"loss": 1.0})
    writer.flush()
    (tmp_path / "metrics.csv").unlink()
    writer.metrics(2, {"loss": 2.0})
    writer.flush()
    (tmp_path / "metrics.csv").write_text("step,loss")
    writer.metrics(3, {"loss": 3.0})
    writer.close()
    assert [row["loss"] for row in rows(tmp_path)] == ["1.0", "2.0", "3.0"]


def test_details_are_there_once_and_go_on_behind_the_checkpoint(tmp_path: Path) -> None:
    lines = lambda: (tmp_path / DETAILS).read_text().splitlines()  # noqa: E731
    first = Details()
    first.start(tmp_path, 0)
    assert not (tmp_path / DETAILS).exists()  # a run without details has no such file
    first.add(2, {"a": 0.1, "b": 1e-300})
    first.add(4, {"a": 3.0})
    assert lines() == ["step,name,value", "2,a,0.1", "2,b,1e-300", "4,a,3.0"]
    with (tmp_path / DETAILS).open("a") as file:
        file.write("no line\n5,a,")  # as of a kill
    again = Details()
    again.start(tmp_path, 2)
    assert lines() == ["step,name,value", "2,a,0.1", "2,b,1e-300"]
    again.add(2, {"a": 0.5})  # measured again
    again.add(4, {"a": 3.5})
    assert lines() == ["step,name,value", "2,a,0.5", "2,b,1e-300", "4,a,3.5"]


def test_details_without_room_are_written_when_there_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    details = Details()
    details.start(tmp_path, 0)
    (tmp_path / DETAILS).mkdir()  # nothing can be written there
    details.add(1, {"a": 1.0})
    details.add(2, {"a": 2.0})
    assert caplog.text.count("cannot be written") == 1
    (tmp_path / DETAILS).rmdir()
    details.flush()
    assert (tmp_path / DETAILS).read_text().splitlines() == ["step,name,value", "1,a,1.0", "2,a,2.0"]
