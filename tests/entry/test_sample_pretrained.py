"""A published model's folder on the command line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from dit.text import pretrained
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


PARTS = {
    "codec/tiling=tiles codec.tiling.height=8 codec.tiling.width=16 codec.tiling.overlap=0": "codec",
    "codec.dtype=bfloat16": "codec",
    "text.dtype=bfloat16": "text",
    "net.dtype=bfloat16": "net",
}


def test_what_is_changed_in_a_part_is_recorded_and_heard_again(folder: Path, command: Callable[..., None]) -> None:
    asked = (f"pretrained={folder}", "prompt=a red circle", *SMALL)
    command("sample.py", *asked, "out=plain")
    assert "parts" not in json.loads(next(Path("plain").glob("*seed-0.json")).read_text())
    command("sample.py", *asked, "text.dtype=float64", "out=precise")  # than the network
    for number, (said, part) in enumerate(PARTS.items()):
        mine, again = Path(f"mine-{number}"), Path(f"again-{number}")
        command("sample.py", *asked, *said.split(), f"out={mine}")
        (file,) = mine.glob("*seed-0.json")
        assert list(json.loads(file.read_text())["parts"]) == [part]
        command("sample.py", f"again={file}", f"out={again}")
        videos = [next(each.glob("*.mp4")).read_bytes() for each in (Path("plain"), mine, again)]
        assert videos[1] == videos[2] and videos[0] != videos[1], said


def test_facts_of_strangers_change_what_sampling_changes_alone(
    folder: Path, command: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    command("sample.py", f"pretrained={folder}", "prompt=a red circle", "out=mine", "codec.dtype=bfloat16", *SMALL)
    capsys.readouterr()
    (file,) = Path("mine").glob("*seed-0.json")
    fact = json.loads(file.read_text())
    for parts, match in (
        (
            {"codec": {"folder": "elsewhere"}},
            "codec.folder is not changed by sampling; there are net.dtype, codec.dtype",
        ),
        ({"codec": {"dtype": "int8"}}, "codec.dtype"),
        ({"codec": {"tiling": {"_target_": "os.system"}}}, "os.system"),
        ({"net": {"dtype": "int8"}}, "net.dtype='int8' is not one of float32"),
        ({"path": {}}, "'path' is no part"),
        ({"text": {"dtype": "int8"}}, "text.dtype='int8' is not one of"),
        ([1], "'[1]' is no part"),
    ):
        file.write_text(json.dumps({**fact, "parts": parts}))
        assert match in refused(capsys, command, f"again={file}", "out=again")


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
        (("pretrained=FOLDER", "codec.dtype=int8"), "codec.dtype=int8 is not one of own, float32"),
        (("pretrained=FOLDER", "codec.batch=0"), "codec.batch=0"),
        (("pretrained=FOLDER", "codec.tiling.height=8"), "codec.tiling.height is a value of codec/tiling=tiles, which"),
        (("pretrained=FOLDER", "schedule.lag=5"), "schedule.lag is a value of schedule=pyramid, which is not chosen"),
        (("pretrained=FOLDER", "codec/tiling=tiles", "codec.tiling.height=4"), "tiling.height=4 is less than the 8"),
        (("pretrained=FOLDER", "precision=int8"), "precision=int8 is no floating-point dtype"),
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


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def pickled(file: Path) -> None:
    """As older folders are: the same weights under a name that says so."""
    file.rename(file.with_name("pytorch_model.bin" if file.stem == "model" else "diffusion_pytorch_model.bin"))


def without_one(file: Path) -> None:
    weights = load_file(file)
    del weights[min(weights)]
    save_file(weights, file, metadata={"format": "pt"})


def of_another_shape(file: Path) -> None:
    weights = load_file(file)
    name = min(name for name in weights if weights[name].ndim > 1)
    save_file({**weights, name: weights[name][:1].clone()}, file, metadata={"format": "pt"})


WEIGHTS = {
    "transformer": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
}
SPOILED = [
    *((f"{part}/{file}", cut, "is no whole safetensors file") for part, file in WEIGHTS.items()),
    *((f"{part}/{file}", pickled, "is a pickle, which may run code") for part, file in WEIGHTS.items()),
    *((f"{part}/{file}", Path.unlink, "is not there, nor is") for part, file in WEIGHTS.items()),
    ("transformer/diffusion_pytorch_model.safetensors", without_one, "is missing"),
    ("vae/diffusion_pytorch_model.safetensors", without_one, "is missing: it does not fit its config.json"),
    ("text_encoder/model.safetensors", without_one, "lacks 1 of the weights"),
    ("transformer/diffusion_pytorch_model.safetensors", of_another_shape, "has the shape (1, 24), needed (24, 24)"),
    ("vae/diffusion_pytorch_model.safetensors", of_another_shape, "needed torch.float32 (3, 16, 3, 3, 3)"),
    ("text_encoder/model.safetensors", of_another_shape, "has the shape (1, 32), needed (32, 32)"),
    ("tokenizer/tokenizer.json", Path.unlink, "tokenizer has no tokenizer.json"),
    ("tokenizer/tokenizer.json", cut, "tokenizer cannot be read"),
    ("tokenizer/tokenizer_config.json", Path.unlink, "has no tokenizer_config.json: fetch the model whole"),
]


def test_what_is_damaged_or_a_pickle_is_one_line_and_leaves_nothing(
    folder: Path, command: Callable[..., None], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found by the heads of the files where these tell it: before a folder of samples is made, or an encoder read."""
    loads: list[Path] = []
    load = pretrained.load_encoder
    monkeypatch.setattr(pretrained, "load_encoder", lambda *asked: loads.append(asked[0]) or load(*asked))
    for number, (name, spoil, match) in enumerate(SPOILED):
        spoiled = Path(f"model-{number}")
        shutil.copytree(folder, spoiled)
        spoil(spoiled / name)
        said = refused(capsys, command, f"pretrained={spoiled}", "prompt=x", "out=samples", *SMALL)
        assert match in said and name.partition("/")[0] in said, name
    assert len(loads) == 2, "of an encoder that lacks a weight, or has one of another shape, only its library tells"


def test_an_image_of_another_aspect_is_said_in_one_line(
    command: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    saved("ltx_image", Path("model"))
    Image.new("RGB", (128, 32), "red").save("wide.png")
    size = ("num_frames=9", "height=32", "width=64", "num_steps=1")
    asked = ("pretrained=model", "prompt=x", "task=i2v", "image=wide.png", *size)
    command("sample.py", *asked, "out=cut")
    (said,) = [line for line in capsys.readouterr().out.splitlines() if "wide.png" in line]
    assert said.endswith("50% of it is cut off, left and right; fit=pad and fit=stretch keep all of it")
    command("sample.py", *asked, "fit=pad", "out=padded")
    assert "50% of the frame is black beside it" in capsys.readouterr().out


@pytest.mark.parametrize("part", ["transformer", "vae", "text_encoder", "tokenizer", "scheduler"])
def test_a_part_that_is_missing_is_one_line(
    part: str, folder: Path, command: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / part).rename(folder / "away")
    try:
        assert part in refused(capsys, command, f"pretrained={folder}", "prompt=x", *SMALL)
    finally:
        (folder / "away").rename(folder / part)
