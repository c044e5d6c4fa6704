"""What a pipeline is set to, for good or for one call: settings, own noise, one prompt, and levels of frames."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dit.sampling import record
from dit.sampling.guidance import AsTrained, ClassifierFree, Guidance, NoGuidance
from dit.sampling.job import draw, for_each
from dit.sampling.pipeline import Pipeline
from dit.sampling.schedule import Autoregressive, Linear, Pyramid, Shifted
from dit.sampling.solvers import DDIM, Euler, Heun
from dit.sampling.tasks import Extend, ImageToVideo, Inpaint, LongTextToVideo, VideoToVideo
from tests.sampling.test_pipeline import PROMPTS, SEEDS, VIDEO, pipeline

ONE_LEVEL = {"levels": {"_target_": "dit.diffusion.levels.Uniform"}}
PER_FRAME = {"levels": {"_target_": "dit.diffusion.levels.PerFrame", "levels": ONE_LEVEL["levels"]}}


@pytest.fixture
def made(tmp_path: Path) -> Pipeline:
    return pipeline(tmp_path)


def test_one_prompt_and_one_seed(made: Pipeline) -> None:
    whole = made(["red", "red"], [3, 4])
    for prompts, seeds in (("red", [3, 4]), (["red", "red"], 3), (("red", "red"), range(3, 5))):
        found = made(prompts, seeds)
        assert torch.equal(found.latents, whole.latents) and found.info["seeds"] == [3, 4]
        assert found.info["prompts"] == ["red", "red"]
    assert torch.equal(made("red", seeds=[3]).latents, whole.latents[:1])
    assert torch.equal(made("red", 3).latents, whole.latents[:1])
    numbers = made("red", np.arange(3, 5))
    assert torch.equal(numbers.latents, whole.latents) and json.dumps(numbers.info["seeds"]) == "[3, 4]"
    for prompts, seeds in (([], 3), ([], []), (["x"], [0, 1]), ("x", [])):
        with pytest.raises(ValueError, match="each sample, one or more, needs both"):
            made(prompts, seeds)


def test_one_value_is_for_all_samples() -> None:
    assert for_each(0.5, 2, "motion") == [0.5, 0.5] and for_each(None, 1, "labels") == [None]
    assert for_each("abc", 2, "labels") == ["abc", "abc"] and for_each((1, 2), 2, "labels") == [1, 2]


def test_a_json_beside_the_root_finds_its_checkpoint(tmp_path: Path) -> None:
    """Above it are fewer folders than above one in runs/NAME/samples/001."""
    file = tmp_path / "last.ckpt"
    file.write_bytes(b"x")
    known = {"path": str(file), "step": 7, "sha256": record.fingerprint(file)}
    assert record._same(known, Path("/x.json")) == str(file)


def test_settings_for_one_call_are_those_of_a_pipeline(made: Pipeline, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"num_steps": 3, "solver": Heun(), "num_frames": 4, "guidance": NoGuidance()}
    there = pipeline(tmp_path, **changes)
    once, apart = made("red", 3, **changes), made.changed(**changes)("red", 3)
    assert torch.equal(once.latents, there("red", 3).latents) and torch.equal(once.latents, apart.latents)
    assert made.settings.num_steps == 4 and made.shape.num_frames == 6, "for that call alone"
    assert made.changed(num_steps=None, guidance=None).settings == made.settings
    changed = made.changed(guidance=AsTrained(5.0, None, None)).settings.guidance
    assert changed == ClassifierFree(5.0, 0.0, (0.0, 1.0))
    with pytest.raises(ValueError, match="num_step is no setting of a pipeline; did you mean num_steps"):
        made("red", 3, num_step=3)


def test_a_guidance_says_itself_which_network_it_can_guide(made: Pipeline) -> None:
    class Picky(Guidance):
        def check(self, network: Any) -> None:
            raise ValueError(f"not {type(network).__name__}")

        def __call__(self, denoiser: Any, cond: Any, uncond: Any) -> Any:
            raise NotImplementedError

    with pytest.raises(ValueError, match="not FakeNet"):
        made.changed(guidance=Picky())
    with pytest.raises(ValueError, match="not FakeNet"):
        made("red", 3, guidance=Picky())


@pytest.mark.parametrize("solver", [Euler(), DDIM(0.7)], ids=repr)
@pytest.mark.parametrize("size", [1, 2, 3])
def test_own_noise(tmp_path: Path, solver: Any, size: int) -> None:
    """The seeds' own, passed, changes nothing, in later clips of a chain too; another changes the first clip."""
    maker, task = pipeline(tmp_path, solver=solver, batch_size=size), LongTextToVideo(2, 2)
    own = draw([torch.Generator().manual_seed(seed) for seed in SEEDS[:3]], (3, 6, 8, 10))
    plain = maker(PROMPTS[:3], SEEDS[:3], task)
    assert torch.equal(maker(PROMPTS[:3], SEEDS[:3], task, noise=own).latents, plain.latents)
    other = maker(PROMPTS[:3], SEEDS[:3], task, noise=own[1:2])
    assert torch.equal(other.latents[1], plain.latents[1]) and not torch.equal(other.latents[0], plain.latents[0])


def test_own_noise_is_said_and_not_made_again_from_a_file(made: Pipeline, tmp_path: Path) -> None:
    noise = torch.zeros(1, 3, 6, 8, 10)
    said = made("red", 3, noise=noise).info["noise"]
    assert said["shape"] == [1, 3, 6, 8, 10] and "noise" not in made("red", 3).info
    wanted = made.prepare([record.Request("red", "", 3)], None, noise)
    (tmp_path / "x.json").write_text(json.dumps(made.facts(wanted)[0]))
    with pytest.raises(ValueError, match="began with noise that was passed"):
        record.read(str(tmp_path / "x.json"))
    for wrong in (torch.zeros(2, 3, 6, 8, 10), torch.zeros(1, 3, 5, 8, 10), noise.long()):
        with pytest.raises(ValueError, match=r"latents of these samples are float \(1, 3, 6, 8, 10\)"):
            made("red", 3, noise=wrong)


TASKS = {
    "t2v": (None, [6]),
    "i2v": (ImageToVideo(VIDEO[:, 0]), [5]),
    "extend": (Extend(VIDEO, 2, 1), [4]),
    "long": (LongTextToVideo(2, 2), [6, 4]),
    "v2v": (VideoToVideo(VIDEO, 0.5), [6]),
    "inpaint": (Inpaint(VIDEO, torch.eye(8, 10).bool()), [6]),
}


@pytest.mark.parametrize("solver", [Euler(), Heun(), DDIM(0.5)], ids=repr)
@pytest.mark.parametrize("task", TASKS)
def test_frames_one_after_another(tmp_path: Path, task: str, solver: Any) -> None:
    """With every task: frames to be made take their turns, given ones are shown clean throughout and come out as they
    went in, and progress counts every step."""
    asked, frames = TASKS[task]
    maker = pipeline(tmp_path, PER_FRAME, schedule=Autoregressive(None, 1), solver=solver, batch_size=2)
    net: Any = maker.net
    seen: list[tuple[int, int]] = []
    made = maker(PROMPTS[:3], SEEDS[:3], asked, progress=lambda *said: seen.append(said))
    each = 4 if task != "v2v" else len(maker.prepare([record.Request("x", "", 0)], VideoToVideo(VIDEO, 0.5)).levels[0])
    total = 2 * sum(count * 4 for count in frames) if task != "v2v" else 2 * (each - 1)
    assert seen == [(step, total) for step in range(1, total + 1)]
    assert bool(made.latents.isfinite().all()) and made.info["schedule"]["schedule"]["shift"] == 3.0
    given = {"i2v": 1, "extend": 2}.get(task, 0)
    for _, t, _ in net.asked[: 8 if task == "long" else None]:
        assert t.shape[1] == 6 and bool((t[:, :given] == 0).all())
        assert bool((t[:, given:].diff(dim=1) >= 0).all()), "earlier frames are clearer"
    if given:
        assert torch.equal(made.latents[:, :, 0], VIDEO[:, 0 if task == "i2v" else -2].expand(3, -1, -1, -1))


def test_a_lag_of_no_steps_is_the_plain_schedule(tmp_path: Path) -> None:
    plain = pipeline(tmp_path, PER_FRAME, solver=Heun())
    found = plain.changed(schedule=Pyramid(None, 1, 0))("red", 3)
    assert torch.equal(found.latents, plain("red", 3).latents)


def test_levels_of_frames_are_for_networks_that_were_trained_with_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    each, alone = (pipeline(tmp_path, config) for config in (PER_FRAME, ONE_LEVEL))
    each("red", 3, schedule=Pyramid(None, 1, 2))
    assert "trained for" not in caplog.text, "each frame goes through the schedule of training"
    each("red", 3, schedule=Pyramid(Linear(), 1, 2))
    assert "sampling with Linear(), but the checkpoint was trained for Shifted(shift=3.0)" in caplog.text
    with pytest.raises(ValueError, match="trained with one a clip; train with levels=per_frame") as caught:
        alone("red", 3, schedule=Pyramid(None, 1, 2))
    assert "\n" not in str(caught.value)
    assert pipeline(tmp_path).origin.per_frame, "a config that does not say"
    strange = {"levels": {"_target_": "somebody.else.Levels"}}
    assert pipeline(tmp_path, strange).origin.per_frame


def test_frames_of_a_token_share_a_level(tmp_path: Path) -> None:
    net = {"_target_": "tests.sampling.fakes.FakeNet", "in_channels": 3, "patch": [2, 1, 1], "num_classes": None}
    maker = pipeline(tmp_path, {"net": net}, schedule=Autoregressive(Shifted(3.0), 1), guidance=NoGuidance())
    maker("red", 3)
    asked: Any = maker.net.asked
    assert len(asked) == 12 and all(torch.equal(t[:, ::2], t[:, 1::2]) for _, t, _ in asked)
    asked.clear()
    maker("red", 3, ImageToVideo(VIDEO[:, 0]))
    assert len(asked) == 12 and all(t[0, 0] == 0 for _, t, _ in asked), "its other frame is still to be made"
