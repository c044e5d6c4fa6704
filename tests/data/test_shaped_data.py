"""Clips of several shapes from files to batches, and runs on them that are stopped and go on."""

import logging
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from data.batch import Batch, Item, Shape
from data.buckets import Buckets
from data.clips import ClipDataset, clip_data
from data.decode import BadClips, Ladder, PyAV
from data.excerpts import RandomView
from data.manifest import read_manifest
from data.module import VideoData
from data.packing import Packed
from data.shapes import Extents, Pixels
from tests.data.resume_job import Recorder, trainer
from tests.data.test_shapes import shapes
from tests.data.videos import frame_number, write_numbered

LADDER = Ladder(decoders=[PyAV()])


class Sized:
    """Clip `index` is filled with `index`, in the shape that is asked for; every third is long, every fourth wide."""

    def __init__(self, count: int, number: np.ndarray | None = None) -> None:
        self.count = count
        self.index = np.arange(count) if number is None else number

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, index: int) -> Item:
        raise AssertionError("the shape is to be said")

    def draw(self, index: int, epoch: int, shape: Shape | None = None) -> Item:
        assert shape is not None
        clip = int(self.index[index])
        pixels = torch.full((3, *shape), clip % 256, dtype=torch.uint8)
        return Item(pixels=pixels, caption="", id=f"{clip}@{epoch}", fps=8.0)

    def extents(self) -> Extents:
        frames, widths = np.where(self.index % 3, 3, 8), np.where(self.index % 4, 8, 16)
        return Extents(frames, np.full(len(self), 8), widths, np.zeros(len(self), bool))

    def shaped(self, number: np.ndarray, left_out: dict[str, int]) -> "Sized":
        return Sized(self.count, self.index[number >= 0])


def sized_data(count: int, val: int | None = None, num_workers: int = 0, **changed: Any) -> VideoData:
    settings: dict[str, Any] = {
        "train": Sized(count), "val": None if val is None else Sized(val), "batch_size": 2, "val_batch_size": 2,
        "num_workers": num_workers, "seed": 0, "num_frames": 8, "height": 8, "width": 16, "fps": 8.0, "timeout": 60,
        "pin_memory": False, "max_bad_share": 0.0,
        "shapes": shapes(shapes=[[8, 8, 16], [8, 8, 8], [1, 8, 8], [1, 8, 16]]),
    }  # fmt: skip
    return VideoData(**{**settings, **changed})


def train_batches(data: VideoData, count: int) -> list[Batch]:
    return list(islice(iter(data.train_dataloader()), count))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_have_one_shape_and_are_stamped_with_the_clips_so_far(num_workers: int) -> None:
    batches = train_batches(sized_data(24, num_workers=num_workers), 20)
    assert [batch.position for batch in batches] == np.cumsum([len(batch) for batch in batches]).tolist()
    first = [id for batch in batches if batch.position <= 24 for id in batch.ids]
    assert sorted(first) == sorted(f"{clip}@0" for clip in range(24))
    assert {tuple(batch.pixels.shape[2:]) for batch in batches} == {(8, 8, 16), (8, 8, 8), (1, 8, 8), (1, 8, 16)}
    for batch in batches:
        assert len(batch) * batch.pixels[0, 0].numel() <= 2 * 8 * 8 * 16
    assert [batch.ids for batch in batches] == [batch.ids for batch in train_batches(sized_data(24), 20)]


def test_a_run_that_is_stopped_in_an_epoch_goes_on_at_the_very_next_batch(tmp_path: Path) -> None:
    """With other workers, in a process that knows nothing but the checkpoint."""
    checkpoint, straight, stopped = tmp_path / "stopped.ckpt", Recorder(), Recorder()
    trainer(12, tmp_path).fit(straight, sized_data(24))
    first = trainer(5, tmp_path)
    data = sized_data(24)
    first.fit(stopped, data)
    first.save_checkpoint(checkpoint)
    state = data.state_dict()
    assert state["alike"] == 1 and state["position"] == sum(map(len, stopped.seen))
    resumed = Recorder()
    trainer(12, tmp_path).fit(resumed, sized_data(24, num_workers=1), ckpt_path=checkpoint, weights_only=True)
    assert stopped.seen + resumed.seen == straight.seen


def test_what_is_left_of_an_epoch_stays_the_same_on_other_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of two ranks goes on with three: together they draw what the two would have drawn."""

    def ranks(count: int, steps: int, state: dict[str, Any] | None) -> tuple[list[list[str]], dict[str, Any]]:
        monkeypatch.setattr(VideoData, "world_size", count)
        seen: list[list[list[str]]] = []
        for rank in range(count):
            monkeypatch.setattr(VideoData, "rank", rank)
            data = sized_data(24)
            if state is not None:
                data.load_state_dict(state)
            batches = train_batches(data, steps)
            seen.append([batch.ids for batch in batches])
            data.place = data.place._replace(position=batches[-1].position, batches_before=batches[-1].batches_before)
        return [ids for step in zip(*seen, strict=True) for ids in step], data.state_dict()

    whole, _ = ranks(2, 15, None)
    before, state = ranks(2, 3, None)
    after, _ = ranks(3, 8, state)
    assert before + after == whole
    assert state["alike"] == 2


def test_other_batches_are_said(caplog: pytest.LogCaptureFixture) -> None:
    data = sized_data(24)
    train_batches(data, 1)
    state = data.state_dict()
    sized_data(24).load_state_dict(state)
    assert not caplog.records
    sized_data(24, batch_size=3).load_state_dict(state)
    assert "others than the checkpoint's" in caplog.text


def test_validation_shows_each_clip_once_in_batches_of_one_shape() -> None:
    data = sized_data(24, val=9)
    batches = list(data.val_dataloader())
    assert len(batches) == len(data.val_dataloader())  # type: ignore[arg-type]
    assert sorted(id for batch in batches for id in batch.ids) == sorted(f"{clip}@0" for clip in range(9))
    assert all(batch.fillers == 0 for batch in batches)


def test_the_ranks_of_a_validation_have_the_same_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(VideoData, "world_size", 2)
    seen: list[list[tuple[int, ...]]] = []
    counted: list[str] = []
    for rank in range(2):
        monkeypatch.setattr(VideoData, "rank", rank)
        batches = list(sized_data(24, val=9).val_dataloader())
        seen.append([tuple(batch.pixels.shape) for batch in batches])
        counted += [id for batch in batches for id in batch.ids[: len(batch) - batch.fillers]]
    assert seen[0] == seen[1] and sorted(counted) == sorted(f"{clip}@0" for clip in range(9))


def test_a_dataset_that_draws_another_shape_is_named() -> None:
    data = sized_data(24)
    data.measure(Pixels())
    data.train.draw = lambda index, epoch, shape: Item(  # type: ignore[attr-defined]
        pixels=torch.zeros(3, 2, 2, 2, dtype=torch.uint8), caption="", id="a", fps=8.0
    )
    with pytest.raises(ValueError, match=r"batch of a has shape \(3, 2, 2, 2\), which is none of those"):
        train_batches(data, 1)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_packed_batches_hold_clips_of_several_shapes_and_validation_goes_by_shape(num_workers: int) -> None:
    written = [[8, 8, 16], [8, 8, 8], [1, 8, 8], [1, 8, 16]]
    packs = Packed(written, None, ["1:1"], None, None, 1.0, 0.5)
    data = sized_data(24, val=9, num_workers=num_workers, shapes=packs)
    batches = train_batches(data, 14)
    assert [batch.position for batch in batches] == np.cumsum([len(batch) for batch in batches]).tolist()
    first = [id for batch in batches if batch.position <= 24 for id in batch.ids]
    assert sorted(first) == sorted(f"{clip}@0" for clip in range(24))
    assert all(batch.is_packed for batch in batches)
    assert max(len({clip.shape for clip in batch.clips}) for batch in batches) > 2
    for batch in batches:
        assert sum(clip[0].numel() for clip in batch.clips) <= 2 * 8 * 8 * 16
        for id, clip in zip(batch.ids, batch.clips, strict=True):
            assert torch.equal(clip, torch.full_like(clip, int(id.split("@")[0]) / 127.5 - 1))
    validated = list(data.val_dataloader())
    assert not any(batch.is_packed for batch in validated) and sum(map(len, validated)) == 9


# ---- files ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two videos, one of them wide, a short one, an image, and a file that is none; with a list of their sizes."""
    folder = tmp_path_factory.mktemp("clips")
    write_numbered(folder / "a.mp4", count=24, fps=8, height=64, width=64)
    write_numbered(folder / "wide.mp4", count=24, fps=8, height=64, width=128)
    write_numbered(folder / "short.mp4", count=3, fps=8, height=64, width=64)
    Image.new("RGB", (80, 70), (200, 30, 30)).save(folder / "still.png")
    (folder / "broken.mp4").write_bytes(b"no video")
    rows = [
        "a.mp4,a,24,8,3,64,64", "wide.mp4,b,24,8,3,64,128", "short.mp4,c,3,8,0.375,64,64", "still.png,d,1,,,70,80",
        "broken.mp4,e,24,8,3,64,64",
    ]  # fmt: skip
    (folder / "list.csv").write_text("\n".join(["path,caption,frames,fps,duration,height,width", *rows]) + "\n")
    return folder


def real_data(folder: Path, **changed: Any) -> VideoData:
    settings: dict[str, Any] = {
        "root": None, "manifest": str(folder / "list.csv"), "shard_cache": None, "filter": None, "licences": None,
        "labels": None, "columns": None, "val_clips": 0, "decoder": LADDER, "batch_size": 2, "val_batch_size": 1,
        "num_workers": 0, "seed": 0, "num_frames": 8, "image_frames": None, "height": 32, "width": 32, "fps": 8.0,
        "timeout": 60, "pin_memory": False, "max_bad_share": 1.0,
        "shapes": Buckets(None, None, ["1:1", "2:1"], [1, 8], None, 1.0, 0.3),
    }  # fmt: skip
    return clip_data(**{**settings, **changed})


def test_files_are_drawn_in_their_shapes(folder: Path) -> None:
    data = real_data(folder)
    batches = train_batches(data, 12)
    seen = {id: tuple(clip.shape[1:]) for batch in batches for id, clip in zip(batch.ids, batch.pixels, strict=True)}
    assert seen == {
        "a.mp4": (8, 32, 32), "wide.mp4": (8, 23, 45), "short.mp4": (1, 32, 32), "still.png": (1, 32, 32),
    }  # fmt: skip
    wide = next(clip for batch in batches for id, clip in zip(batch.ids, batch.pixels, strict=True) if id == "wide.mp4")
    numbers = frame_number((wide.permute(1, 2, 3, 0).numpy() + 1) * 127.5)
    assert np.diff(numbers).tolist() == [1] * 7  # all eight bars are there, and the frames in their order
    assert data.skipped.keys() == {"broken.mp4"}
    shape = data.card().content["shape"]
    assert shape["fps"] == 8.0 and "8x32x32" in shape["frames x height x width"]
    assert "frames x height x width one of 1x" in data.card().markdown


def test_a_clip_that_cannot_be_read_is_replaced_by_one_of_its_shape(folder: Path) -> None:
    clips = real_data(folder)
    clips.measure(Pixels())
    broken = len(clips.train) - 1
    for epoch in range(20):
        item = clips.train.draw(broken, epoch, Shape(8, 32, 32))  # type: ignore[attr-defined]
        assert item["id"] == "a.mp4" and [each.id for each in item["skipped"]] == ["broken.mp4"]
    (folder / "alone.csv").write_text(
        "path,caption,duration,fps,height,width\nbroken.mp4,x,3,8,64,128\na.mp4,y,3,8,64,64\n"
    )
    alone = real_data(folder, manifest=str(folder / "alone.csv"))
    alone.measure(Pixels())
    with pytest.raises(BadClips, match="none of 1 clips tried, out of 1, can be used: broken.mp4"):
        alone.train.draw(0, 0, Shape(8, 23, 45))  # type: ignore[attr-defined]


def test_clips_that_fit_nowhere_are_left_out_of_the_run_and_on_its_card(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    data = real_data(folder, shapes=Buckets([[8, 32, 32]], None, ["1:1"], None, None, 1.0, 0.3))
    data.measure(Pixels())
    assert [clip.id for clip in map(data.train.manifest.__getitem__, range(len(data.train)))] == [  # type: ignore[attr-defined]
        "a.mp4", "still.png", "broken.mp4",
    ]  # fmt: skip
    assert data.card().content["train"]["left_out"] == {
        "shape: too short for every shape": 1, "shape: of an aspect ratio too far from every shape's": 1,
    }  # fmt: skip
    assert "2 of 5 clips to train on are left out" in caplog.text
    assert data.state_dict()["num_clips"] == 3


def test_a_folder_of_many_clips_says_how_to_get_a_list(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of few ones the sizes are read (tests/data/test_measured.py)."""
    monkeypatch.setattr("data.measured.MOST", 4)
    data = real_data(folder, manifest=None, root=str(folder))
    with pytest.raises(ValueError, match=r"none of 5 clips .*\(5 height, width or .* not known.*validate_data.py"):
        data.measure(Pixels())


def test_images_of_a_length_of_their_own_are_for_one_shape(folder: Path) -> None:
    with pytest.raises(ValueError, match="data.image_frames=1 is for clips of one shape"):
        real_data(folder, image_frames=1)


def test_a_dataset_draws_its_own_shape_unless_told(folder: Path) -> None:
    clips = ClipDataset(read_manifest(None, folder / "list.csv"), LADDER, RandomView(0), 4, 16, 16, 8.0, (), 1)
    assert clips[0]["pixels"].shape == (3, 4, 16, 16) and clips[3]["pixels"].shape == (3, 1, 16, 16)
    assert clips.draw(0, 0, Shape(2, 8, 24))["pixels"].shape == (3, 2, 8, 24)
    assert clips.draw(3, 0, Shape(2, 8, 24))["pixels"].shape == (3, 2, 8, 24)
    looks = [clips.draw(0, epoch)["pixels"].permute(1, 2, 3, 0).numpy() for epoch in range(9)]
    assert len({tuple(frame_number(each)) for each in looks}) > 3
