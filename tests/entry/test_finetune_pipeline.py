"""A published model out of its folder, fine-tuned on own clips, and handed back as a folder that diffusers loads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dit.sampling.pipeline import Pipeline
from scripts.twins.pipelines import TWINS, Asked, noise_for, ours, relative, run, saved

pytest.importorskip("peft")
ASKED = Asked(["a red circle moves left", "a blue bar"], ["blurry", "ugly, blurry"], [3, 8], 3, 4.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    saved("wan", folder)
    return folder


@pytest.fixture
def train(command: Callable[..., None], folder: Path) -> Callable[..., None]:
    command("scripts/make_clips.py", "clips", "--videos", "3", "--images", "1")
    frames, height, width = TWINS["wan"].shape
    sizes = (f"data.num_frames={frames}", f"data.height={height}", f"data.width={width}", "data.num_workers=0")
    few = ("callbacks.validation.every=2", "callbacks.checkpoints.every=1", "sampling.num_steps=1", "optim.lr=0.01")

    def run(*arguments: str) -> None:
        command("train.py", "experiment=finetune", f"init_from={folder}", "data.root=clips", *sizes, *few, *arguments)

    return run


def samples(pipeline: Pipeline) -> tuple[torch.Tensor, torch.Tensor]:
    """(the noise, the latents that are made of it)."""
    noise = noise_for(pipeline, 2)
    settings = {"num_steps": ASKED.num_steps, "noise": noise, "negative_prompt": ASKED.negatives}
    return noise, pipeline(ASKED.prompts, ASKED.seeds, **settings).latents


def guided(run_or_file: str) -> Pipeline:
    from dit.sampling.guidance import AsTrained

    return Pipeline.from_checkpoint(run_or_file, "raw", "cpu", guidance=AsTrained(ASKED.scale, None, None))


def test_full_weights_come_back_as_a_pipeline(
    train: Callable[..., None], command: Callable[..., None], folder: Path, tmp_path: Path
) -> None:
    import diffusers

    train("trainer.max_steps=1", "name=tuned")
    train("trainer.max_steps=2", "name=tuned")  # the places are filled as before, so it goes on
    command("scripts/convert_weights.py", "runs/tuned", "exported", "--to", "pipeline", "--weights", "raw")
    theirs = diffusers.WanPipeline.from_pretrained("exported")
    theirs.set_progress_bar_config(disable=True)
    noise, made = samples(guided("runs/tuned"))
    assert relative(made, run(theirs, "wan", noise, ASKED, "latent")) < 1e-5
    before = diffusers.WanPipeline.from_pretrained(folder)
    assert relative(made, run(before, "wan", noise, ASKED, "latent")) > 1e-3, "nothing was trained"
    again = ours("wan", "exported", ASKED)
    assert torch.equal(samples(again)[1], made)


def test_adapters_come_back_as_a_lora_that_the_pipeline_loads(
    train: Callable[..., None], command: Callable[..., None], folder: Path
) -> None:
    import diffusers

    train("trainer.max_steps=2", "name=adapted", "lora=default", "lora.rank=2")
    command("scripts/convert_weights.py", "runs/adapted", "lora", "--to", "lora", "--weights", "raw")
    theirs = diffusers.WanPipeline.from_pretrained(folder)
    theirs.set_progress_bar_config(disable=True)
    noise, made = samples(guided("runs/adapted"))
    plain = run(theirs, "wan", noise, ASKED, "latent")
    theirs.load_lora_weights("lora")
    assert relative(made, run(theirs, "wan", noise, ASKED, "latent")) < 1e-5
    assert relative(made, plain) > 1e-4, "the adapters do nothing"


def test_what_cannot_be_is_one_line(
    train: Callable[..., None], command: Callable[..., None], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, match in (
        (("init_from=null", "name=a"), "net is that of a published model: init_from=DIR names its folder"),
        ((f"init_from={folder / 'transformer'}", "name=a"), "has no model_index.json"),
        (("init_from=nowhere", "name=a"), "init_from=nowhere is not there"),
        (("+net.depth=3", "name=a"), "net.depth cannot be set beside a published model"),
        (("data.num_frames=6", "name=a"), "num_frames=6 is not 4k+1"),
    ):
        with pytest.raises(SystemExit):
            train(*arguments)
        assert match in capsys.readouterr().err
        assert not Path("runs/a").exists()
