"""Published image-to-video families, fine-tuned out of their folders and handed back to diffusers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from data.batch import Batch
from dit.config.of_init import TARGET as OfInit
from dit.engine import run
from dit.interop.recipes import PIPELINES
from dit.sampling.guidance import AsTrained
from dit.sampling.pipeline import Pipeline
from scripts.twins.pipelines import TWINS, make, noise_for, relative
from scripts.twins.pipelines import run as of_diffusers
from tests.interop.test_finetune_families import (
    ASKED,
    PROMPTS,
    Model,
    clips,
    config,
    convert,
    differs,
    here,
    loaded,
    loss_of_a_step,
    pictures,
    train,
    untrained,
    with_adapters,
)
from tests.interop.training_reference import OF_IMAGES, reference_of_images

pytestmark = pytest.mark.timeout(900)
__all__ = ["clips", "here", "pictures"]  # fixtures
CLASS = "LTXImageToVideoPipeline"
FAMILIES = ("ltx_image", "cogvideox_image", "cogvideox15_image", "hunyuan_video_image", "hunyuan_video_image_beside")


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    return Model.saved(request.param, tmp_path_factory)


def samples(model: Model, run_or_file: str) -> tuple[Tensor, Tensor]:
    """(the noise, the latents that a run of ours makes of it and the pictures)."""
    frames, height, width = TWINS[model.name].shape
    pipeline = Pipeline.from_checkpoint(
        run_or_file, device="cpu", num_frames=frames, height=height, width=width, num_steps=ASKED.num_steps,
        guidance=AsTrained(1.0, None, None),
    )  # fmt: skip
    noise = noise_for(pipeline, 2)
    return noise, make(pipeline, model.name, ASKED, noise).latents


def always_given(asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The config of a run in which the first frame of every clip is given; LTX-Video makes videos of a text, too."""
    monkeypatch.setitem(PIPELINES, CLASS, replace(PIPELINES[CLASS], conditioning="i2v"))
    return {**asked, "conditioning": {"_target_": OfInit, "key": "conditioning"}}


def test_weights_come_back_as_a_pipeline(
    model: Model, clips: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On clips of which the first frame is given, as the model was trained; stopped and gone on with."""
    asked = config(model, clips, name="tuned")
    train(asked, 1)
    if model.name == "hunyuan_video_image":  # whose prompts are encoded beside pictures
        assert differs(train(asked, 2), train(asked, 2, name="straight")) == []
    convert(monkeypatch, "runs/tuned", "exported", "--to", "pipeline")
    noise, made = samples(model, "runs/tuned")
    assert relative(made, of_diffusers(loaded(model, "exported"), model.name, noise, ASKED, "latent")) < 1e-5
    assert relative(made, untrained(model, noise)) > 1e-3, "nothing was trained"


def test_adapters_come_back_as_a_lora(model: Model, clips: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On clips of which the first frame is given; stopped and gone on with bit for bit."""
    if model.name not in ("ltx_image", "cogvideox15_image"):  # held in the clip, and beside it
        pytest.skip("the same commands, on parts that other tests hold")
    theirs = with_adapters(model, clips, monkeypatch)
    noise, made = samples(model, "runs/adapted")
    assert relative(made, of_diffusers(theirs, model.name, noise, ASKED, "latent")) < 1e-5
    assert relative(made, untrained(model, noise)) > 1e-4, "they do nothing"


def test_training_shows_the_first_frame(
    model: Model, pictures: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = torch.rand(2, 3, *TWINS[model.name].shape, generator=torch.Generator().manual_seed(5)) * 2 - 1
    asked = always_given(config(model, pictures, "caption_dropout=0", name="a"), monkeypatch)
    module = run.build(asked).module
    seen: list[tuple[Tensor, Tensor, dict[str, Tensor]]] = []
    module.net.register_forward_pre_hook(lambda net, args: seen.append(args))
    fps = torch.full((2,), 8.0)
    module.training_step(Batch(pixels, ["0", "1"], {"caption": PROMPTS, "fps": fps}), 0)
    (x, t, cond), codec = seen[0], module.codec
    first = codec.encode(pixels[:, :, :1])[:, :, :1]
    if "given_latents" not in module.net.concat_channels:
        torch.testing.assert_close(x[:, :, :1], codec.encode(pixels)[:, :, :1])
        assert t[:, 0].tolist() == [0, 0] and bool((t[:, 1:] > 0).all())
    else:
        factor = 1.15258426**-2 if model.name == "cogvideox15_image" else 1.0
        torch.testing.assert_close(cond["given_latents"][:, :, :1], first * factor)
        assert not cond["given_latents"][:, :, 1:].any() and t.shape == (2, 1)
        assert (x[:, :, :1] - first).abs().amax((1, 2, 3, 4)).min() > 0.1, "it is noised like all others"
    assert ("ofs" in cond) == (model.name == "cogvideox15_image")


def test_a_step_has_the_loss_of_the_public_trainer(
    model: Model, pictures: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_the_loss_of_the_trainer(model, pictures, monkeypatch)


def test_a_step_of_cosmos_has_the_loss_of_its_trainer(
    pictures: Path, here: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Given frames have noise of their own; what is drawn for each clip is here the same for all."""
    kind = "CosmosVideoToWorldPipeline"
    monkeypatch.setitem(PIPELINES, kind, replace(PIPELINES[kind], shows={"noise": 0.001, "log_std": 0.0}))
    assert_the_loss_of_the_trainer(Model.saved("cosmos_video", tmp_path_factory), pictures, monkeypatch)


def assert_the_loss_of_the_trainer(model: Model, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two clips, whose first frames are given, the second is shown without its caption; not of HunyuanVideo, whose
    encoder is then shown a black picture, too, as guidance does. The noise that CogVideoX's trainer adds to pictures is
    left out."""
    generator = torch.Generator().manual_seed(5)
    pixels = torch.randint(0, 2, (2, 3, *TWINS[model.name].shape), generator=generator) * 2.0 - 1
    with torch.no_grad():
        eps = torch.randn(OF_IMAGES[model.name].clean(model.theirs, pixels).shape, generator=generator)
    drops = not model.name.startswith("hunyuan_video")
    said = [PROMPTS[0], "" if drops else PROMPTS[1]]
    wanted, number = reference_of_images(model.theirs, model.name, pixels, eps, said, 5, 2)
    asked = always_given(config(model, pictures, *([] if drops else ["caption_dropout=0"]), name="a"), monkeypatch)
    with torch.no_grad():
        mine = loss_of_a_step(model, asked, pixels, eps, number, monkeypatch)
    torch.testing.assert_close(mine, wanted, rtol=1e-5, atol=0)
