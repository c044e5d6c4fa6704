"""The pipeline end to end, from a checkpoint of fakes that keep the contracts."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dit.sampling.guidance import AsTrained, ClassifierFree, Guidance, NoGuidance
from dit.sampling.job import Samples, draw
from dit.sampling.pipeline import Pipeline
from dit.sampling.schedule import Linear, Shifted, start_at
from dit.sampling.solvers import DDIM, DPMSolverPP2M, Euler, Heun, Solver
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
from tests.sampling.fakes import FAKES, as_pixels, checkpoint, random_frames

SOLVERS: list[Solver] = [Euler(), Heun(), DDIM(0.0), DDIM(0.7), DPMSolverPP2M()]
PROMPTS = ["a red circle", "", "a blue square moves left", "x", "a red circle"]
SEEDS = [3, 4, 5, 6, 7]
VIDEO = as_pixels(random_frames(0, 9))


def pipeline(run: Path, config: dict[str, Any] | None = None, **overrides: Any) -> Pipeline:
    return Pipeline.from_checkpoint(checkpoint(run, **(config or {})), device="cpu", trusted=FAKES, **overrides)


@pytest.fixture
def made(tmp_path: Path) -> Pipeline:
    return pipeline(tmp_path)


def test_shapes_ranges_and_what_is_said(made: Pipeline) -> None:
    samples = made(PROMPTS, SEEDS)
    assert samples.pixels.shape == samples.latents.shape == (5, 3, 6, 8, 10)
    assert samples.pixels.dtype == torch.float32 and samples.pixels.abs().max() <= 1
    info = samples.info
    assert (info["weights"], info["num_steps"], info["fps"]) == ("ema:long", 4, 8)
    assert (
        info["seeds"] == SEEDS
        and info["prompts"] == PROMPTS
        and info["solver"] == {"_target_": "dit.sampling.solvers.Euler"}
    )
    assert info["seconds_per_step"] > 0 and info["peak_memory_gb"] > 0


def test_a_sample_has_the_same_bits_whatever_its_company(tmp_path: Path) -> None:
    whole = pipeline(tmp_path)(PROMPTS, SEEDS)
    for solver in (Euler(), DDIM(1.0)):
        whole = pipeline(tmp_path, solver=solver)(PROMPTS, SEEDS)
        for size in (1, 2, 3):
            chunked = pipeline(tmp_path, solver=solver, batch_size=size)(PROMPTS, SEEDS)
            assert torch.equal(chunked.latents, whole.latents) and torch.equal(chunked.pixels, whole.pixels)
        order = [4, 1, 0, 3, 2]
        shuffled = pipeline(tmp_path, solver=solver)([PROMPTS[i] for i in order], [SEEDS[i] for i in order])
        assert torch.equal(shuffled.latents, whole.latents[order])
        alone = pipeline(tmp_path, solver=solver)(PROMPTS[2:3], SEEDS[2:3])
        assert torch.equal(alone.latents[0], whole.latents[2])
    assert not torch.equal(whole.latents[0], whole.latents[4]), "same prompt, another seed: another sample"


def test_the_noise_is_each_seeds_own() -> None:
    def noise(seeds: list[int]) -> Tensor:
        return draw([torch.Generator().manual_seed(seed) for seed in seeds], (2, 3))

    assert torch.equal(noise([1, 2, 3])[1:], noise([2, 3])) and torch.equal(noise([3, 1]), noise([1, 2, 3])[[2, 0]])
    assert not torch.equal(noise([1]), noise([2]))


def test_long_clips_are_the_same_in_any_batch_too(tmp_path: Path) -> None:
    task = LongTextToVideo(2, 3)
    whole = pipeline(tmp_path)(PROMPTS[:3], SEEDS[:3], task=task)
    assert whole.pixels.shape[2] == whole.latents.shape[2] == 6 + 4 + 4
    chunked = pipeline(tmp_path, batch_size=1)(PROMPTS[:3], SEEDS[:3], task=task)
    assert torch.equal(chunked.latents, whole.latents)


def tasks(strided: bool) -> list[Task]:
    image, last = VIDEO[:, 0], VIDEO[:, 5]
    mask = torch.zeros(8, 10, dtype=torch.bool)
    mask[2:5, 3:7] = True
    return [
        ImageToVideo(image),
        FirstLast(image, last),
        Loop(image),
        Extend(VIDEO, 5 if strided else 3, 1),
        Extend(VIDEO, 1 if strided else 2, 3),
        Interpolate(VIDEO, 8 if strided else 2),
        Interpolate(VIDEO, None),
        Inpaint(VIDEO, mask),
        ImageToVideo(torch.stack([image, last, image])),
    ]


@pytest.mark.parametrize("strided", [False, True], ids=["pixels", "causal 4x2x2"])
@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
@pytest.mark.parametrize("task", range(9))
def test_given_latents_come_back_bit_for_bit(tmp_path: Path, task: int, solver: Solver, strided: bool) -> None:
    config = {}
    if strided:
        codec = {"_target_": "tests.sampling.fakes.FakeCodec", "stride": [4, 2, 2], "causal": True}
        config = {"codec": codec, "data": {"num_frames": 9, "height": 8, "width": 10, "fps": 8}}
    maker = pipeline(tmp_path, config, solver=solver, batch_size=2)
    asked = tasks(strided)[task]
    plan = asked(maker.canvas())
    samples = maker(PROMPTS[:3], SEEDS[:3], task=asked)
    given = plan.given
    mask = given.mask.expand(3, -1, -1, -1, -1).expand_as(samples.latents[:, :, : given.latents.shape[2]])
    first = samples.latents[:, :, : given.latents.shape[2]]
    assert torch.equal(first[mask], given.latents.expand_as(first)[mask])
    assert not torch.equal(first[~mask], given.latents.expand_as(first)[~mask])
    assert bool(samples.latents.isfinite().all())
    net: Any = maker.net
    for _, _, cond in net.asked[: 2 if asked.__class__ is Extend else None]:
        mask = cond["given"]
        assert mask.dtype == torch.float32 and torch.equal(mask[:1] > 0, given.mask[:1])
    if plan.chunks > 1:
        assert samples.pixels.shape[2] == maker.shape.num_frames + (plan.chunks - 1) * (
            maker.shape.num_frames - plan.num_context
        )


def test_text_to_video_says_that_nothing_is_given(made: Pipeline) -> None:
    made(PROMPTS[:2], SEEDS[:2])
    net: Any = made.net
    x, t, cond = net.asked[0]
    assert t.shape == (4, 1) and not cond["given"].any() and cond["given"].shape == (4, 1, 6, 8, 10)
    assert cond["fps"].tolist() == [8.0] * 4


def test_guidance_sees_the_prompt_and_the_negative_prompt(made: Pipeline) -> None:
    net: Any = made.net
    text: Any = made.text
    made(["red", "blue"], [0, 1], negative_prompt="green light")
    told = net.asked[0][2]
    wanted = text(["red", "blue", "green light", "green light"])
    assert torch.equal(told["text"], wanted["text"]) and torch.equal(told["text_mask"], wanted["text_mask"])
    plain, negative = (made(["red"], [0], negative_prompt=word).latents for word in ("", "green light"))
    assert not torch.equal(plain, negative)


def test_each_sample_may_have_a_negative_prompt_of_its_own(made: Pipeline) -> None:
    mixed = made(["red", "red"], [0, 0], negative_prompt=["green light", ""])
    assert mixed.info["negative_prompts"] == ["green light", ""]
    for row, word in enumerate(mixed.info["negative_prompts"]):
        torch.testing.assert_close(mixed.latents[row], made(["red"], [0], negative_prompt=word).latents[0])
    with pytest.raises(ValueError, match="2 negative prompts for 1 prompts"):
        made(["red"], [0], negative_prompt=["x", "y"])


def test_labels(tmp_path: Path) -> None:
    config = {
        "text": None,
        "net": {
            "_target_": "tests.sampling.fakes.FakeNet", "in_channels": 3, "patch": [1, 1, 1], "num_classes": 5,
        },
    }  # fmt: skip
    maker = pipeline(tmp_path, config)
    samples = maker([0, "4"], [1, 1])
    net: Any = maker.net
    assert net.asked[0][2]["label"].tolist() == [0, 4, 5, 5] and "text" not in net.asked[0][2]
    assert not torch.equal(samples.latents[0], samples.latents[1])
    with pytest.raises(ValueError, match="class 'a cat' is not known: this network reads class numbers, 0 to 4"):
        maker(["a cat"], [0])


def test_overrides_and_their_defaults(tmp_path: Path) -> None:
    own = pipeline(tmp_path)
    assert own.settings.schedule == Shifted(3.0) and own.settings.guidance == ClassifierFree(2.0, 0.0, (0.0, 1.0))
    changed = pipeline(
        tmp_path, solver=Heun(), num_steps=7, schedule=Linear(), guidance=AsTrained(5.0, None, None), weights="raw"
    )
    assert changed.settings.guidance == ClassifierFree(5.0, 0.0, (0.0, 1.0)) and changed.origin.weights == "raw"
    samples = changed(["x"], [0])
    assert samples.info["num_steps"] == 7 and samples.info["solver"]["_target_"].endswith("Heun")
    net: Any = changed.net
    assert len(net.asked) == 13
    with pytest.raises(ValueError, match=r"samples with NoGuidance\(\), which has no scale; add guidance=cfg"):
        AsTrained(2.0, None, None).change(NoGuidance())
    assert AsTrained(None, None, None).change(NoGuidance()) == NoGuidance()


def test_weights_decide_the_sample(tmp_path: Path) -> None:
    latents = [pipeline(tmp_path, weights=weights)(["x"], [0]).latents for weights in ("ema", "raw", "short")]
    assert not torch.equal(latents[0], latents[1]) and not torch.equal(latents[0], latents[2])


def test_video_to_video_keeps_more_at_a_lower_strength(made: Pipeline) -> None:
    distance, steps = [], []
    for strength in (0.1, 0.5, 1.0):
        samples = made(["x"], [0], num_steps=20, task=VideoToVideo(VIDEO, strength))
        distance.append((samples.latents[0] - VIDEO[:, :6]).pow(2).mean().item())
        steps.append(samples.info["steps_taken"])
        assert samples.info["num_steps"] == 20 and samples.info["task"]["strength"] == strength
    assert distance[0] < distance[1] < distance[2] and steps[0] < steps[1] < steps[2] == 20
    assert torch.equal(made(["x"], [0], num_steps=20).latents, samples.latents), "strength 1 keeps nothing"


def test_start_at() -> None:
    levels = torch.tensor([1.0, 0.8, 0.5, 0.2, 0.0], dtype=torch.float64)
    assert start_at(levels, 1.0).tolist() == levels.tolist()
    assert start_at(levels, 0.6).tolist() == [0.6, 0.5, 0.2, 0.0]
    assert start_at(levels, 0.5).tolist() == [0.5, 0.2, 0.0]


def test_warns_outside_what_the_checkpoint_was_trained_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def warnings(maker: Pipeline, **shape: int) -> str:
        caplog.clear()
        maker(["x"], [0], **shape)
        return " | ".join(record.message for record in caplog.records if record.levelno == logging.WARNING)

    assert warnings(pipeline(tmp_path)) == ""
    said = warnings(pipeline(tmp_path), num_frames=7, height=4, width=12)
    assert "num_frames=7, but the checkpoint was trained with 6" in said and "height=4" in said and "width=12" in said
    assert "fps=24" in warnings(pipeline(tmp_path, fps=24))
    assert "Shifted(shift=1.0), but the checkpoint was trained for Shifted(shift=3.0)" in warnings(
        pipeline(tmp_path, schedule=Shifted(1.0))
    )


CONDITIONINGS = {  # of a training config -> whether the run has seen given frames, and whether clips without
    "not said": (None, True, True),
    "none": ({"_target_": "dit.diffusion.conditioning.Unconditional"}, False, True),
    "tasks": (
        {
            "_target_": "dit.diffusion.conditioning.RandomTasks",
            "tasks": {
                "t2v": {"_target_": "dit.diffusion.conditioning.NoFrame"},
                "i2v": {"_target_": "dit.diffusion.conditioning.FirstFrame"},
            },
        },
        True,
        True,
    ),
    "i2v alone": (
        {
            "_target_": "dit.diffusion.conditioning.RandomTasks",
            "tasks": {"i2v": {"_target_": "dit.diffusion.conditioning.FirstFrame"}},
        },
        True,
        False,
    ),
    "no tasks": (
        {
            "_target_": "dit.diffusion.conditioning.RandomTasks",
            "tasks": {"t2v": {"_target_": "dit.diffusion.conditioning.NoFrame"}},
        },
        False,
        True,
    ),
}


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_warns_of_given_frames_that_the_run_never_saw(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, conditioning: str
) -> None:
    node, seen, without = CONDITIONINGS[conditioning]
    maker = pipeline(tmp_path, {} if node is None else {"conditioning": node})
    maker(["x"], [0])
    warned = "\n".join(record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING)
    assert ("no frame is given, but this checkpoint was never trained without" in warned) == (not without)
    assert without == ("given" not in warned)
    for task in (ImageToVideo(VIDEO[:, 0]), LongTextToVideo(2, 2)):
        caplog.clear()
        maker(["x"], [0], task=task)
        assert ("trained without given frames (conditioning=tasks)" in caplog.text) == (not seen)


@pytest.mark.parametrize(
    ("guidance", "reads"),
    [
        (NoGuidance(), False),
        (ClassifierFree(1.0, 0.0, (0.0, 1.0)), False),
        (ClassifierFree(2.0, 0.0, (0.0, 1.0)), True),
    ],
)
def test_warns_of_a_negative_prompt_that_has_no_effect(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, guidance: Guidance, reads: bool
) -> None:
    maker = pipeline(tmp_path, guidance=guidance)
    plain, negative = (maker(["red"], [0], negative_prompt=word).latents for word in ("", "green light"))
    assert torch.equal(plain, negative) == (not reads) == ("the negative prompt has no effect" in caplog.text)


def test_modules_and_global_randomness_are_left_as_they_were(made: Pipeline) -> None:
    made.net.train()
    made.net.table.eval()  # type: ignore[union-attr]
    before = torch.get_rng_state()
    made(["x"], [0])
    assert made.net.training and not made.net.table.training and torch.equal(torch.get_rng_state(), before)


def test_progress_counts_every_step_of_every_batch_and_chunk(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    maker = pipeline(tmp_path, batch_size=2)
    maker(PROMPTS[:3], SEEDS[:3], task=LongTextToVideo(2, 2), progress=lambda *said: seen.append(said))
    assert seen == [(step, 16) for step in range(1, 17)]


def test_precision_reaches_the_network_and_not_the_samples(tmp_path: Path) -> None:
    samples = pipeline(tmp_path, precision="bfloat16")(["x"], [0])
    assert samples.latents.dtype == torch.float32 and samples.info["precision"] == "bfloat16"


def test_an_offloaded_text_encoder_comes_back(tmp_path: Path) -> None:
    maker, plain = pipeline(tmp_path, offload_text=True), pipeline(tmp_path)
    for _ in range(2):
        assert torch.equal(maker(["x"], [0]).latents, plain(["x"], [0]).latents)


def test_mistakes(tmp_path: Path, made: Pipeline) -> None:
    codec = {"_target_": "tests.sampling.fakes.FakeCodec", "stride": [4, 2, 2], "causal": True}
    strided = pipeline(tmp_path, {"codec": codec})
    patched = pipeline(
        tmp_path,
        {
            "net": {
                "_target_": "tests.sampling.fakes.FakeNet",
                "in_channels": 3,
                "patch": [1, 4, 5],
                "num_classes": None,
            }
        },
    )

    def call(maker: Pipeline, *args: Any, **kwargs: Any) -> Samples:
        return maker(*args, **kwargs)

    for wrong, message in [
        (lambda: call(made, ["x"], [0, 1]), "1 prompts and 2 seeds"),
        (lambda: call(made, [], []), "0 prompts"),
        (lambda: call(made, ["x"], [0], num_steps=0), "num_steps=0 must be a whole number, at least 1"),
        (lambda: call(strided, ["x"], [0]), r"num_frames=6 is not 4k\+1 for FakeCodec; nearest: 5, 9"),
        (lambda: call(patched, ["x"], [0], height=6), "H=6 is not a multiple of the patch's 4"),
        (lambda: call(made, ["x"] * 3, [0] * 3, task=ImageToVideo(torch.zeros(2, 3, 8, 10))), "give 1 or 3"),
        (lambda: call(strided, ["x"], [0], num_frames=5, task=Loop(VIDEO[:, 0])), "gives all 2 latent frames"),
        (lambda: pipeline(tmp_path, batch_size=0), "batch_size=0"),
        (lambda: pipeline(tmp_path, context_level=1.0), "context_level=1.0"),
        (lambda: pipeline(tmp_path, precision="half_hearted"), "precision=half_hearted is no floating-point dtype"),
        (lambda: pipeline(tmp_path, weights="tiny"), "weights=tiny is not in .*; there are: raw, ema, short, long"),
        (lambda: Pipeline.from_checkpoint(tmp_path, device="gpu9"), "device=gpu9 cannot be used here"),
    ]:
        with pytest.raises(ValueError, match=message) as caught:
            wrong()
        assert "\n" not in str(caught.value)
