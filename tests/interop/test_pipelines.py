"""Whole pipelines: what ours makes of a folder is what diffusers' own class makes of it, from the same noise."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from dit.config.build import build
from dit.diffusion.path import Path as NoisePath
from dit.interop.published import open_pipeline
from dit.sampling.guidance import NoGuidance
from dit.sampling.job import Samples
from dit.sampling.pipeline import Pipeline
from dit.sampling.schedule import Schedule
from scripts.twins.pipelines import (
    ASKED,
    TWINS,
    Asked,
    decoded,
    make,
    noise_for,
    ours,
    relative,
    run,
    run_in_float64,
    saved,
    saved_in_float64,
)

# One of each kind of network, and of each way of showing given frames.
OF_16_BITS = (
    *("wan_image", "wan22_5b_image", "skyreels_v2_staggered", "ltx_condition", "cogvideox15_image", "mochi", "allegro"),
    *("hunyuan_video_image", "cosmos_video", "cosmos25_video", "latte", "dit"),
)


# Those that ask nothing of our code that another does not; float32 holds all of them, and the table of
# docs/pipelines.md has all in float64.
LIKE_OTHERS = {
    *("wan22", "wan_first_last", "wan22_first_last", "wan22_5b", "skyreels_v2_forcing", "skyreels_v2_chained"),
    *("skyreels_v2_forcing_image", "ltx_image", "cogvideox15", "cogvideox_image", "hunyuan_video", "cosmos25"),
}


class Published(NamedTuple):
    """A pipeline of diffusers and ours out of its folder."""

    name: str
    theirs: Any
    ours: Pipeline
    noise: Tensor

    def made(self, asked: Asked) -> Samples:
        return make(self.ours.changed(num_steps=asked.num_steps), self.name, asked, self.noise)


@dataclass(frozen=True)
class Given(Schedule):
    """Levels as they are said."""

    levels: Tensor

    def __call__(self, num_steps: int, num_tokens: int, path: NoisePath, frames: int) -> Tensor:
        return self.levels if self.levels.ndim == 1 else self.levels[:, -frames:]


@pytest.fixture(scope="module", params=TWINS)
def published(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Published:
    name, folder = request.param, tmp_path_factory.mktemp(request.param)
    theirs = saved(name, folder)
    pipeline = ours(name, folder, TWINS[name].asked)
    return Published(name, theirs, pipeline, noise_for(pipeline, 2))


def test_samples_are_those_of_diffusers(published: Published) -> None:
    asked = TWINS[published.name].asked
    wanted = run(published.theirs, published.name, published.noise, asked, "latent")
    assert relative(published.made(asked).latents, wanted) < 1e-5


def test_pixels_are_those_of_diffusers_and_a_spoiled_part_is_noticed(published: Published) -> None:
    """In few steps: what is looked at is seen in each."""
    name, theirs, pipeline, noise = published
    asked, twin = replace(TWINS[name].asked, num_steps=2), TWINS[name]
    pipeline = pipeline.changed(num_steps=2)
    wanted = published.made(asked)
    if twin.decodes:
        pixels = run(theirs, name, noise, asked, "pt")[
            :, :, -wanted.pixels.shape[2] :
        ]  # some show what they go on from
        near = 1.01 / 127.5 if twin.whole_greys else 1e-4 * pixels.abs().max()
        assert (decoded(pipeline, name, wanted, noise) - pixels).abs().max() < near
    swapped = published.made(replace(asked, prompts=asked.prompts[::-1]))
    assert relative(swapped.latents, wanted.latents) > 1e-3, "prompts that are swapped"
    own = pipeline.settings.schedule
    fewer = pipeline.noise_levels(pipeline.canvas(), torch.zeros(noise.shape[2], dtype=torch.bool))
    others = make(pipeline.changed(schedule=Given(fewer.mul(0.97))), name, asked, noise)
    assert relative(others.latents, wanted.latents) > 1e-3, f"other levels than those of {own}"
    codec: Any = pipeline.codec
    assert relative(codec.decode(wanted.latents.flip(1)).clamp(-1, 1), wanted.pixels) > 1e-4, (
        "channels in another order"
    )


@pytest.mark.parametrize("name", OF_16_BITS)
def test_weights_of_16_bits_are_computed_with_in_16_bits(name: str, tmp_path: Path) -> None:
    """Most folders hold bfloat16, and nothing else need be said."""
    saved(name, tmp_path)
    asked = replace(TWINS[name].asked, num_steps=2)
    pipeline, half = (ours(name, tmp_path, asked, parts=parts) for parts in ({}, {"net": {"dtype": "bfloat16"}}))
    noise = noise_for(pipeline, 2)
    latents, wanted = (make(each, name, asked, noise).latents for each in (half, pipeline))
    assert {each.dtype for each in half.net.parameters()} == {torch.bfloat16}
    assert 1e-5 < relative(latents, wanted) < 0.1


@pytest.mark.parametrize("name", [name for name in TWINS if name not in LIKE_OTHERS])
def test_samples_are_those_of_diffusers_in_float64(name: str, tmp_path: Path) -> None:
    theirs = saved_in_float64(name, tmp_path)
    asked = replace(TWINS[name].asked, scale=1.0, num_steps=3)  # the fewest with a step of every kind
    mine, other = run_in_float64(theirs, name, tmp_path, asked)
    assert mine.dtype is other.dtype is torch.float64 and relative(mine, other) < 1e-8


@pytest.mark.parametrize("name", ["cosmos", "cosmos25"])
def test_guidance_of_cosmos_leads_away_from_a_text_of_its_own(name: str, tmp_path: Path) -> None:
    """Where no negative prompt is said; an empty one is one."""
    theirs, asked = saved(name, tmp_path), ASKED.only(0)  # in few steps rounding of its own is large
    pipeline = ours(name, tmp_path, asked)
    noise = noise_for(pipeline, 1)
    silent = replace(TWINS[name], sampled=unsaid)
    made = pipeline(asked.prompts, asked.seeds, noise=noise)
    assert relative(made.latents, run(theirs, silent, noise, asked, "latent")) < 1e-5
    assert made.info["negative_prompts"][0].startswith("The video captures a series of frames showing ugly scenes")
    empty = pipeline(asked.prompts, asked.seeds, noise=noise, negative_prompt="")
    assert relative(empty.latents, made.latents) > 1e-4 and empty.info["negative_prompts"] == [""]
    plain = pipeline(asked.prompts, asked.seeds, noise=noise, guidance=NoGuidance())
    assert plain.info["negative_prompts"] == [""], "what is not read is not said"


def unsaid(pipeline: Any, asked: Asked, asks: Mapping[str, Any], output: str) -> Tensor:
    """What diffusers' pipeline makes without a negative prompt."""
    sizes = dict(zip(("num_frames", "height", "width"), TWINS["cosmos"].shape, strict=True))
    made: Tensor = pipeline(prompt=list(asked.prompts), output_type=output, **sizes, **asks).frames
    return made


@pytest.mark.parametrize("hidden", [False, True])
def test_an_empty_prompt_of_mochi_is_hidden_where_its_folder_says_so(hidden: bool, tmp_path: Path) -> None:
    theirs = saved("mochi", tmp_path)
    theirs.register_to_config(force_zeros_for_empty_prompt=hidden)
    index = json.loads((tmp_path / "model_index.json").read_text())
    (tmp_path / "model_index.json").write_text(json.dumps({**index, "force_zeros_for_empty_prompt": hidden}))
    asked = replace(ASKED, negatives=["", ""], num_steps=2)
    pipeline = ours("mochi", tmp_path, asked)
    noise = noise_for(pipeline, 2)
    made = pipeline(asked.prompts, asked.seeds, noise=noise, negative_prompt="").latents
    assert relative(made, run(theirs, "mochi", noise, asked, "latent")) < 1e-5
    theirs.register_to_config(force_zeros_for_empty_prompt=not hidden)
    assert relative(made, run(theirs, "mochi", noise, asked, "latent")) > 1e-4


def test_each_of_two_networks_has_a_guidance_of_its_own(tmp_path: Path) -> None:
    theirs, asked = saved("wan22", tmp_path), replace(ASKED, num_steps=3)
    both = replace(TWINS["wan22"], asks={"guidance_scale_2": 2.0}, loads={"guidance_scale_2": 2.0})
    pipeline = ours(both, tmp_path, asked)
    noise = noise_for(pipeline, 2)
    made, wanted = make(pipeline, both, asked, noise).latents, run(theirs, both, noise, asked, "latent")
    assert relative(made, wanted) < 1e-5
    assert relative(made, run(theirs, "wan22", noise, asked, "latent")) > 1e-4, "one scale for both"
    saved("wan", tmp_path / "one")
    with pytest.raises(ValueError, match=r"^guidance_scale_2=2.0 .* this WanPipeline has one: leave it out$"):
        ours(replace(TWINS["wan"], loads=both.loads), tmp_path / "one", asked)


def test_one_of_two_networks_is_trained_on_its_own_levels(tmp_path: Path) -> None:
    saved("wan22", tmp_path)
    levels = build(open_pipeline(tmp_path).config["levels"])
    drawn = levels(500, 1, 64, torch.Generator().manual_seed(0), "cpu")
    assert levels.interval == (0.875, 1.0) and 0.875 <= drawn.min() < 0.9
