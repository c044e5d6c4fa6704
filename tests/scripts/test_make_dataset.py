"""scripts/make_dataset.py: what is typed, what is made and how it is read; the sets themselves are in
tests/data/test_sets.py."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest

from data.clips import ClipDataset
from data.decode import Ladder, PyAV
from data.excerpts import MiddleView
from data.manifest import read_manifest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "make_dataset.py"


def make(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["make_dataset.py", *map(str, arguments)])
    runpy.run_path(str(SCRIPT), run_name="__main__")


def test_clips_of_the_world_are_made_alike_and_read_with_their_captions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("one", "two"):
        make(monkeypatch, "world", tmp_path / name, "--videos", 2, "--images", 1)
    first, second = ({file.name: file.read_bytes() for file in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert first == second and {"video-000.mp4", "video-000.txt", "image-002.png", "list.jsonl", "README.md"} <= set(
        first
    )
    assert "make_dataset.py world --seed 0 --videos 2 --images 1" in first["README.md"].decode()
    for listed in (None, tmp_path / "one" / "list.jsonl"):  # as a folder of anyone's, or by its list
        manifest = read_manifest(tmp_path / "one", listed)
        assert {manifest[index].is_image for index in range(3)} == {True, False}
        assert {"a red circle moves left", "a green triangle moves right"} < set(manifest.captions())
        clips = ClipDataset(manifest, Ladder(decoders=[PyAV()]), MiddleView(), 8, 64, 64, 8.0)
        for index in range(3):
            pixels = clips[index]["pixels"]
            assert pixels.float().std() > 10
            assert bool((pixels[:, 0] == pixels[:, 7]).all()) == manifest[index].is_image, "videos move, images do not"
    make(monkeypatch, "world", tmp_path / "one", "--videos", 2, "--images", 1)
    assert "3 clips are there; nothing is left to do" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("world", "--videos", "-1"), "--videos -1 must be at least 0"),
        (("world", "--videos", "0", "--images", "0"), "leaves no clip to make"),
        (("moving_mnist", "--clips", "0"), "--clips 0 must be at least 1"),
        (("moving_mnist", "--digits", "11"), "num_digits=11 from 1 to 10"),
        (("doom", "--jobs", "0"), "--jobs 0 must be at least 1"),
    ],
)
def test_what_cannot_be_made_is_one_line(
    arguments: tuple[str, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    with pytest.raises(SystemExit, match="2"):
        make(monkeypatch, arguments[0], tmp_path / "new", *arguments[1:])
    error = capsys.readouterr().err
    assert error.startswith("error: ") and said in error and error.count("\n") == 1
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("kind", "module", "package"),
    [("moving_mnist", "sklearn", "scikit-learn"), ("atari", "ale_py", "ale-py"), ("doom", "vizdoom", "vizdoom")],
)
def test_a_package_that_is_not_there_is_one_line(
    kind: str, module: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    for name in [name for name in sys.modules if name.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)  # type: ignore[arg-type]  # import raises, as without it
    with pytest.raises(SystemExit, match="2"):
        make(monkeypatch, kind, tmp_path / "new", "--clips", 1)
    error = capsys.readouterr().err
    assert error.startswith(f"error: this set is made by the package {package}, which is not installed")
    assert error.rstrip().endswith("pip install -r requirements-sets.txt") and error.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_a_folder_that_holds_something_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(SystemExit, match="2"):
        make(monkeypatch, "world", tmp_path)
    assert "is there and not empty; name a new folder" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]


def test_moving_mnist_is_made_and_trained_on_as_its_experiment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before it is made, the run says how; afterwards train and test are told apart."""
    from dit.config.build import build
    from tests.test_configs import composed, plain

    monkeypatch.chdir(tmp_path)
    node = plain(composed("train", "experiment=moving_mnist", "name=test"))["data"]
    with pytest.raises(
        FileNotFoundError, match="is not there, or not whole yet; make it: python scripts/make_dataset.py"
    ):
        build(node, "data")
    pytest.importorskip("sklearn", reason="scikit-learn is not installed: pip install -r requirements-sets.txt")
    make(monkeypatch, *node["made_by"].split()[2:], "--clips", 20)
    rows = [json.loads(line) for line in Path(node["manifest"]).read_text().splitlines()]
    assert len(rows) == 20 and {row["licence"] for row in rows} == {"CC-BY-4.0"}
    data = build({**node, "num_workers": 0}, "data")
    assert len(data.train) == 18 and len(data.val) == 2
    assert {data.val[index]["id"] for index in range(2)} == {row["path"] for row in rows if row["split"] == "test"}
    item = data.train[0]
    assert item["pixels"].shape == (3, 20, 32, 32) and item["repeated"] == 0 and item["caption"].startswith("the hand")
    assert data.card().content["train"]["hours"] == pytest.approx(18 * 2 / 3600, rel=1e-3)
