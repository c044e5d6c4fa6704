"""Wan's image-to-video models, fine-tuned out of their folders and handed back to diffusers."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from torch import Tensor

from data.batch import Batch
from dit.encoders import to_bytes
from dit.engine import initial, pictures, run
from dit.sampling.guidance import AsTrained
from dit.sampling.pipeline import Pipeline
from scripts import cache_latents
from scripts.twins.pipelines import TWINS, noise_for, relative
from scripts.twins.pipelines import run as of_diffusers
from tests.data.videos import write_numbered
from tests.interop.test_finetune_families import (
    ASKED,
    PROMPTS,
    Model,
    config,
    convert,
    differs,
    loaded,
    train,
    with_adapters,
)
from tests.interop.training_reference import OneLevel, by_mean_and_std

NAMES = ("wan_image", "wan_first_last", "wan22_image", "wan22_5b_image")
SEEN = ("preview=real_clips", "callbacks.validation.every=2", "data.val_clips=1", "sampling.num_steps=1")


@pytest.fixture(scope="module", params=NAMES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    return Model.saved(request.param, tmp_path_factory)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    for name in "abcd":
        write_numbered(folder / f"{name}.mp4", fps=30)
        (folder / f"{name}.txt").write_text(f"a red circle {name}")
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def samples(model: Model, name: str = "tuned") -> tuple[Tensor, Tensor]:
    """(the noise, the latents that a run of ours makes of it and the twin's pictures)."""
    frames, height, width = TWINS[model.name].shape
    pipeline = Pipeline.from_checkpoint(
        f"runs/{name}", device="cpu", guidance=AsTrained(ASKED.scale, None, None), num_frames=frames, height=height,
        width=width,
    )  # fmt: skip
    noise = noise_for(pipeline, 2)
    task = TWINS[model.name].task
    return noise, pipeline(ASKED.prompts, ASKED.seeds, task, noise=noise, num_steps=ASKED.num_steps).latents


@pytest.mark.timeout(900)
def test_weights_come_back_as_a_pipeline(
    model: Model, clips: Path, here: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Stopped and gone on with bit for bit, with validation and previews, which begin with pictures of clips."""
    if model.name not in ("wan_image", "wan22_5b_image"):
        pytest.skip("the same commands, on parts that other tests hold")
    asked = config(model, clips, *SEEN, name="tuned")
    straight = train(asked, 2, name="straight")
    train(asked, 1)
    assert differs(train(asked, 2), straight) == []
    assert "no preview at step" not in caplog.text and "told the picture" not in caplog.text
    assert len(list(Path("runs/tuned/samples/step-00000002").glob("*.mp4"))) == 4
    convert(monkeypatch, "runs/tuned", "exported", "--to", "pipeline")
    noise, made = samples(model)
    assert relative(made, of_diffusers(loaded(model, "exported"), model.name, noise, ASKED, "latent")) < 1e-5
    assert relative(made, of_diffusers(model.theirs, model.name, noise, ASKED, "latent")) > 1e-3, "nothing was trained"


def test_adapters_come_back_as_a_lora(model: Model, clips: Path, here: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a network that is shown the picture beside the clip and through CLIP; stopped and gone on with."""
    if model.name != "wan_image":
        pytest.skip("the same commands, on parts that other tests hold")
    theirs = with_adapters(model, clips, monkeypatch)
    noise, made = samples(model, "adapted")
    assert relative(made, of_diffusers(theirs, model.name, noise, ASKED, "latent")) < 1e-5
    assert relative(made, of_diffusers(model.theirs, model.name, noise, ASKED, "latent")) > 1e-4, "they do nothing"


@pytest.mark.timeout(900)
def test_latents_made_beforehand_train_it_alike(model: Model, clips: Path, here: None) -> None:
    """Bit for bit, with latents of the given frames and the pictures that CLIP and previews see, without the clips."""
    if model.name != "wan_first_last":
        pytest.skip("the same commands, on parts that other tests hold")
    asked = config(model, clips, *SEEN, "codec.batch=1", name="tuned")
    straight = train(asked, 2, name="straight")
    cache_latents.make(cache_latents.Asked(out="cache"), asked)
    clips.rename(clips.with_name("gone"))
    try:
        data = {**asked["data"], "cache": "cache", "root": None}
        assert differs(train({**asked, "data": data}, 2, name="cached"), straight) == []
    finally:
        clips.with_name("gone").rename(clips)


def picture(pixels: Tensor) -> Image.Image:
    """(3, H, W) in [-1, 1]."""
    return Image.fromarray(to_bytes(pixels).permute(1, 2, 0).numpy())


def loss_of_the_trainer(model: Model, pixels: Tensor, eps: Tensor, prompts: list[str], sigma: float) -> Tensor:
    """Flow matching of the pipeline's own parts, with what its call shows the network: the conditions of
    `prepare_latents`, CLIP's embedding of the pictures, and the timestep in whole numbers."""
    theirs, (frames, height, width) = model.theirs, TWINS[model.name].shape
    losses = []
    for clip, noise, prompt in zip(pixels.split(1), eps.split(1), prompts, strict=True):
        x0 = by_mean_and_std(theirs, clip)
        x_t = (1 - sigma) * x0 + sigma * noise
        last = clip[:, :, -1] if model.name == "wan_first_last" else None
        sizes = (1, 16, height, width, frames, torch.float32, torch.device("cpu"))
        _, condition, *mask = theirs.prepare_latents(clip[:, :, 0], *sizes, latents=x_t, last_image=last)
        text, _ = theirs.encode_prompt(prompt, do_classifier_free_guidance=False, max_sequence_length=512)
        seen = [picture(clip[0, :, at]) for at in ([0] if last is None else [0, -1])]
        image = theirs.encode_image(seen, torch.device("cpu")) if theirs.image_encoder is not None else None
        timestep = torch.tensor([int(1000 * sigma)])
        if mask:  # the first frame stands in the clip, at timestep 0
            x = (1 - mask[0]) * condition + mask[0] * x_t
            timestep = (mask[0][0, 0][:, ::2, ::2] * timestep).flatten()[None]
        else:
            x = torch.cat([x_t, condition], 1)
        out = theirs.transformer(x, timestep, text, image, return_dict=False)[0]
        away = (out - (noise - x0))[:, :, 1 if mask else 0 :]
        losses.append(away.square().mean())
    return torch.stack(losses).mean()


def test_a_step_has_the_loss_of_the_public_trainer(
    model: Model, clips: Path, here: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its mask and image channels; over all frames where they are shown beside."""
    generator = torch.Generator().manual_seed(5)
    pixels = torch.randint(0, 2, (2, 3, *TWINS[model.name].shape), generator=generator) * 2.0 - 1
    eps = torch.randn(by_mean_and_std(model.theirs, pixels).shape, generator=generator)
    level = {"_target_": f"{OneLevel.__module__}.OneLevel", "level": 0.9375}
    asked = config(model, clips, name="a")
    asked = {**asked, "levels": level, "objective": {**asked["objective"], "levels": level}}
    module = run.build(asked).module
    initial.load(module, str(model.folder), "raw", True, None)
    monkeypatch.setattr("dit.diffusion.loss.noise_like", lambda x0, generator: eps)
    monkeypatch.setattr(random, "random", iter([0.9, 0.1]).__next__)  # caption_dropout=0.5 drops the second
    batch = Batch(pixels, ["0", "1"], {"caption": PROMPTS, "fps": torch.full((2,), 16.0)})
    with torch.no_grad():
        mine = module.training_step(batch, 0)
        wanted = loss_of_the_trainer(model, pixels, eps, [PROMPTS[0], ""], 0.9375)
    torch.testing.assert_close(mine, wanted, rtol=1e-5, atol=0)


def test_pictures_are_of_clips_that_are_always_given() -> None:
    from dit.diffusion import conditioning as c

    clips = [{"pixels": torch.full((3, 5, 2, 2), 10 * n, dtype=torch.uint8), "caption": f"{n}"} for n in range(8)]

    def drawn(*patterns: c.Pattern) -> pictures.Pictures | None:
        tasks = {str(i): each for i, each in enumerate(patterns)}
        data = SimpleNamespace(train=clips, training_clip=clips.__getitem__, height=2, width=2)
        return pictures.of_clips(data, 4, c.RandomTasks(tasks, dict.fromkeys(tasks, 1.0), 0.0))

    assert drawn(c.NoFrame()) is None and drawn(c.FirstFrame(), c.NoFrame()) is None
    first, both = drawn(c.FirstFrame(), c.RandomPrefix()), drawn(c.FirstAndLastFrame())
    assert first is not None and first.last is None and both is not None and both.last is not None
    assert first.captions == ["0", "2", "4", "6"]
    assert torch.allclose(first.first[:, 0, 0, 0], torch.tensor([0, 20, 40, 60]) / 127.5 - 1)
