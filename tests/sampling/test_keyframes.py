"""Frames that are known anywhere in a clip, firmly or weakly: in its place, or in front of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dit.diffusion.given import Held
from dit.diffusion.path import Linear
from dit.diffusion.prediction import Estimate
from dit.sampling.canvas import Canvas
from dit.sampling.conditions import Condition, Conditions
from dit.sampling.given import Given, hold
from dit.sampling.keyframes import Keyframe, Scene, Weak, coordinates, waiting
from dit.sampling.solvers import Euler, end
from tests.sampling.fakes import FakeCodec, as_pixels, random_frames, write_lossless

NUM_FRAMES, HEIGHT, WIDTH = 17, 8, 12


def canvas(sees_times: bool = True, causal: bool = True) -> Canvas:
    codec = FakeCodec([4, 4, 4], causal)
    frames = NUM_FRAMES if causal else NUM_FRAMES - 1
    return Canvas(
        num_frames=frames, height=HEIGHT, width=WIDTH, fps=8, latent_shape=codec.latent_shape(frames, HEIGHT, WIDTH),
        compression=codec.compression, encode=codec.encode, sees_times=sees_times,
        check_frames=lambda frames: codec.latent_shape(frames, HEIGHT, WIDTH),
    )  # fmt: skip


def film(seed: int, frames: int = 9) -> Tensor:
    return as_pixels(random_frames(seed, frames, HEIGHT, WIDTH))


def test_where_conditions_go() -> None:
    first, later, video = film(0, 1)[:, 0], film(1, 1)[:, 0], film(2)
    conditions: list[Condition] = [
        {"image": first},
        {"image": later, "frame": 6, "strength": 0.75},
        {"video": video, "frame": 8, "strength": 0.5},
    ]
    made, clip = Conditions(conditions)(canvas()), canvas()
    assert made.given is not None and made.weak is not None and made.first is not None and len(made.first) == 1
    assert made.given.frames[0].tolist() == [True, False, False, False, False]
    assert torch.equal(made.given.latents[:, :, :1], clip.encode(first[None, :, None]))
    assert made.weak.strength.tolist() == [0, 0, 0, 0, 0.5]
    inside = clip.encode(video[None])
    assert torch.equal(made.weak.latents[:, :, 4], inside[:, :, 2])
    assert [(each.frame, each.strength, each.latents.shape[2]) for each in made.keyframes] == [
        (6, 0.75, 1),
        (8, 0.5, 2),
    ]
    assert torch.equal(made.keyframes[1].latents, inside[:, :, :2])
    assert made.begins_with_given
    made.check(3)


def test_a_video_is_cut_to_what_the_clip_and_the_codec_take(tmp_path: Path) -> None:
    for length, taken in ((20, 9), (8, 5), (4, 1)):
        write_lossless(tmp_path / "clip.mkv", random_frames(3, length, HEIGHT, WIDTH), 8)
        for source in (str(tmp_path / "clip.mkv"), film(3, length)):
            made = Conditions([{"video": source, "frame": 8}])(canvas())
            latents = sum(each.latents.shape[2] for each in made.keyframes)
            latents += 0 if made.given is None else int(made.given.frames.sum())
            assert 4 * latents - 3 == taken


def test_a_network_that_is_told_no_times_has_them_all_in_the_clip() -> None:
    first, last = film(0, 1)[:, 0], film(1, 1)[:, 0]
    made = Conditions([{"image": last, "frame": 16}, {"image": first}])(canvas(sees_times=False))
    assert made.given is not None and not made.keyframes and made.weak is None
    assert made.given.frames[0].tolist() == [True, False, False, False, True]
    assert torch.allclose(made.given.latents[0, :, 4], canvas().encode(last[None, :, None])[0, :, 0])


@pytest.mark.parametrize(
    "conditions, said",
    [
        ([], "this task needs conditions"),
        ([{}], "conditions.0 has neither image nor video"),
        ([{"image": "a.png", "video": "b.mp4"}], "conditions.0 has image and video"),
        ([{"image": "a.png", "frame": 17}], "conditions.0.frame=17 is not in the clip; it has the frames 0 to 16"),
        ([{"image": "a.png", "strength": 0.0}], r"conditions.0.strength=0.0 is outside \(0, 1\]"),
        ([{"image": "nowhere.png"}], "image nowhere.png is not there"),
    ],
)
def test_mistakes(conditions: list[Any], said: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        Conditions(conditions)(canvas())


def test_a_weak_condition_wants_a_network_that_is_told_times() -> None:
    with pytest.raises(ValueError, match=r"conditions.0.strength=0.5: this network is not told the time"):
        Conditions([{"image": film(0, 1)[:, 0], "strength": 0.5}])(canvas(sees_times=False))


def test_where_latents_are_in_seconds_and_pixels() -> None:
    keyframe = Keyframe(torch.zeros(1, 3, 2, 2, 3), 8, 1.0)
    found = coordinates([keyframe], canvas())
    assert found.shape == (1, 3, 7 * 2 * 3)
    seconds, rows, columns = found[0].reshape(3, 7, 2, 3)
    assert (seconds[:, 0, 0] * 8).tolist() == [8, 9, 0, 1, 5, 9, 13]
    assert rows[3, :, 1].tolist() == [0, 4] and columns[3, 1].tolist() == [0, 4, 8]


class Told:
    """A network whose velocity is 1 everywhere, and that remembers what it was shown."""

    def __init__(self) -> None:
        self.asked: list[tuple[Tensor, Tensor]] = []

    def __call__(self, x: Tensor, t: Tensor) -> Estimate:
        self.asked.append((x.clone(), t.clone()))
        return Estimate(x, x, torch.ones_like(x))


def run(scene: Scene, noise: Tensor, levels: list[float], **more: Any) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    told, steps = Told(), waiting(torch.tensor(levels, dtype=torch.float64), scene.begin)
    begin = scene.begin if bool(scene.waits.any()) else None
    denoise = hold(told, scene.given, noise, Linear(), begin=begin, **more)
    return end(Euler()(denoise, scene.start(noise, noise), steps, Linear())), told.asked


def test_a_weak_frame_waits_for_its_level() -> None:
    noise, known = torch.randn(2, 1, 1, 3, 1, 1).unbind(0)
    scene = Scene.of(None, Weak(known, torch.tensor([0.0, 0.4, 0.0])), (), noise)
    made, asked = run(scene, noise, [1.0, 0.7, 0.5, 0.2, 0.0])
    assert [[round(level, 4) for level in t[0].tolist()] for _, t in asked] == [
        [1.0, 0.6, 1.0],
        [0.7, 0.6, 0.7],
        [0.5, 0.5, 0.5],
        [0.2, 0.2, 0.2],
    ]
    mixed = (0.6 * noise + 0.4 * known)[:, :, 1]
    for x, _ in asked[:3]:
        torch.testing.assert_close(x[:, :, 1], mixed)
    torch.testing.assert_close(made[:, :, 1], mixed - 0.5)
    torch.testing.assert_close(made[:, :, ::2], noise[:, :, ::2] - 1)


def test_keyframes_stand_in_front_and_are_left_out() -> None:
    noise, firm = torch.randn(1, 2, 4, 1, 1), torch.randn(1, 2, 1, 1, 1)
    inside = Given(torch.randn(1, 2, 3, 1, 1), torch.tensor([[False, False, True]]))
    scene = Scene.of(inside, None, [Keyframe(firm, 8, 1.0)], noise[:, :, 1:])
    assert scene.front == 1 and scene.begin.tolist() == [0, 1, 1, 0] and not scene.waits.any()
    made, asked = run(scene, noise, [1.0, 0.5, 0.0])
    for x, t in asked:
        assert torch.equal(x[:, :, 0], firm[:, :, 0]) and torch.equal(x[:, :, 3], inside.latents[:, :, 2])
        assert t[0, 0] == t[0, 3] == 0 and t[0, 1] == t[0, 2] > 0
    assert made.shape[2] == 4


def test_noise_on_given_frames_is_shown_and_not_told() -> None:
    noise = torch.randn(1, 1, 2, 1, 1)
    given = Given(torch.randn(1, 1, 2, 1, 1), torch.tensor([[True, False]]))
    scene = Scene.of(given, None, (), noise)
    _, asked = run(scene, noise, [1.0, 0.5, 0.0], how=Held("nearest", fresh=0.1), draw=lambda: torch.ones(1))
    for (x, t), level in zip(asked, (1.0, 0.5), strict=True):
        torch.testing.assert_close(x[:, :, 0], given.latents[:, :, 0] + 0.1 * level**2)
        assert t[0].tolist() == [0, level]


def test_a_plan_is_for_its_samples() -> None:
    pictures = [film(seed, 1)[:, 0] for seed in range(3)]
    made = Conditions([{"image": torch.stack(pictures), "frame": 4}, {"image": torch.stack(pictures), "strength": 0.5}])
    plan = made(canvas())
    with pytest.raises(ValueError, match="the task gives frames for 3 samples, but 2 are made"):
        plan.check(2)
    some = plan.rows(slice(1, 2))
    assert plan.weak is not None and some.weak is not None
    assert torch.equal(some.keyframes[0].latents, plan.keyframes[0].latents[1:2])
    assert torch.equal(some.weak.latents, plan.weak.latents[1:2])
    staggered = replace(plan, weak=None)
    with pytest.raises(ValueError, match="a noise level of its own"):
        staggered.check_levels(torch.ones(3, 5))
