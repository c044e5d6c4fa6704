"""A published image-to-video model's folder on the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scripts.twins.pipelines import saved

SMALL = ("num_frames=9", "height=32", "width=32", "num_steps=2", "prompt=a red circle")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("a model of pictures, as published")
    saved("ltx_condition", folder)
    return folder


@pytest.fixture
def picture(command: Callable[..., None]) -> str:
    """A picture of another shape, in the folder where commands run."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("a frame.png")
    return "a frame.png"


def made_again(command: Callable[..., None], out: str) -> None:
    command("sample.py", f"again={next(Path(out).glob('*.json'))}", "out=again")
    first, second = (next(Path(name).glob("*.mp4")).read_bytes() for name in (out, "again"))
    assert first == second


def test_a_video_of_a_picture(
    folder: Path, picture: str, command: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    command("sample.py", f"pretrained={folder}", "task=i2v", f"image={picture}", "out=mine", *SMALL)
    said = capsys.readouterr()
    assert "a frame.png is 64x40, the samples are 32x32: 38% of it is cut off, left and right" in said.out + said.err
    fact = json.loads(next(Path("mine").glob("*.json")).read_text())
    assert fact["weights"] == "LTXConditionPipeline" and fact["task"]["image"] == picture
    made_again(command, "mine")


def test_a_video_of_conditions(folder: Path, picture: str, command: Callable[..., None]) -> None:
    conditions = f"conditions=[{{image: '{picture}'}}, {{image: '{picture}', frame: 6, strength: 0.5}}]"
    asked = ("sample.py", f"pretrained={folder}", "task=conditions", conditions, *SMALL)
    command(*asked, "out=plain")
    command(*asked, "out=mine", "given.fresh=0.05", "codec.decode_timestep=0.05", "codec.decode_noise_scale=0.5")
    plain, mine = (next(Path(name).glob("*.mp4")).read_bytes() for name in ("plain", "mine"))
    assert plain != mine
    fact = json.loads(next(Path("mine").glob("*.json")).read_text())
    assert fact["files"].keys() == {"conditions.0.image", "conditions.1.image"}
    made_again(command, "mine")


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (("task=i2v",), "this task needs image=FILE"),
        (("task=i2v", "image=nowhere.png"), "image nowhere.png is not there"),
        (("task=i2v", "image=a frame.png", "num_frames=8"), "num_frames=8 is not 4k+1 for AutoencoderKLLTXVideo"),
        (("task=conditions",), "this task needs conditions="),
        (("task=conditions", "conditions=[{picture: x}]"), "takes no picture"),
        (("task=conditions", "conditions=[{image: nowhere.png, frame: -1}]"), "frame=-1"),
        (("task=conditions", "conditions=[{image: nowhere.png, frame: 9}]"), "frame=9 is not in the clip"),
    ],
)
def test_what_cannot_be_is_one_line(
    arguments: tuple[str, ...], match: str, folder: Path, picture: str, command: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    with pytest.raises(SystemExit) as ended:
        command("sample.py", f"pretrained={folder}", *SMALL, *arguments)
    said = capsys.readouterr().err.strip().splitlines()
    assert ended.value.code == 2 and len(said) == 1 and said[0].startswith("error: ") and match in said[0]
    assert not Path("samples").exists()


def test_wan_is_shown_the_picture_beside_and_through_its_encoder(
    picture: str, command: Callable[..., None], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = tmp_path / "wan"
    saved("wan_image", folder)
    command("sample.py", f"pretrained={folder}", "task=i2v", f"image={picture}", "out=mine", *SMALL)
    said = capsys.readouterr()
    assert "a frame.png is 64x40, the samples are 32x32: 38% of it is cut off, left and right" in said.out + said.err
    assert json.loads(next(Path("mine").glob("*.json")).read_text())["weights"] == "WanImageToVideoPipeline"
    made_again(command, "mine")
    capsys.readouterr()
    for arguments, match in (((), "and none is given: task=i2v image=FILE"), (("task=i2v",), "needs image=FILE")):
        with pytest.raises(SystemExit) as ended:
            command("sample.py", f"pretrained={folder}", "out=wrong", *SMALL, *arguments)
        lines = capsys.readouterr().err.strip().splitlines()
        assert ended.value.code == 2 and len(lines) == 1 and lines[0].startswith("error: ") and match in lines[0]
        assert not Path("wrong").exists()
