"""SkyReels-V2's diffusion forcing out of its folder: what is asked of it beside its class, and what cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dit.config.build import build
from dit.interop.published import Asked, open_pipeline
from dit.sampling.pipeline import Pipeline
from dit.sampling.schedule import Pyramid
from scripts.twins.pipelines import TWINS, make, noise_for, ours, relative, saved


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    saved("skyreels_v2_forcing", folder)
    return folder


def test_it_is_trained_with_a_level_for_each_frame(folder: Path) -> None:
    levels = build(open_pipeline(folder).config["levels"])
    drawn = levels(2, 4, 64, torch.Generator().manual_seed(0), "cpu")
    assert levels.per_frame and drawn.shape == (2, 4) and len(drawn.unique()) == 8


def test_frames_of_a_block_share_a_level(folder: Path) -> None:
    pipeline = Pipeline.from_pretrained(folder, "cpu", causal_block=2, num_frames=13, height=32, width=48, num_steps=3)
    assert isinstance(pipeline.settings.schedule, Pyramid) and pipeline.settings.schedule.group == 2
    staggered = pipeline.changed(schedule=Pyramid(None, group=2, lag=1))
    levels = staggered.noise_levels(staggered.canvas(), torch.zeros(4, dtype=torch.bool))
    assert torch.equal(levels[:, 0], levels[:, 1]) and not torch.equal(levels[:, 1], levels[:, 2])


def test_a_block_of_one_frame_is_attention_to_all(folder: Path) -> None:
    assert open_pipeline(folder, asked=Asked(causal_block=1)).config["net"] == open_pipeline(folder).config["net"]


def test_what_cannot_be_is_one_line(folder: Path, tmp_path: Path) -> None:
    for value in (0, -2, 2.5, True):
        with pytest.raises(ValueError, match="causal_block=.* must be a whole number of latent frames, at least 1"):
            Pipeline.from_pretrained(folder, "cpu", causal_block=value)  # type: ignore[arg-type]
    saved("wan", tmp_path)
    with pytest.raises(ValueError, match="causal_block=5: a WanPipeline has no causal blocks; leave it out"):
        Pipeline.from_pretrained(tmp_path, "cpu", causal_block=5)
    with pytest.raises(ValueError, match="gives each frame a noise level of its own, but this network was trained"):
        Pipeline.from_pretrained(tmp_path, "cpu", schedule=Pyramid(None, 1, 2))("a red circle", 0)


def test_noise_on_what_a_chained_clip_goes_on_from_is_seen_from_there_on(folder: Path) -> None:
    """The first clip is the same; the later ones are those of the noise (`addnoise_condition` of diffusers' class)."""
    made = {}
    for name in ("skyreels_v2_chained", "skyreels_v2_noisy_chain"):
        asked = TWINS[name].asked.only(0)
        pipeline = ours(name, folder, asked)
        made[name] = make(pipeline, name, asked, noise_for(pipeline, 1)).latents
    plain, noisy = made.values()
    assert torch.equal(plain[:, :, :3], noisy[:, :, :3])
    for frame in (3, 4):
        assert relative(noisy[:, :, frame], plain[:, :, frame]) > 1e-4
