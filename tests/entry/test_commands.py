"""Whole commands, from what is typed to what is printed and left behind."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from tests import commands
from tests.data.videos import write_numbered
from tests.sampling import fakes

TINY = (
    "experiment=demo", "name=mine", "net.depth=1", "net.width=24", "net.heads=2", "text.depth=0",
    "data.num_frames=3", "data.height=8", "data.width=8", "net.patch=[1,4,4]", "data.batch_size=2",
    "data.num_workers=0", "callbacks.checkpoints.every=1",
    "data.val.num_clips=2", "data.val_batch_size=2", "sampling.num_steps=1", "trainer.max_steps=2",
    "callbacks.metrics.every=1", "callbacks.progress.seconds=0", "trainer.accelerator=cpu", "logger=none",
)  # fmt: skip


def test_training_without_validation_and_what_it_says(
    command: Callable[..., None], capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    command("train.py", *TINY, "callbacks.validation.every=null")
    lines = capsys.readouterr().out.splitlines()
    begin = lines.index("starting runs/mine at step 0 of 2")
    assert all(line.startswith(("attention on", "step ", "finished: ")) for line in lines[begin + 1 :]), lines
    (net,) = (line for line in lines if line.startswith("net: "))
    assert len(net) < 600 and "depth=1" in net
    with (tmp_path / "runs/mine/metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["1", "2"] and not any(key.startswith("val/") for key in rows[0])
    assert not list((tmp_path / "runs/mine").rglob("*.mp4"))

    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    command("train.py", *TINY, "callbacks.validation.every=null", "show=true")
    assert "would do nothing: step 2 of 2 is done" in capsys.readouterr().out
    command("train.py", *TINY, "callbacks.validation.every=null", "resume_from=1", "show=true")
    assert "would resume runs/mine/checkpoints/step-00000001.ckpt at step 1 of 2" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before, "nothing may be written"
    command("train.py", *TINY, "callbacks.validation.every=null")
    assert "runs/mine is finished: 2 steps" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("net", "shown"),
    [
        ("wan22_i2v_tiny", ("given=beside", "given.unknown=grey", "conditioning=i2v")),
        ("cogvideox_i2v_tiny", ("given=beside", "given.unknown=left_out", "conditioning=i2v")),
        ("hunyuan_video15_tiny", ()),
    ],
)
def test_models_that_read_given_frames_train_and_sample(
    net: str, shown: tuple[str, ...], command: Callable[..., None], capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    given = (f"net={net}", "net.in_channels=3", "net.out_channels=3", "net.depth=1", *shown)
    kept = [each for each in TINY if not each.startswith("net.")]
    command("train.py", *kept, *given, "trainer.max_steps=1", "callbacks.validation.every=null")
    Image.new("RGB", (8, 8), (200, 30, 30)).save(tmp_path / "frame.png")
    capsys.readouterr()
    command("sample.py", "ckpt=runs/mine", "task=i2v", "image=frame.png", "prompt=a", "num_steps=1", "out=made")
    assert len(list((tmp_path / "made").glob("*.mp4"))) == 1 and ".mp4" in capsys.readouterr().out


def test_own_clips_in_folders_by_class_train_and_sample(
    command: Callable[..., None], capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    """A published network of classes on videos and pictures: a class is asked for by its folder's name or number."""
    for name in ("jump", "run"):
        (tmp_path / "clips" / name).mkdir(parents=True)
        for number in range(2):
            write_numbered(tmp_path / "clips" / name / f"{number}.mp4", count=8)
    kept = [each for each in TINY if not each.startswith(("experiment=", "net.", "text.", "data.val.", "data.num"))]
    clips = ("data=real_clips", "data.root=clips", "data.labels=folder", "data.num_frames=3", "data.num_workers=0")
    net = ("net=dit_tiny", "net.in_channels=3", "net.out_channels=3", "net.patch=[1,4,4]", "net.depth=1", "text=none")
    train = ("train.py", *kept, *clips, *net, "trainer.max_steps=1", "preview.prompts=[run]")
    command(*train)
    asked = ("sample.py", "ckpt=runs/mine", "guidance.scale=4", "num_steps=1", "device=cpu", "seed=3")
    command(*asked, "prompt=run", "out=named")
    command(*asked, "prompt=1", "out=numbered")
    shown = [next((tmp_path / folder).glob("*.mp4")) for folder in ("named", "numbered")]
    frames = []
    for file in shown:
        with av.open(str(file)) as video:
            frames.append([frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)])
    assert len(frames[0]) == 3 and np.array_equal(*map(np.stack, frames))
    capsys.readouterr()
    with pytest.raises(SystemExit):
        command(*asked, "prompt=walk", "out=none")
    assert "class 'walk' is not known" in capsys.readouterr().err and not (tmp_path / "none").exists()


def test_samples_whose_reader_has_left(tmp_path: Path) -> None:
    """`sample.py ... | head -0`: what was asked for is made, and nothing is said."""
    fakes.checkpoint(tmp_path / "run")
    read, write = os.pipe()
    os.close(read)
    asked = (f"ckpt={tmp_path / 'run'}", f"out={tmp_path / 'made'}", "trusted=[tests]", "prompt=a", "num_steps=1")
    started = commands.start("sample.py", *asked, cwd=tmp_path, stdout=write)
    os.close(write)
    done = started.finish()
    assert done.returncode == 141 and "Traceback" not in done.stderr and "BrokenPipe" not in done.stderr, done.stderr
    assert len(list((tmp_path / "made").glob("*.mp4"))) == 1
