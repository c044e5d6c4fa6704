"""Columns with a value for each frame of a file: clips carry those of the very frames that they show."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from data.batch import Excerpt, collate
from data.clips import ClipDataset
from data.decode import BadClip, Ladder, PyAV
from data.excerpts import RandomView, of_frames
from data.manifest import Row, read_manifest
from tests.data.test_shaped_data import real_data
from tests.data.videos import frame_number, write_numbered

LADDER = Ladder(decoders=[PyAV()])
COUNT = 40


def shown(item: Any) -> list[int]:
    return frame_number(item["pixels"].permute(1, 2, 3, 0).numpy())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An even and an uneven clip, a part of one, and an image. `actions` is ten times the number of the frame, `pose`
    two numbers for each."""
    write_numbered(tmp_path / "even.mp4", COUNT)
    uneven = np.cumsum([0, *np.random.default_rng(0).choice([0.05, 0.1, 0.2], COUNT - 1)])
    write_numbered(tmp_path / "uneven.mp4", COUNT, times=uneven.tolist())
    Image.radial_gradient("L").convert("RGB").save(tmp_path / "image.png")
    numbers = range(COUNT)
    many: dict[str, Any] = {"actions": [10 * n for n in numbers], "pose": [x for n in numbers for x in (n, -n)]}
    rows = [
        {"path": "even.mp4", "caption": "a", **many},
        {"path": "uneven.mp4", "caption": "b", **many},
        {"path": "even.mp4", "caption": "c", "start": 2.0, "end": 3.5, **many},
        {"path": "image.png", "caption": "d", "actions": [7], "pose": [1, 2]},
    ]
    (tmp_path / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def dataset(folder: Path, fps: float) -> ClipDataset:
    clips = read_manifest(None, folder / "list.jsonl", frame_columns=["actions", "pose"])
    return ClipDataset(clips, LADDER, RandomView(0), 8, 64, 96, fps)


@pytest.mark.parametrize("fps", [10.0, 7.0, 23.0])  # of the file, skipping frames, and showing some again
def test_clips_carry_what_is_said_of_the_frames_that_they_show(folder: Path, fps: float) -> None:
    clips = dataset(folder, fps)
    seen = set()
    for index in range(3):
        for epoch in range(6):
            item = clips.draw(index, epoch)
            numbers, columns = shown(item), item["columns"]
            assert columns["actions"] == [10 * frame for frame in numbers], item["id"]
            assert columns["pose"] == [[frame, -frame] for frame in numbers]
            seen.add(tuple(numbers))
    assert len(seen) > 10, "excerpts differ"
    assert clips.draw(3, 0)["columns"] == {"actions": [7.0] * 8, "pose": [[1.0, 2.0]] * 8}, "an image stands still"
    assert clips.columns == ["actions", "pose"] and clips.span("actions") == (0, 10 * (COUNT - 1))


def test_they_reach_the_batch(folder: Path) -> None:
    clips = dataset(folder, 10.0)
    batch = collate([clips.draw(0, 0), clips.draw(1, 0)])
    actions, pose = batch.values["actions"], batch.values["pose"]
    assert isinstance(actions, torch.Tensor) and actions.shape == (2, 8)
    assert isinstance(pose, torch.Tensor) and pose.shape == (2, 8, 2)
    torch.testing.assert_close(pose[..., 0] * 10, actions)


def test_clips_of_a_pack_have_as_many_as_frames(folder: Path) -> None:
    clips = dataset(folder, 10.0)
    short = ClipDataset(clips.manifest, LADDER, RandomView(0), 3, 64, 96, 10.0)
    batch = collate([clips.draw(0, 0), short.draw(0, 0), short.draw(2, 0)], packed=True)
    actions, pose = (batch.values[name] for name in ("actions", "pose"))
    assert isinstance(actions, torch.Tensor) and isinstance(pose, torch.Tensor)
    assert actions.shape == (3, 8) and pose.shape == (3, 8, 2)
    assert actions.isnan().tolist() == [[False] * 8, *[[False] * 3 + [True] * 5] * 2]
    assert batch.one(1).values["actions"].tolist() == [short.draw(0, 0)["columns"]["actions"]]  # type: ignore[union-attr]
    assert batch.one(0).values["pose"].shape == (1, 8, 2)  # type: ignore[union-attr]


@pytest.mark.parametrize(("numbers", "frames"), [(39, 40), (0, 40), (41, 40), (2, 3)])
def test_a_list_that_does_not_fit_its_file_is_a_bad_clip(numbers: int, frames: int) -> None:
    row = Row(Path("a.mp4"), (), "a.mp4", 0.0, float("inf"))
    with pytest.raises(BadClip, match=f"column actions has {numbers} numbers for {frames} frames: give equally many"):
        of_frames([0.0] * numbers, Excerpt([0], frames), "actions", row)


def test_such_a_clip_is_skipped_and_said(folder: Path) -> None:
    rows = [json.loads(line) for line in (folder / "list.jsonl").read_text().splitlines()]
    rows[0]["actions"].pop()
    (folder / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    item = dataset(folder, 10.0).draw(0, 0)
    assert item["id"] != "even.mp4" and item["skipped"][0].id == "even.mp4"
    assert "actions has 39 numbers for 40 frames" in item["skipped"][0].why


def test_what_the_list_can_tell_is_said_before_the_first_step(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    table = pa.table({
        "path": ["even.mp4", "uneven.mp4"], "caption": ["a", "b"], "frames": [None, 40.0], "fps": [20.0, None],
        "actions": [[0.0] * 39, [0.0] * 40], "name": ["x", "y"], "number": [1.0, 2.0],
    })  # fmt: skip
    pyarrow.parquet.write_table(table, folder / "list.parquet")
    told: dict[str, Any] = {"manifest": str(folder / "list.parquet"), "fps": 10.0, "shapes": None}
    with caplog.at_level(logging.WARNING):
        data = real_data(folder, **told, frame_columns=["actions"])
    assert data.columns == ["actions"] and data.span("actions") == (0, 0)
    assert "up to 20 frames a second and data.fps=10 shows fewer: what actions says of the frames" in caplog.text
    wrong_ones = {"name": "it holds texts", "number": "it holds numbers", "action": r"actions is meant\?"}
    for column, words in wrong_ones.items():
        with pytest.raises(ValueError, match=words):
            real_data(folder, **told, frame_columns=[column])
    with pytest.raises(ValueError, match=r"data.frame_columns=\[actions\]: a folder has no columns"):
        real_data(folder, manifest=None, root=str(folder), frame_columns=["actions"])
    wrong = table.set_column(2, "frames", pa.array([None, 39.0]))
    pyarrow.parquet.write_table(wrong, folder / "list.parquet")
    with pytest.raises(ValueError, match=r"uneven.mp4: column actions has 40 numbers for 39 frames.*1 of 2 clips"):
        real_data(folder, **told, frame_columns=["actions"])
