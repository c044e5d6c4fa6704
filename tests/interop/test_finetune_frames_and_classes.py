"""Published models that are told more than a text and one level: SkyReels-V2's diffusion forcing, with a noise level
for each frame, and DiT, with a class. Fine-tuned out of their folders and handed back to diffusers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from dit.sampling.guidance import AsTrained
from dit.sampling.pipeline import Pipeline
from scripts.twins.pipelines import TWINS, noise_for, relative
from scripts.twins.pipelines import run as of_diffusers
from tests.interop.test_finetune_families import (
    ASKED,
    Model,
    clips,
    config,
    convert,
    differs,
    here,
    loaded,
    pictures,
    samples,
    train,
)

pytestmark = pytest.mark.timeout(900)
__all__ = ["clips", "here", "pictures"]  # fixtures


def test_diffusion_forcing_comes_back_as_a_pipeline(
    clips: Path, here: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """In full and by adapters; stopped and gone on with bit for bit, with levels that are drawn for each frame."""
    model = Model.saved("skyreels_v2_forcing", tmp_path_factory)
    asked = config(model, clips, name="tuned")
    straight = train(asked, 2, name="straight")
    assert straight["config"]["levels"]["_target_"].endswith("PerFrame")
    train(asked, 1)
    assert differs(train(asked, 2), straight) == []
    convert(monkeypatch, "runs/tuned", "exported", "--to", "pipeline")
    noise, made = samples(model, "runs/tuned")
    before = of_diffusers(model.theirs, model.name, noise, ASKED, "latent")
    assert relative(made, of_diffusers(loaded(model, "exported"), model.name, noise, ASKED, "latent")) < 1e-5
    assert relative(made, before) > 1e-3, "nothing was trained"

    train(config(model, clips, "lora=default", "lora.rank=2", name="adapted"), 2)
    convert(monkeypatch, "runs/adapted", "lora", "--to", "lora")
    theirs = loaded(model, model.folder)
    theirs.load_lora_weights("lora")
    made = samples(model, "runs/adapted")[1]
    assert relative(made, of_diffusers(theirs, model.name, noise, ASKED, "latent")) < 1e-5
    assert relative(made, before) > 1e-4, "they do nothing"


def test_a_network_of_classes_comes_back_as_a_pipeline(
    here: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """On pictures whose folders are their classes, the first ones of the network's; adapters are merged, as the class
    of diffusers loads none."""
    for number, name in enumerate(("a", "b")):
        Path("pictures", name).mkdir(parents=True)
        drawn = Image.radial_gradient("L").rotate(40 * number).convert("RGB").resize((64, 64))
        drawn.save(Path("pictures", name, "one.png"))
    model = Model.saved("dit", tmp_path_factory)
    asked = config(model, Path("pictures"), "data.labels=folder", name="tuned")
    straight = train(asked, 2, name="straight")
    assert straight["classes"] == ["a", "b"]
    train(asked, 1)
    assert differs(train(asked, 2), straight) == []
    convert(monkeypatch, "runs/tuned", "exported", "--to", "pipeline")
    train(config(model, Path("pictures"), "data.labels=folder", "lora=default", "lora.rank=2", name="adapted"), 2)
    with pytest.raises(ValueError, match="of diffusers loads no adapters: write the weights with them merged"):
        convert(monkeypatch, "runs/adapted", "lora", "--to", "lora")
    convert(monkeypatch, "runs/adapted", "merged", "--to", "pipeline")

    classes, (_, height, width) = replace(ASKED, prompts=["0", "1"]), TWINS["dit"].shape
    for run, folder in (("tuned", "exported"), ("adapted", "merged")):
        pipeline = Pipeline.from_checkpoint(
            f"runs/{run}", device="cpu", num_frames=1, height=height, width=width, num_steps=classes.num_steps,
            guidance=AsTrained(1.0, None, None),
        )  # fmt: skip
        noise = noise_for(pipeline, 2)
        made = pipeline(["a", "b"], classes.seeds, noise=noise).latents
        assert torch.equal(pipeline(["0", "1"], classes.seeds, noise=noise).latents, made)
        assert relative(made, of_diffusers(loaded(model, folder), "dit", noise, classes, "latent")) < 1e-5
        assert relative(made, of_diffusers(model.theirs, "dit", noise, classes, "latent")) > 1e-4, "nothing was trained"
