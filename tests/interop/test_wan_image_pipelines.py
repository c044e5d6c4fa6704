"""Wan from images: what its folders say, which spoiled parts are noticed, and what cannot be asked. That samples are
those of diffusers is in test_pipelines.py."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from dit.codec.families import Affine
from dit.diffusion.given import Beside, Held, Shown
from dit.interop.published import open_pipeline
from dit.sampling.given import Given
from dit.sampling.pipeline import Pipeline
from dit.sampling.tasks import FirstLast, ImageToVideo, Inpaint, Task, TextToVideo
from scripts.twins.pipelines import (
    ASKED,
    PICTURES,
    SMALL,
    TWINS,
    WIDE_PICTURE,
    make,
    noise_for,
    ours,
    relative,
    run,
)
from tests.interop.conftest import Folders

diffusers: Any = pytest.importorskip("diffusers")
GREY, ALONE = Beside("grey"), Held("left_out")


def latents(pipeline: Pipeline, task: Task | None, noise: Tensor) -> Tensor:
    return pipeline(ASKED.prompts, ASKED.seeds, task, noise=noise, negative_prompt=ASKED.negatives).latents


@pytest.mark.parametrize(
    ("name", "given", "tasks", "sees", "fps"),
    [
        ("wan", Held("nearest"), None, None, 16.0),
        ("wan_image", GREY, ["i2v"], "first", 16.0),
        ("wan_first_last", GREY, ["first_last"], "first_and_last", 16.0),
        ("wan22_image", GREY, ["i2v"], None, 16.0),
        ("skyreels_v2_image", GREY, ["i2v"], "first", 24.0),
        ("wan22_5b", ALONE, ["t2v", "i2v"], None, 24.0),
        ("wan22_5b_image", ALONE, ["i2v"], None, 24.0),
    ],
)
def test_what_a_folder_says_of_given_frames(
    name: str, given: Any, tasks: list[str] | None, sees: str | None, fps: float, folders: Folders
) -> None:
    folder = folders(name)[1]
    config = open_pipeline(folder).config
    assert ours(name, folder, ASKED).given == given and config["data"]["fps"] == fps
    assert list(config["conditioning"].get("tasks", [])) == (tasks or [])
    image = config["signals"].get("image")
    assert (image and image["frames"]) == sees and (image is None or image["folder"] == str(folder))


def flipped(self: Given, batch: int) -> Shown:
    shown = SHOWN(self, batch)
    return shown._replace(known=~shown.known)


SHOWN = Given.shown


@pytest.mark.parametrize("name", ["wan_image", "wan_first_last", "wan22_image"])
def test_a_spoiled_condition_is_noticed(name: str, folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs, folder = folders(name)
    pipeline = ours(name, folder, ASKED)
    noise, task = noise_for(pipeline, 2), TWINS[name].task
    wanted = run(theirs, name, noise, ASKED, "latent")
    assert relative(latents(pipeline, task, noise), wanted) < 1e-5
    others: Task = ImageToVideo(PICTURES[1]) if name != "wan_first_last" else FirstLast(*PICTURES[::-1])
    assert relative(latents(pipeline, others, noise), wanted) > 1e-4, "another picture"
    with monkeypatch.context() as spoiled:
        spoiled.setattr(Given, "shown", flipped)
        assert relative(latents(pipeline, task, noise), wanted) > 1e-3, "a mask the other way round"
    zeros = pipeline.changed()
    zeros.given = Beside("nearest")
    assert relative(latents(zeros, task, noise), wanted) > 1e-3, "zeros in the place of grey frames"
    codec: Any = pipeline.codec
    with monkeypatch.context() as spoiled:
        spoiled.setattr(codec, "_affine", Affine.of(0.0, 1.0))
        assert relative(latents(pipeline, task, noise), wanted) > 1e-3, "the latents' mean and deviation left out"
    if (signal := pipeline.signals.get("image")) is not None:
        changed: Any = signal
        changed.skipping, changed.remembered = 0, {}
        assert relative(latents(pipeline, task, noise), wanted) > 1e-4, "another layer of the image encoder"


def test_each_sample_has_a_picture_of_its_own(folders: Folders) -> None:
    """Which diffusers' class takes one by one."""
    theirs, folder = folders("wan_image")
    pipeline = ours("wan_image", folder, ASKED)
    noise = noise_for(pipeline, 2)
    made = latents(pipeline.changed(batch_size=1), ImageToVideo(PICTURES), noise)
    assert relative(latents(pipeline, ImageToVideo(PICTURES), noise), made) < 1e-5
    for i, picture in enumerate(PICTURES):
        one = theirs(
            picture, ASKED.prompts[i], ASKED.negatives[i], *SMALL[1:], SMALL[0], ASKED.num_steps, ASKED.scale,
            latents=noise[i : i + 1].clone(), output_type="latent",
        ).frames  # fmt: skip
        assert relative(made[i : i + 1], one) < 1e-5


def test_the_5b_makes_videos_of_a_text_and_of_a_picture_out_of_one_folder(folders: Folders) -> None:
    """Its folder names WanPipeline; from a picture diffusers' other class makes them with the same parts."""
    theirs, folder = folders("wan22_5b")
    pipeline = ours("wan22_5b", folder, ASKED)
    noise, task = noise_for(pipeline, 2), ImageToVideo(WIDE_PICTURE)
    other = diffusers.WanImageToVideoPipeline(**theirs.components, expand_timesteps=True)
    other.set_progress_bar_config(disable=True)
    wanted = run(other, "wan22_5b_image", noise, ASKED, "latent")
    assert relative(latents(pipeline, task, noise), wanted) < 1e-5
    assert relative(make(pipeline, "wan22_5b", ASKED, noise).latents, wanted) > 1e-2
    beside = pipeline.changed()
    beside.given = GREY
    assert relative(latents(beside, task, noise), wanted) > 1e-2, "the picture is not in the clip"


@pytest.mark.parametrize(
    ("name", "task", "match"),
    [
        ("wan_image", None, "a WanImageToVideoPipeline makes videos of a picture, and none is given: task=i2v image"),
        ("wan22_image", TextToVideo(), "makes videos of a picture, and none is given"),
        ("wan22_5b_image", None, "makes videos of a picture, and none is given"),
        ("wan", ImageToVideo(PICTURES[0]), "a WanPipeline makes videos of a text alone, and frames are given"),
        ("wan_first_last", ImageToVideo(PICTURES[0]), "task=first_last image=FILE last_image=FILE gives both"),
        ("wan_image", Inpaint(torch.zeros(3, *SMALL), torch.zeros(SMALL[1:], dtype=torch.bool)), "task=inpaint needs"),
        ("wan22_5b_image", FirstLast(WIDE_PICTURE, WIDE_PICTURE), "this model encodes given frames alone"),
    ],
)
def test_what_cannot_be_asked_is_one_line(name: str, task: Task | None, match: str, folders: Folders) -> None:
    pipeline = ours(name, folders(name)[1], ASKED)
    with pytest.raises(ValueError, match=match) as raised:
        pipeline.job(ASKED.prompts, ASKED.seeds, task)
    assert "\n" not in str(raised.value)
