"""`sample.py` as a user starts it, on a checkpoint of the real network, codec and text encoder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import av
import hydra
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image

from dit.sampling.request import Request, output_folder, requests
from tests.sampling.fakes import random_frames

ROOT = Path(__file__).resolve().parents[2]
SMALL = [
    "net=demo", "net.width=32", "net.depth=1", "net.heads=2", "net.text_width=16", "text=bytes", "text.width=16",
    "text.depth=1", "text.heads=2", "codec=pixel", "path=linear", "prediction=v", "schedule=shifted", "solver=euler",
    "guidance=cfg", "sampling.num_steps=3", "net.patch=[2,4,4]",
]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """runs/mine with a checkpoint of an untrained, randomly initialised network."""
    with hydra.initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        composed = hydra.compose("train", overrides=["name=mine", *SMALL])
    config = OmegaConf.to_container(composed, resolve=True)
    assert isinstance(config, dict)
    kept = {key: config[key] for key in ("net", "codec", "text", "path", "prediction", "sampling")}
    kept["data"] = {"num_frames": 4, "height": 16, "width": 16, "fps": 8}
    torch.manual_seed(0)
    weights = {}
    for name in ("net", "text"):
        part = instantiate(kept[name], _convert_="all")
        for parameter in part.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
        weights |= {f"{name}.{key}": value for key, value in part.state_dict().items()}
    run = tmp_path_factory.mktemp("work") / "runs" / "mine"
    (run / "checkpoints").mkdir(parents=True)
    content = {"state_dict": weights, "ema": {"0.1": {}}, "config": kept}
    content["ema"] = {"0.1": {key: value.float() for key, value in weights.items()}}
    torch.save(content, run / "checkpoints" / "last.ckpt")
    Image.fromarray(random_frames(0, 1, 16, 16)[0]).save(run.parent.parent / "frame.png")
    (run.parent.parent / "prompts.txt").write_text("a red circle\n\na blue square\n")
    return run


def sample(run: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(ROOT / "sample.py"), *arguments]
    return subprocess.run(command, cwd=run.parent.parent, capture_output=True, text=True, env=environment)


@pytest.mark.slow
def test_samples_are_written_and_their_paths_printed(run: Path) -> None:
    done = sample(
        run, "ckpt=runs/mine", "task=i2v", "image=frame.png", "prompt=a red circle moves right", "seed=3",
        "num_samples=2", "solver=heun", "num_steps=2", "guidance.scale=4",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    folder = run / "samples" / "001"
    names = [f"a-red-circle-moves-right-seed-{seed}" for seed in (3, 4)]
    printed = [line for line in done.stdout.splitlines() if line.startswith("runs/")]
    assert printed == [f"runs/mine/samples/001/{name}" for name in (*(f"{n}.mp4" for n in names), "sheet.png")]
    assert "s a step, peak memory" in done.stdout
    for name, seed in zip(names, (3, 4), strict=True):
        facts = json.loads((folder / f"{name}.json").read_text())
        assert (facts["prompt"], facts["seed"], facts["weights"]) == ("a red circle moves right", seed, "ema:0.1")
        assert facts["solver"] == "Heun()" and facts["num_steps"] == 2 and "scale=4" in facts["guidance"]
        assert facts["task"] == "ImageToVideo" and facts["checkpoint"] == "runs/mine"
        with av.open(str(folder / f"{name}.mp4")) as video:
            assert len(list(video.decode(video=0))) == 4 and video.metadata["seed"] == str(seed)
    assert json.loads(Image.open(folder / "sheet.png").text["settings"])[1]["seed"] == 4  # type: ignore[attr-defined]


@pytest.mark.slow
def test_a_users_mistakes_are_one_line_and_write_nothing(run: Path) -> None:
    before = sorted(run.rglob("*"))
    for arguments, message in [
        (["ckpt=runs/mien"], "checkpoint or run runs/mien is not there; in runs: mine"),
        (["ckpt=runs/mine", "task=i2v", "image=farme.png"], "image farme.png is not there; in .: frame.png"),
        (["ckpt=runs/mine", "image=frame.png"], "unknown config key 'image'"),
    ]:
        done = sample(run, *arguments)
        errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert done.returncode == 2 and len(errors) == 1 and message in errors[0], (arguments, done.stderr)
        assert "Traceback" not in done.stderr
    assert sorted(run.rglob("*")) == before


def test_prompts_and_seeds(run: Path) -> None:
    file = str(run.parent.parent / "prompts.txt")
    assert requests(None, None, "", 1, 5) == [Request("", "", 5)]
    assert requests("x", None, "grey", 2, 5) == [Request("x", "grey", 5), Request("x", "grey", 6)]
    pairs = [("a red circle", 0), ("a red circle", 1), ("a blue square", 2), ("a blue square", 3)]
    assert [(each.prompt, each.seed) for each in requests(None, file, "", 2, 0)] == pairs


def test_mistakes_in_what_is_asked(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("\n \n")
    for arguments, message in [
        (("x", str(tmp_path / "empty.txt"), "", 1, 0), "both given"),
        ((None, str(tmp_path / "empty.txt"), "", 1, 0), "holds no prompt"),
        (("x", None, "", 0, 0), "num_samples=0"),
    ]:
        with pytest.raises(ValueError, match=message):
            requests(*arguments)


def test_a_prompt_file_that_is_not_there(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.parent.parent)
    with pytest.raises(FileNotFoundError, match="prompt file promts.txt is not there; in .: prompts.txt"):
        requests(None, "promts.txt", "", 1, 0)


def test_each_command_gets_a_folder_of_its_own(run: Path, tmp_path: Path) -> None:
    assert output_folder("here", "anything") == Path("here")
    file = tmp_path / "checkpoints" / "last.ckpt"
    file.parent.mkdir()
    file.touch()
    assert output_folder(None, str(tmp_path)) == tmp_path / "samples" / "001"
    (tmp_path / "samples" / "007").mkdir(parents=True)
    (tmp_path / "samples" / "step-00000200").mkdir()
    assert output_folder(None, str(file)) == tmp_path / "samples" / "008"
