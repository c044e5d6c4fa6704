"""A published model's folder on the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.twins.pipelines import saved

SMALL = ("num_frames=5", "height=16", "width=32", "num_steps=2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("a model, as published")
    saved("wan", folder)
    return folder


def refused(capsys: pytest.CaptureFixture[str], command: Callable[..., None], *arguments: str) -> str:
    """The one line that is said, behind which nothing lies."""
    with pytest.raises(SystemExit) as ended:
        command("sample.py", *arguments)
    said = capsys.readouterr().err.strip().splitlines()
    assert ended.value.code == 2 and len(said) == 1 and said[0].startswith("error: ")
    assert not Path("samples").exists()
    return said[0]


def test_samples_of_a_folder_can_be_made_again(folder: Path, command: Callable[..., None]) -> None:
    command("sample.py", f"pretrained={folder}", "prompt=a red circle", "num_samples=2", "seed=3", *SMALL)
    fact = json.loads(next(Path("samples/001").glob("*seed-4.json")).read_text())
    assert fact["weights"] == "WanPipeline" and fact["guidance"]["scale"] == 5.0 and fact["checkpoint"]["sha256"]
    command("sample.py", f"again={next(Path('samples/001').glob('*seed-4.json'))}", "out=again")
    first, second = (next(Path(name).glob("*seed-4.mp4")).read_bytes() for name in ("samples/001", "again"))
    assert first == second


def test_another_folder_by_now_is_not_sampled_again(
    folder: Path, command: Callable[..., None], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    command("sample.py", f"pretrained={folder}", "prompt=a blue square", "out=mine", *SMALL)
    capsys.readouterr()
    file = folder / "scheduler" / "scheduler_config.json"
    kept = file.read_text()
    file.write_text(kept.replace("3.0", "4.0"))
    try:
        said = refused(capsys, command, f"again={next(Path('mine').glob('*.json'))}", "out=again")
    finally:
        file.write_text(kept)
    assert "its content has changed since" in said


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (("pretrained=nowhere",), "pretrained=nowhere is not there"),
        (("pretrained=.",), "has no model_index.json"),
        (("pretrained=FOLDER", "ckpt=runs/x"), "are both given"),
        ((), "ckpt is missing"),
        (("pretrained=FOLDER", "num_frames=6"), "num_frames=6 is not 4k+1 for AutoencoderKLWan; nearest: 5, 9"),
        (("pretrained=FOLDER", "height=17"), "height=17 is not 8k"),
    ],
)
def test_what_cannot_be_is_one_line(
    arguments: tuple[str, ...], match: str, folder: Path, command: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert match in refused(capsys, command, *(each.replace("FOLDER", str(folder)) for each in arguments), "prompt=x")


@pytest.mark.parametrize(
    ("file", "before", "after", "match"),
    [
        ("model_index.json", "WanPipeline", "SoraPipeline", "the class 'SoraPipeline' is not known here"),
        ("model_index.json", "{", "", "is not JSON"),
        ("model_index.json", '"boundary_ratio": null', '"boundary_ratio": 0.9', "a folder transformer_2 is missing"),
        ("scheduler/scheduler_config.json", "UniPCMultistepScheduler", "MagicScheduler", "MagicScheduler"),
        ("scheduler/scheduler_config.json", '"solver_order": 2', '"solver_order": "two"', "solver_order"),
        ("transformer/config.json", "WanTransformer3DModel", "SoraModel", "SoraModel"),
        ("vae/config.json", "AutoencoderKLWan", "AutoencoderKLSora", "AutoencoderKLSora"),
    ],
)
def test_a_damaged_folder_is_one_line(
    file: str, before: str, after: str, match: str, folder: Path, command: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    kept = (folder / file).read_text()
    assert before in kept
    (folder / file).write_text(kept.replace(before, after, 1))
    try:
        assert match in refused(capsys, command, f"pretrained={folder}", "prompt=x", *SMALL)
    finally:
        (folder / file).write_text(kept)


@pytest.mark.parametrize("part", ["transformer", "vae", "text_encoder", "tokenizer", "scheduler"])
def test_a_part_that_is_missing_is_one_line(
    part: str, folder: Path, command: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / part).rename(folder / "away")
    try:
        assert part in refused(capsys, command, f"pretrained={folder}", "prompt=x", *SMALL)
    finally:
        (folder / "away").rename(folder / part)
