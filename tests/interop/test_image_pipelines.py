"""What published image-to-video models do with the picture, part by part: each is seen when it is left out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from dit.diffusion.given import Beside, Held
from dit.sampling.conditions import Conditions
from dit.sampling.pipeline import Pipeline
from dit.sampling.stochastic import FixedStride
from dit.sampling.tasks import FirstLast, ImageToVideo, VideoToVideo
from scripts.twins.image_to_video import LTX_CONDITION
from scripts.twins.pipelines import (
    FILMS,
    LTX_PICTURES,
    PICTURES,
    TWINS,
    Asked,
    Twin,
    make,
    noise_for,
    ours,
    relative,
    run,
    saved,
)
from tests.interop.conftest import Folders


def few(name: str) -> Asked:
    """What a twin is asked for, in few steps: what is looked at here is seen in each."""
    return replace(TWINS[name].asked, num_steps=3)


def sampled(name: str, folder: Path) -> tuple[Pipeline, torch.Tensor, torch.Tensor]:
    """Our pipeline, the noise, and the latents that it makes of it."""
    pipeline = ours(name, folder, few(name))
    noise = noise_for(pipeline, 2)
    return pipeline, noise, make(pipeline, name, few(name), noise).latents


def changed(pipeline: Pipeline, **values: Any) -> Pipeline:
    """The same, which shows given frames in another way."""
    other = pipeline.changed()
    other.given = replace(pipeline.given, **values)  # type: ignore[type-var]
    return other


@pytest.mark.parametrize(
    "name, values",
    [
        ("hunyuan_video_image", {"in_start": 0.0}),
        ("hunyuan_video_image_beside", {"in_start": 0.0}),
        ("cogvideox15_image", {"scale": 1.0}),
        ("ltx_condition", {"fresh": 0.0}),
    ],
)
def test_what_is_done_with_the_picture_is_seen(name: str, values: dict[str, Any], folders: Folders) -> None:
    pipeline, noise, made = sampled(name, folders(name)[1])
    other = make(changed(pipeline, **values), name, few(name), noise).latents
    assert relative(other, made) > 1e-4


@pytest.mark.parametrize("name", ["ltx_image", "cogvideox_image", "cogvideox15_image", "hunyuan_video_image"])
def test_swapped_pictures_are_seen(name: str, folders: Folders) -> None:
    pipeline, noise, made = sampled(name, folders(name)[1])
    asked, pictures = TWINS[name].asked, TWINS[name].asks["image"][::-1]
    said = {"noise": noise, "negative_prompt": asked.negatives}
    assert relative(pipeline(asked.prompts, asked.seeds, ImageToVideo(pictures), **said).latents, made) > 1e-3


@pytest.mark.parametrize("name", ["ltx_condition", "hunyuan_video_image_beside"])
def test_what_is_seen_on_the_way_is_the_sample_in_the_end(name: str, folders: Folders) -> None:
    """Without what stood in front of the clip, or is cut off."""
    asked = few(name)
    pipeline = ours(name, folders(name)[1], asked)
    made = pipeline(asked.prompts, asked.seeds, TWINS[name].task)
    for _, now in pipeline.watch(asked.prompts, asked.seeds, TWINS[name].task):
        assert now.latents.shape == made.latents.shape
    assert torch.equal(now.latents, made.latents) and torch.equal(now.pixels(), made.pixels)


def test_steps_behind_a_video_are_as_long_as_without(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of three steps of 333 timesteps are not two steps of 500."""
    name = "cogvideox_video"
    monkeypatch.setitem(TWINS, name, replace(TWINS[name], task=VideoToVideo(FILMS, 0.7)))
    pipeline, noise, made = sampled(name, folders(name)[1])
    monkeypatch.setattr(FixedStride, "planned", lambda self, num_steps: self)
    assert relative(make(pipeline, name, few(name), noise).latents, made) > 1e-3


@pytest.mark.parametrize("strength", [0.6, 0.7])
def test_whole_steps_are_taken_behind_a_video(strength: float, folders: Folders) -> None:
    """Of three steps one and two, as in diffusers; none is refused."""
    theirs, folder = folders("cogvideox_video")
    asked = replace(few("cogvideox_video"), scale=1.0)
    twin = TWINS["cogvideox_video"]
    twin = replace(twin, asks={**twin.asks, "strength": strength}, task=VideoToVideo(FILMS, strength))
    pipeline = ours(twin, folder, asked)
    noise = noise_for(pipeline, 2)
    made = make(pipeline, twin, asked, noise)
    assert made.info["steps_taken"] == int(3 * strength)
    assert relative(made.latents, run(theirs, twin, noise, asked, "latent")) < 1e-5
    with pytest.raises(ValueError, match=r"^strength=0.3 of num_steps=3 is less than one step, .*; nearest: 0.334$"):
        pipeline(asked.prompts, asked.seeds, VideoToVideo(FILMS, 0.3))


def test_what_is_shown_is_as_published(folders: Folders) -> None:
    names = [name for name in TWINS if name.endswith("_image") and "image" in TWINS[name].asks]
    names.append("hunyuan_video_image_beside")
    shown = {name: ours(name, folders(name)[1], TWINS[name].asked).given for name in names}
    factor = 1.15258426**-2
    assert shown["ltx_image"] == Held("left_out")
    assert shown["cogvideox_image"] == Beside("left_out")
    assert shown["cogvideox15_image"] == Beside("left_out", scale=factor)
    assert shown["hunyuan_video_image"] == Held("left_out", in_start=0.001)
    assert shown["hunyuan_video_image_beside"] == Beside("left_out", in_start=0.001, cut=1)


def test_the_text_to_video_folder_of_ltx_makes_videos_of_a_picture_too(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One folder serves both classes of diffusers, which have the same parts."""
    theirs, _ = folders("ltx_image")
    _, folder = folders("ltx")
    twin = TWINS["ltx_image"]
    pipeline = ours("ltx", folder, twin.asked)
    noise = noise_for(pipeline, 2)
    made = make(pipeline, "ltx_image", twin.asked, noise).latents
    assert relative(made, run(theirs, "ltx_image", noise, twin.asked, "latent")) < 1e-5


def test_first_and_last_frame_of_ltx_are_conditions(folders: Folders) -> None:
    """The last one stands in front of the clip, at its own time: its place in the clip is made."""
    theirs, folder = folders("ltx_condition")
    first, last = ([each.crop((0, 0, 32, 32)) for each in order] for order in (LTX_PICTURES, LTX_PICTURES[::-1]))
    said = [{"image": first, "frame": 0}, {"image": last, "frame": LTX_CONDITION[0] - 1}]
    twin: Twin = replace(TWINS["ltx_condition"], asks={"conditions": said}, task=FirstLast(first, last))
    asked = few("ltx_condition")
    pipeline = ours(twin, folder, asked)
    noise = noise_for(pipeline, 2)
    made, other = make(pipeline, twin, asked, noise).latents, run(theirs, twin, noise, asked, "latent")
    assert relative(made[:, :, 1:], other[:, :, 1:]) < 1e-5
    alone = pipeline(asked.prompts, asked.seeds, ImageToVideo(first), noise=noise, negative_prompt=asked.negatives)
    assert relative(alone.latents[:, :, 1:], made[:, :, 1:]) > 1e-3, "the last frame does nothing"


def test_firmly_known_frames_of_ltx_come_out_clean(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    """diffusers leaves the last step's noise on them; what is made beside them is the same."""
    theirs, folder = folders("ltx_condition")
    twin, pictures = TWINS["ltx_condition"], [each.crop((0, 0, 32, 32)) for each in LTX_PICTURES]
    firm = [{"image": pictures, "frame": 0}]
    firmly: Twin = replace(twin, asks={"conditions": firm}, task=Conditions(firm))  # type: ignore[arg-type]
    monkeypatch.setitem(TWINS, "ltx_condition", firmly)
    pipeline, noise, made = sampled("ltx_condition", folder)
    other = run(theirs, "ltx_condition", noise, few("ltx_condition"), "latent")
    assert relative(made[:, :, 1:], other[:, :, 1:]) < 1e-5
    clean = ImageToVideo(pictures)(pipeline.canvas()).given
    assert clean is not None and torch.equal(made[:, :, 0], clean.latents[:, :, 0])
    assert relative(made[:, :, 0], other[:, :, 0]) > 1e-2


@pytest.mark.parametrize(
    "name, task, said",
    [
        ("cogvideox_image", None, "a CogVideoXImageToVideoPipeline makes videos of a picture, and none is given"),
        ("hunyuan_video_image", None, "makes videos of a picture, and none is given: task=i2v image=FILE"),
        ("cogvideox", ImageToVideo(PICTURES[0]), "a CogVideoXPipeline makes videos of a text alone, and frames are"),
        ("ltx_image", ImageToVideo(None), "this task needs image=FILE"),
        ("ltx_image", ImageToVideo("nowhere.png"), "image nowhere.png is not there"),
        ("cogvideox_image", FirstLast(*PICTURES), "this model encodes given frames alone"),
        ("hunyuan_video_image", Conditions([{"image": PICTURES[0], "strength": 0.5}]), "strength=0.5"),
    ],
)
def test_what_cannot_be_is_one_line(name: str, task: Any, said: str, folders: Folders) -> None:
    pipeline = ours(name, folders(name)[1], TWINS[name].asked)
    with pytest.raises((ValueError, FileNotFoundError), match=said) as error:
        pipeline("a red circle", 3, task)
    assert "\n" not in str(error.value)


def test_the_noise_on_given_frames_is_a_setting(folders: Folders) -> None:
    folder = folders("ltx_condition")[1]
    assert Pipeline.from_pretrained(folder).given == Held("left_out", fresh=0.15)
    assert Pipeline.from_pretrained(folder, parts={"given": {"fresh": 0.05}}).given == Held("left_out", fresh=0.05)
    with pytest.raises(ValueError, match=r"given.fresh=0.1 has nothing to change: the given of .* is Beside"):
        Pipeline.from_pretrained(folders("cogvideox_image")[1], parts={"given": {"fresh": 0.1}})
    with pytest.raises(ValueError, match=r"given.fresh=-1"):
        Pipeline.from_pretrained(folder, parts={"given": {"fresh": -1}})


def test_a_factor_that_is_none_is_refused(tmp_path: Path) -> None:
    saved("cogvideox15_image", tmp_path)
    file = tmp_path / "vae" / "config.json"
    file.write_text(file.read_text().replace("1.15258426", '"one"'))
    with pytest.raises(ValueError, match="scaling_factor='one'"):
        Pipeline.from_pretrained(tmp_path)
