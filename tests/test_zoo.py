"""The checkpoint that ships: it is what its card says, and makes what is asked for right after installation."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from PIL import Image

from data.worlds.world import World
from dit.checkpoint import exported
from dit.evaluation.harness.subject import Subject
from dit.evaluation.suites.of_world import heldout_world
from dit.evaluation.world import Expectation, Reader
from dit.sampling.pipeline import Pipeline
from dit.sampling.tasks import (
    Extend,
    FirstLast,
    ImageToVideo,
    Inpaint,
    Interpolate,
    LongTextToVideo,
    Loop,
    Task,
    VideoToVideo,
)
from tests.evaluation.checkpoints import sampler

ROOT = Path(__file__).resolve().parents[1]
ZOO = ROOT / "zoo"
TINY = ZOO / "world_tiny"
SUFFIXES = {".safetensors", ".yaml", ".json", ".md", ".csv", ".png"}
STEPS = 6


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return Pipeline.from_checkpoint(TINY, device="cpu", num_steps=STEPS)


@pytest.fixture(scope="module")
def world() -> World:
    return heldout_world(Subject(TINY, "tiny", sampler(weights="ema")).checkpoint)


def test_it_is_what_its_card_says() -> None:
    file = TINY / exported.FILE
    assert file.stat().st_size <= 8 * 10**6
    card = (TINY / "README.md").read_text()
    for each in (file, TINY / "data_card.json"):
        assert hashlib.sha256(each.read_bytes()).hexdigest() in card
    entry = exported.read(file)
    assert entry["data_cards"] == [hashlib.sha256((TINY / "data_card.json").read_bytes()).hexdigest()]
    assert entry["only_weights"] in card and f"{entry['global_step']} steps" in card


def test_what_samples_and_measures_leave_is_not_the_repositorys() -> None:
    """Ignored are they alone: the zoo's own files stay to be seen."""
    ignored = [line for line in (ROOT / ".gitignore").read_text().splitlines() if line.startswith("/zoo/")]
    for made in ("samples/", "evaluation/", "evaluation.json", "evaluation.md", "report.html"):
        assert f"/zoo/*/{made}" in ignored
    assert len(ignored) == 5
    own = {each.suffix for each in TINY.iterdir() if each.is_file()}
    assert own <= SUFFIXES | {".html"}


def test_a_prompt_of_no_training_clip_is_drawn(pipeline: Pipeline, world: World) -> None:
    """By the world's reader: colour, shape, size, direction, permanence."""
    prompt = world.prompts(1)[0]
    verdict = Reader(**world.legend()).judge(  # type: ignore[arg-type]
        pipeline(prompt, seeds=[1000]).pixels[0],
        Expectation(**world.expect(prompt)),  # type: ignore[arg-type]
    )
    assert verdict.all, verdict.reasons


def test_every_task_begins(pipeline: Pipeline, world: World) -> None:
    """What is given stays; the rest is a clip of the right length."""
    prompt = world.prompts(1)[0]
    real = torch.from_numpy(world.film(prompt, 0).pixels)  # (8, 32, 32, 3)
    clip = real.permute(3, 0, 1, 2).float() / 127.5 - 1
    image, last = (Image.fromarray(real[frame].numpy()) for frame in (0, -1))
    mask = Image.new("L", (32, 32), 0)
    mask.paste(255, (0, 0, 16, 32))
    tasks: dict[str, tuple[Task, dict[int, int]]] = {  # which frames of the clip stand where
        "i2v": (ImageToVideo(image), {0: 0}),
        "first_last": (FirstLast(image, last), {0: 0, 7: 7}),
        "loop": (Loop(image), {0: 0, 7: 0}),
        "v2v": (VideoToVideo(clip, strength=0.7), {}),
        "interpolate": (Interpolate(clip, every=None), {0: 0, 7: 7}),
        "inpaint": (Inpaint(clip, mask), {}),
        "extend": (Extend(clip, num_context=4, times=2), {frame: 4 + frame for frame in range(4)}),
        "long_t2v": (LongTextToVideo(num_context=4, times=2), {}),
    }
    for name, (task, given) in tasks.items():
        pixels = pipeline(prompt, seeds=[0], task=task, num_steps=2).pixels
        frames = 12 if name in ("extend", "long_t2v") else 8
        assert pixels.shape == (1, 3, frames, 32, 32) and pixels.isfinite().all(), name
        for there, frame in given.items():
            assert (pixels[0, :, there] - clip[:, frame]).abs().max() < 1e-3, (name, there)
        if name == "inpaint":
            assert (pixels[0, ..., 16:] - clip[..., 16:]).abs().max() < 1e-3
