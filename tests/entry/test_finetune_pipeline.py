"""A published model out of its folder, fine-tuned on own clips by the commands, and handed back as a folder that
diffusers loads. Every family: tests/interop/test_finetune_families.py."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dit.sampling.guidance import AsTrained
from dit.sampling.pipeline import Pipeline
from scripts.twins.pipelines import TWINS, Asked, noise_for, ours, relative, run, saved
from tests import commands
from tests.engine import small

pytest.importorskip("peft")
ASKED = Asked(["a red circle moves left", "a blue bar"], ["blurry", "ugly, blurry"], [3, 8], 3, 4.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    for name in ("wan", "allegro"):
        saved(name, folder / name)
    return folder


@pytest.fixture
def clips(command: Callable[..., None]) -> None:
    command("scripts/make_dataset.py", "world", "clips", "--videos", "3", "--images", "1")


def told(folder: Path, *arguments: str, name: str = "wan") -> list[str]:
    """Arguments of train.py."""
    frames, height, width = TWINS[name].shape
    sizes = (f"data.num_frames={frames}", f"data.height={height}", f"data.width={width}", "data.num_workers=0")
    few = ("callbacks.validation.every=2", "callbacks.checkpoints.every=1", "sampling.num_steps=1", "optim.lr=0.01")
    return ["experiment=finetune", f"init_from={folder / name}", "data.root=clips", *sizes, *few, *arguments]


def samples(pipeline: Pipeline) -> tuple[torch.Tensor, torch.Tensor]:
    """(the noise, the latents that are made of it)."""
    noise = noise_for(pipeline, 2)
    settings = {"num_steps": ASKED.num_steps, "noise": noise, "negative_prompt": ASKED.negatives}
    return noise, pipeline(ASKED.prompts, ASKED.seeds, **settings).latents


@pytest.mark.timeout(900)
def test_killed_gone_on_with_and_handed_back(
    command: Callable[..., None], clips: None, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Bit for bit, with validation and previews; the weights of the last step come back as a pipeline."""
    import diffusers

    asked = told(folder, "trainer.max_steps=3", "data.image_frames=1", "net/checkpointing=blocks", "name=tuned")
    killed = commands.run("tests/engine/killed_job.py", *asked, cwd=tmp_path, KILL_AT="2", KILL_WITH="KILL")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert small.load(Path("runs/tuned"))["global_step"] == 2
    command("train.py", *asked, "codec.batch=2", "show=true")
    shown = capsys.readouterr().out
    assert "left to the model of init_from:" in shown and "  codec.batch: 2" in shown and "OfInit" not in shown
    command("train.py", *asked)
    command("train.py", *asked, "name=straight")
    tuned, straight = (small.load(Path("runs") / name) for name in ("tuned", "straight"))
    assert [at for key in small.EXACT for at in small.same(tuned[key], straight[key], key)] == []

    command("scripts/convert_weights.py", "runs/tuned", "exported", "--to", "pipeline", "--weights", "raw")
    theirs = diffusers.WanPipeline.from_pretrained("exported")
    theirs.set_progress_bar_config(disable=True)
    pipeline = Pipeline.from_checkpoint("runs/tuned", "raw", "cpu", guidance=AsTrained(ASKED.scale, None, None))
    noise, made = samples(pipeline)
    assert relative(made, run(theirs, "wan", noise, ASKED, "latent")) < 1e-5
    before = diffusers.WanPipeline.from_pretrained(folder / "wan")
    assert relative(made, run(before, "wan", noise, ASKED, "latent")) > 1e-3, "nothing was trained"
    assert torch.equal(samples(ours("wan", "exported", ASKED))[1], made)

    # Where the folder has moved, the export asks for it.
    moved = (folder / "wan").rename(folder / "moved")
    try:
        with pytest.raises(ValueError, match="--pipeline DIR says where it lies"):
            command("scripts/convert_weights.py", "runs/tuned", "again", "--to", "pipeline")
        command("scripts/convert_weights.py", "runs/tuned", "again", "--to", "pipeline", "--pipeline", str(moved))
    finally:
        moved.rename(folder / "wan")
    assert sorted(file.name for file in Path("again").iterdir()) == sorted(
        file.name for file in Path("exported").iterdir()
    )
    for arguments, match in (
        (("--to", "pipeline", "--low-noise", "runs/straight"), "SOURCE is to be a run of the first network"),
        (("--to", "diffusers", "--pipeline", "x"), "--pipeline x is for --to pipeline"),
    ):
        with pytest.raises(ValueError, match=match):
            command("scripts/convert_weights.py", "runs/tuned", "wrong", *arguments)
        assert not Path("wrong").exists()


def test_what_cannot_be_is_one_line(
    command: Callable[..., None], clips: None, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, match in (
        (("init_from=null",), "net is that of a published model: init_from=DIR names its folder"),
        ((f"init_from={folder / 'wan' / 'transformer'}",), "has no model_index.json"),
        (("init_from=nowhere",), "init_from=nowhere is not there"),
        (("+net.depth=3",), "net.depth cannot be set beside a published model"),
        (("data.num_frames=6",), "num_frames=6 is not 4k+1"),
        (("init_expert=low",), "init_expert=low chooses one of two networks by noise level, and"),
        (("init_expert=middle",), "init_expert=middle is not one of high, low or null"),
        (("init_from=null", "init_expert=low"), "chooses among the networks of init_from=DIR, which is not given"),
        (("data.num_frames=161",), "1.97 s are too short for 161 frames at 16 fps (10.00 s); 32 frames fit"),
    ):
        with pytest.raises(SystemExit):
            command("train.py", *told(folder, *arguments, "name=a"))
        said = capsys.readouterr().err
        assert match in said and "Traceback" not in said, said
        assert not Path("runs/a/checkpoints/last.ckpt").exists()
    for key in ("num_frames", "image_frames"):  # its codec takes no image
        with pytest.raises(SystemExit):
            command("train.py", *told(folder, "name=b", f"data.{key}=1", name="allegro"))
        assert "num_frames=1 is not 4k for AutoencoderKLAllegro; nearest: 4" in capsys.readouterr().err
