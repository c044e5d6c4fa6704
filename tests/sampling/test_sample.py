"""`sample.py` as a user starts it, on a checkpoint of the real network, codec and text encoder."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import av
import hydra
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image

from dit.config.build import build
from dit.media.samples import SampleSet
from dit.sampling.ranks import Ranks
from dit.sampling.request import Request, requests, take_folder
from dit.sampling.session import Session, session
from tests import commands
from tests.sampling.fakes import random_frames, write_lossless

ALONE = Ranks(0, 1)
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
    content = {"state_dict": weights, "ema": {"0.1": {}}, "config": kept, "global_step": 12}
    content["ema"] = {"0.1": {key: value.float() for key, value in weights.items()}}
    torch.save(content, run / "checkpoints" / "last.ckpt")
    Image.fromarray(random_frames(0, 1, 16, 16)[0]).save(run.parent.parent / "frame.png")
    (run.parent.parent / "prompts.txt").write_text("a red circle\n\na blue square\n")
    return run


def sample(run: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return commands.run("sample.py", *arguments, cwd=run.parent.parent, CUDA_VISIBLE_DEVICES="")


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
    assert re.search(r"\d s a step, peak memory [\d.]+ GB of the host", done.stdout)
    for name, seed in zip(names, (3, 4), strict=True):
        facts = json.loads((folder / f"{name}.json").read_text())
        assert (facts["prompt"], facts["seed"], facts["weights"]) == ("a red circle moves right", seed, "ema:0.1")
        assert facts["solver"]["_target_"].endswith("Heun") and facts["num_steps"] == 2
        assert facts["guidance"]["scale"] == 4 and facts["task"]["image"] == "frame.png"
        assert facts["checkpoint"]["path"] == "runs/mine/checkpoints/last.ckpt"
        with av.open(str(folder / f"{name}.mp4")) as video:
            assert len(list(video.decode(video=0))) == 4 and video.metadata["seed"] == str(seed)
    assert json.loads(Image.open(folder / "sheet.png").text["settings"])[1]["seed"] == 4  # type: ignore[attr-defined]


@pytest.mark.slow
def test_a_users_mistakes_are_one_line_and_write_nothing(run: Path) -> None:
    before = sorted(run.rglob("*"))
    for arguments, message in [
        (["ckpt=runs/mien"], "checkpoint or run runs/mien is not there; in runs: mine"),
        (["ckpt=runs/mine", "task=i2v", "image=farme.png"], "image farme.png is not there; in .: frame.png"),
        (["ckpt=runs/mine", "image=frame.png"], "image is a value of task=first_last or task=i2v or task=loop, which"),
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


def test_each_command_gets_a_folder_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "checkpoints" / "last.ckpt"
    file.parent.mkdir()
    file.touch()
    (tmp_path / "samples" / "step-00000200").mkdir(parents=True)
    with ThreadPoolExecutor(8) as pool:  # at once
        taken = list(pool.map(lambda seed: take_folder(None, str(file), [{"seed": seed}]), range(16)))
    assert sorted(taken) == [tmp_path / "samples" / f"{number:03d}" for number in range(1, 17)]
    assert take_folder(None, str(tmp_path), []) == tmp_path / "samples" / "017"


def test_a_used_folder_is_taken_for_the_same_request_alone(tmp_path: Path) -> None:
    out, used = tmp_path / "deep" / "out", tmp_path / "used"
    assert take_folder(str(out), "", [{"seed": 1}]) == out
    (out / "x.mp4").touch()
    assert take_folder(str(out), "", [{"seed": 1}]) == out, "goes on"
    used.mkdir()
    (used / "thesis.txt").touch()
    for given, message in (
        (out, "samples of another request"),
        (used, "holds thesis.txt"),
        (used / "thesis.txt", "file"),
    ):
        with pytest.raises(ValueError, match=message):
            take_folder(str(given), "", [{"seed": 2}])


def ask(run: Path, *overrides: str) -> dict[str, Any]:
    with hydra.initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        return build(OmegaConf.to_container(hydra.compose("sample", [f"ckpt={run}", *overrides]), resolve=True))


def write(asked: Session, folder: Path, stop_after: int | None = None, ranks: Ranks = ALONE) -> SampleSet:
    samples = SampleSet(folder, asked.facts)
    for clip in itertools.islice(asked.clips(samples.has, ranks), stop_after):
        samples.write(*clip)
    return samples


def test_a_sample_is_made_again_from_its_json_byte_for_byte(run: Path, tmp_path: Path) -> None:
    root = run.parent.parent
    asked = session(ask(
        run, "task=v2v", f"video={clip_file(tmp_path)}", "strength=0.5", f"prompt_file={root / 'prompts.txt'}",
        "batch_size=3", "num_samples=2", "num_steps=4", "solver=ddim", "solver.eta=0.5", "guidance.scale=3",
        "negative_prompt=blue",
    ))  # fmt: skip
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    first = write(asked, tmp_path / "one")
    fact = json.loads(first.videos[1].with_suffix(".json").read_text())
    assert fact["num_steps"] == 4 and fact["steps_taken"] < 4 and fact["task"]["strength"] == 0.5
    assert len(fact["files"]["video"]["sha256"]) == 64 and fact["checkpoint"]["step"] == 12
    once_more = session({**ask(run), "ckpt": None, "again": str(first.videos[1].with_suffix(".json"))})
    second = write(once_more, tmp_path / "two")
    for ending in (".mp4", ".json"):
        old, new = (each.with_suffix(ending).read_bytes() for each in (first.videos[1], second.videos[0]))
        assert old == new
    latents = [next(iter(each.pipeline.make(each.job, [0]))).latents for each in (asked, once_more)]
    assert torch.equal(*latents)


def test_levels_of_frames_from_the_command_line(run: Path, tmp_path: Path) -> None:
    """`schedule=pyramid` goes through the run's own schedule, with given frames, and is made again from its JSON."""
    image = run.parent.parent / "frame.png"
    asked = session(ask(run, "schedule=pyramid", "schedule.lag=2", "task=i2v", f"image={image}", "num_steps=3"))
    assert [len(levels) for levels in asked.job.levels] == [6], "two frames of tokens, the first not wholly given"
    assert asked.facts[0]["schedule"]["schedule"] == {"_target_": "dit.sampling.schedule.Shifted", "shift": 5.0}
    (latents,) = (each.latents for each in asked.pipeline.make(asked.job, [0]))
    samples = SampleSet(tmp_path, asked.facts)
    (tmp_path / "x.json").write_text(json.dumps(samples.facts[0]))
    once_more = session({**ask(run), "ckpt": None, "again": str(tmp_path / "x.json")})
    assert torch.equal(latents, next(iter(once_more.pipeline.make(once_more.job, [0]))).latents)
    with pytest.raises(ValueError, match="schedule.lag=-1"):
        session(ask(run, "schedule=pyramid", "schedule.lag=-1"))


def test_what_has_changed_since_is_refused(run: Path, tmp_path: Path) -> None:
    frame = tmp_path / "frame.png"
    Image.new("RGB", (16, 16), "red").save(frame)
    asked = session(ask(run, "task=i2v", f"image={frame}", "num_steps=2"))
    fact = asked.facts[0]
    Image.new("RGB", (16, 16), "blue").save(frame)

    def again(**changes: Any) -> Session:
        (tmp_path / "x.json").write_text(json.dumps({**fact, **changes}))
        return session({**ask(run), "again": str(tmp_path / "x.json")})

    run_something = {"_target_": "os.system", "command": "touch x"}
    for made, message in [
        (lambda: again(), "frame.png is not the file that the sample was made from"),
        (lambda: again(files={}, checkpoint={**fact["checkpoint"], "sha256": "0"}), "last.ckpt is not the file"),
        (lambda: again(files={}, solver=run_something), "solver._target_ asks for os.system"),
        (lambda: again(files={}, batch={"position": 3, "samples": [["x", "", 0, None]]}), "does not say how"),
        (lambda: again(files={}, batch={"position": 0, "samples": [["x", "", "0", None]]}), "does not say how"),
    ]:
        with pytest.raises(ValueError, match=message) as caught:
            made()
        assert "\n" not in str(caught.value)
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        session({**ask(run), "again": str(tmp_path / "x.json")})


def test_a_command_that_was_stopped_goes_on_and_ranks_change_nothing(run: Path, tmp_path: Path) -> None:
    asked = session(ask(run, "num_samples=5", "batch_size=2", "num_steps=2"))
    folders = [tmp_path / name for name in ("whole", "stopped", "ranks")]
    for folder in folders:
        folder.mkdir()
    whole = write(asked, folders[0])
    write(asked, folders[1], stop_after=3)
    assert len(list(folders[1].glob("*.json"))) == 3, "each is there as it comes"
    made = list(asked.clips(SampleSet(folders[1], asked.facts).has, ALONE))
    assert [index for index, _ in made] == [2, 3, 4], "whole batches, and no more of them"
    write(asked, folders[1])
    for rank in range(2):
        write(asked, folders[2], ranks=Ranks(rank, 2))
    for folder in folders[1:]:
        assert [(folder / path.name).read_bytes() for path in whole.videos] == [p.read_bytes() for p in whole.videos]


def clip_file(folder: Path) -> Path:
    return write_lossless(folder / "clip.mkv", random_frames(1, 4, 16, 16), 8)
