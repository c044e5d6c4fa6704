"""Real clips as items: the right frames at the right rate, crops in place, stand-ins for what cannot be read."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data.batch import CaptionedClips, RedrawnClips, collate
from data.clips import ClipDataset, clip_data
from data.decode import BadClip, BadClips, Ladder, PyAV, Timeline
from data.excerpts import MiddleView, RandomView, fit, pick_caption, pick_frames
from data.manifest import Row, read_manifest
from tests import commands
from tests.data.videos import frame_number, media, write_numbered

LADDER = Ladder(decoders=[PyAV()])


def row(start: float = 0.0, end: float = float("inf")) -> Row:
    return Row(Path("clip.mp4"), (), "clip.mp4", start, end)


def dataset(root: Path, view: object = None, **shape: object) -> ClipDataset:
    settings: dict[str, object] = {"num_frames": 4, "height": 32, "width": 48, "fps": 10.0, **shape}
    return ClipDataset(read_manifest(root, None), LADDER, view or MiddleView(), **settings)  # type: ignore[arg-type]


# ---- which frames --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(40))
def test_frames_are_the_nearest_in_time_and_inside_the_part(seed: int) -> None:
    rng = np.random.default_rng(seed)
    source = rng.uniform(5, 60)
    steps = rng.choice([1.0, 1.0, 0.5, 2.0], 200) if seed % 2 else np.ones(200)  # every second source is uneven
    times = np.concatenate([[0.0], np.cumsum(steps)[:-1]]) / source
    part = row(start=float(rng.uniform(0, times[60])), end=float(rng.uniform(times[150], times[199])))
    num_frames, fps = int(rng.integers(1, 17)), source * rng.uniform(0.25, 1.0)
    indices = np.array(pick_frames(Timeline(times, source), part, num_frames, fps, float(rng.random())))

    wanted = times[indices[0]] + np.arange(num_frames) / fps
    inside = np.flatnonzero((times >= part.start - 1e-3) & (times < part.end))
    nearest = inside[np.abs(times[inside][None] - wanted[:, None]).argmin(1)]
    np.testing.assert_allclose(np.abs(times[indices] - wanted), np.abs(times[nearest] - wanted), atol=1e-9)
    assert set(indices) <= set(inside)


@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize("seed", range(10))
def test_a_source_of_the_same_rate_is_taken_frame_by_frame(seed: int, rounded: bool) -> None:
    times = np.arange(100) / 29.97
    if rounded:  # MKV stores whole milliseconds
        times = times.round(3)
    indices = pick_frames(Timeline(times, 29.97), row(), 16, 29.97, random.Random(seed).random())
    assert np.diff(indices).tolist() == [1] * 15


def test_the_view_reaches_the_first_and_the_last_excerpt() -> None:
    timeline = Timeline(np.arange(30) / 30, 30.0)
    excerpts = {tuple(pick_frames(timeline, row(), 5, 10.0, time / 1000)) for time in range(1000)}
    assert min(excerpts)[0] == 0 and max(excerpts)[-1] == 29
    assert len(excerpts) == 30 - 12


def test_a_slow_source_repeats_frames() -> None:
    assert pick_frames(Timeline(np.arange(8) / 4, 4.0), row(), 8, 8.0, 0.0) == [0, 0, 1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize(("part", "there"), [(row(), "1.05"), (row(0.2, 0.8), "0.55"), (row(5.0), "0.00")])
def test_parts_that_are_too_short_are_bad_clips_with_their_length(part: Row, there: str) -> None:
    with pytest.raises(BadClip, match=rf"{there} s are too short for 8 frames at 5 fps \(1.40 s\)"):
        pick_frames(Timeline(np.arange(11) / 10, 10.0), part, 8, 5.0, 0.5)


# ---- crop and scale ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(10))
def test_fit_gives_the_shape_and_the_largest_crop_in_its_place(seed: int) -> None:
    rng = random.Random(seed)
    h, w, height, width = (rng.randint(4, 90) for _ in range(4))
    x = torch.arange(w).float().view(1, 1, w, 1).expand(2, h, w, 3)
    y = torch.arange(h).float().view(1, h, 1, 1).expand(2, h, w, 3)
    crop_h, crop_w = min(h, height * w / width), min(w, width * h / height)
    for place in (0.0, 0.5, 1.0):
        got_x = fit(x.to(torch.uint8), height, width, place, place).float()
        got_y = fit(y.to(torch.uint8), height, width, place, place).float()
        assert got_x.shape == got_y.shape == (3, 2, height, width)
        # The mean of a ramp is the middle of what was cut out.
        assert got_x.mean().item() == pytest.approx(place * (w - crop_w) + (crop_w - 1) / 2, abs=1.1)
        assert got_y.mean().item() == pytest.approx(place * (h - crop_h) + (crop_h - 1) / 2, abs=1.1)


def test_shrinking_a_fine_pattern_gives_grey_not_stripes() -> None:
    stripes = torch.zeros(1, 64, 64, 3, dtype=torch.uint8)
    stripes[:, :, ::2] = 255
    small = fit(stripes, 8, 8, 0.5, 0.5).float()
    assert (small - 127.5).abs().max() < 20


# ---- items ---------------------------------------------------------------------------------------------------------


def test_items_are_what_the_file_shows(tmp_path: Path) -> None:
    write_numbered(tmp_path / "a.mp4", count=40, fps=20)
    (tmp_path / "a.txt").write_text("eight bars")
    clips = dataset(tmp_path, height=64, width=96, fps=10.0)
    item = clips[0]
    assert isinstance(clips, RedrawnClips) and isinstance(clips, CaptionedClips)
    assert item["pixels"].dtype == torch.uint8 and item["pixels"].shape == (3, 4, 64, 96)
    assert item["pixels"].is_contiguous()
    assert (item["caption"], item["id"], item["fps"], item["skipped"]) == ("eight bars", "a.mp4", 10.0, ())
    numbers = frame_number(item["pixels"].permute(1, 2, 3, 0).numpy())
    assert np.diff(numbers).tolist() == [2, 2, 2] and numbers[0] == 17


def test_random_views_change_with_the_epoch_and_come_back(tmp_path: Path) -> None:
    for name in "ab":
        write_numbered(tmp_path / f"{name}.mp4", count=80)
    clips, again = (dataset(tmp_path, RandomView(seed=5)) for _ in range(2))
    shown = [clips.draw(0, epoch)["pixels"] for epoch in range(6)]
    assert len({pixels.numpy().tobytes() for pixels in shown}) >= 5
    for epoch in (4, 1, 5):  # in another order, after other clips
        again.draw(1, epoch)
        assert torch.equal(again.draw(0, epoch)["pixels"], shown[epoch])
    views = np.array([RandomView(seed)(index, epoch) for seed in (0, 1) for index in range(20) for epoch in range(20)])
    assert len(np.unique(views[:, 0])) == len(views) and np.abs(views.mean(0) - 0.5).max() < 0.05


def test_an_image_is_a_clip_that_stands_still(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8)
    Image.fromarray(array).save(tmp_path / "a.png")
    (tmp_path / "a.png.txt").write_text("noise")
    (tmp_path / "b.jpg").write_text("no picture")
    clips = dataset(tmp_path, RandomView(0), height=64, width=96)
    item = clips[0]
    assert item["pixels"].dtype == torch.uint8 and item["pixels"].is_contiguous() and item["caption"] == "noise"
    assert all(np.array_equal(item["pixels"][:, frame].permute(1, 2, 0).numpy(), array) for frame in range(4))
    stand_in = clips[1]
    assert stand_in["id"] == "a.png" and stand_in["skipped"][0].id == "b.jpg"
    assert "image" in stand_in["skipped"][0].why and collate([item]).slow == ()


def test_each_of_several_captions_is_shown_and_validation_takes_the_same_one() -> None:
    captions = ("a cat", "an animal", "a pet")
    assert {pick_caption(captions, 3, epoch) for epoch in range(40)} == set(captions)
    assert pick_caption(captions, 3, 7) == pick_caption(captions, 3, 7)
    assert (pick_caption((), 0, 5), pick_caption(("a cat",), 0, 5)) == ("", "a cat")


def test_clips_that_show_frames_again_are_counted_and_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The source has 8 frames a second: at 30, 11 of 15 frames are equal to the one before."""
    for name in "abc":
        write_numbered(tmp_path / f"{name}.mp4", count=40, fps=8)
    clips = dataset(tmp_path, num_frames=15, fps=30.0)
    item = clips[0]
    pixels = item["pixels"]
    equal = sum(torch.equal(pixels[:, frame], pixels[:, frame - 1]) for frame in range(1, 15))
    assert item["repeated"] == equal and equal >= 10
    assert collate([item, clips[1]]).slow == ("a.mp4", "b.mp4")
    assert collate([dataset(tmp_path, num_frames=15, fps=8.0)[0]]).slow == ()
    (tmp_path / "manifest.csv").touch()
    data = clip_data(
        str(tmp_path), *[None] * 6, val_clips=0, decoder=LADDER, batch_size=2, val_batch_size=1, num_workers=0, seed=0,
        num_frames=15, image_frames=None, height=16, width=16, fps=30.0, timeout=0, pin_memory=False, max_bad_share=0.0,
    )  # fmt: skip
    batches = iter(data.train_dataloader())
    for _ in range(4):
        next(batches)
    data.teardown("fit")
    said = [record.getMessage() for record in caplog.records if "data.fps=30" in record.getMessage()]
    assert len(said) == 2 and "has fewer frames a second" in said[0] and said[1].startswith("3 clips")
    assert "manifest.csv is not read, the folder is" in caplog.text


def test_bad_clips_get_stand_ins_that_do_not_depend_on_the_past(tmp_path: Path) -> None:
    for name in "bdf":
        write_numbered(tmp_path / f"{name}.mp4")
    for name in "ace":
        (tmp_path / f"{name}.mp4").write_text("no video")
    clips = dataset(tmp_path)
    wanted = {(index, epoch): clips.draw(index, epoch) for index in range(6) for epoch in range(5)}
    for (index, _), item in wanted.items():
        names = [skip.id for skip in item["skipped"]]
        assert item["id"] in ("b.mp4", "d.mp4", "f.mp4") and set(names) <= {"a.mp4", "c.mp4", "e.mp4"}
        assert names[:1] == ([f"{'abcdef'[index]}.mp4"] if index % 2 == 0 else [])
    assert len({wanted[0, epoch]["id"] for epoch in range(5)}) > 1  # not always the same neighbour
    fresh = dataset(tmp_path)
    for index, epoch in random.Random(0).sample(sorted(wanted), 10):
        assert fresh.draw(index, epoch)["id"] == wanted[index, epoch]["id"]


def test_nothing_but_bad_clips_is_an_error_that_lists_them(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / f"{name}.mp4").write_text("no video")
    with pytest.raises(BadClips, match=r"none of 3 clips tried, out of 3.*a.mp4 \(.*b.mp4 \(") as error:
        dataset(tmp_path)[0]
    assert "\n" not in str(error.value)


def test_real_clips_become_batches_and_the_damaged_ones_a_list(caplog: pytest.LogCaptureFixture) -> None:
    folder = media("manifest.csv").parent
    data = clip_data(
        root=str(folder),
        manifest=str(folder / "manifest.csv"),
        shard_cache=None,
        filter=None,
        licences=None,
        labels=None,
        columns=None,
        val_clips=2,
        decoder=LADDER,
        batch_size=3,
        val_batch_size=2,
        num_workers=0,
        seed=0,
        num_frames=5,
        image_frames=None,
        height=24,
        width=40,
        fps=8.0,
        timeout=0,
        pin_memory=False,
        max_bad_share=0.4,
    )
    data.setup("fit")
    batches = iter(data.train_dataloader())
    for _ in range(4):
        batch = next(batches)
        assert batch.pixels.shape == (3, 3, 5, 24, 40) and -1 <= batch.pixels.min() < batch.pixels.max() <= 1
    (val,) = data.val_dataloader()
    assert not set(val.ids) & set(batch.ids)
    data.teardown("fit")
    assert set(data.skipped) >= {"truncated.mp4", "rotated_90.mov"}
    assert "truncated.mp4 (" in caplog.records[-1].getMessage()


MEMORY_JOB = """
import sys
from pathlib import Path
from data.decode import Decord, Ladder, PyAV
from data.clips import ClipDataset
from data.excerpts import RandomView
from data.manifest import read_manifest
manifest = read_manifest(sys.argv[1], None)
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20
for decoder in (Decord(), PyAV()):
    if decoder.missing():
        continue
    clips = ClipDataset(manifest, Ladder(decoders=[decoder]), RandomView(0), num_frames=8, height=32, width=32, fps=8.0)
    for epoch in range(180):
        if epoch == 60:
            before = resident()
        clips.draw(epoch % len(clips), epoch)
    print(resident() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads memory from /proc")
def test_memory_does_not_grow_with_clips(tmp_path: Path) -> None:
    """120 excerpts of 320x240; keeping one frame of each alone would be 26 MiB, one reader of each far more."""
    for name in "ab":
        write_numbered(tmp_path / f"{name}.mp4", count=30, height=240, width=320)
    (tmp_path / "job.py").write_text(MEMORY_JOB)
    done = commands.run(str(tmp_path / "job.py"), str(tmp_path), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    grown = [float(word) for word in done.stdout.split()]
    assert grown and max(grown) < 15


def test_images_are_clips_of_a_length_of_their_own(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Beside videos, one by one; anything else is one line."""
    write_numbered(tmp_path / "video.mp4")
    Image.new("RGB", (96, 64), "red").save(tmp_path / "image.png")
    settings = {
        "root": str(tmp_path), **dict.fromkeys(["manifest", "shard_cache", "filter", "licences", "labels", "columns"]),
        "val_clips": 0, "decoder": LADDER, "batch_size": 1, "val_batch_size": 1, "num_workers": 0, "seed": 0,
        "num_frames": 5, "height": 32, "width": 48, "fps": 10.0, "timeout": 0, "pin_memory": False,
        "max_bad_share": 0.0,
    }  # fmt: skip
    data = clip_data(**settings, image_frames=1)  # type: ignore[arg-type]
    batches = iter(data.train_dataloader())
    lengths = {batch.ids[0]: batch.pixels.shape[2] for batch in (next(batches) for _ in range(8))}
    assert lengths == {"video.mp4": 5, "image.png": 1}
    for wrong, said in (
        ({"batch_size": 2}, "data.image_frames=1 beside data.num_frames=5 makes clips of two lengths"),
        ({"image_frames": 6}, "data.image_frames=6 must be from 1 to data.num_frames=5"),
    ):
        with pytest.raises(ValueError, match=said) as caught:
            clip_data(**{"image_frames": 1, **settings, **wrong})  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)
    assert "all clips are images" not in caplog.text
    (tmp_path / "video.mp4").unlink()
    clip_data(**settings, image_frames=None)  # type: ignore[arg-type]
    assert "all clips are images, and each is shown for 5 frames" in caplog.text and "data.num_frames=1" in caplog.text
