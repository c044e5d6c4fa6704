"""Flow, flicker, warping error and dynamic degree of clips whose motion is known."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dit.evaluation.video.flow import Pyramid, Raft, inside, seen_in_both, warped
from dit.evaluation.video.motion import Motion, fastest, unchanged
from tests.evaluation.films import blurred, discs, even, frozen, noisy, shuffled, sliding
from tests.evaluation.parts import part


def pyramid() -> Pyramid:
    return part("flow", "pyramid")("cpu")


def levels(clip: Tensor) -> Tensor:
    return ((clip + 1) * 127.5).round().to(torch.uint8)


def of(clip: Tensor, fps: float = 8.0, **given: Tensor) -> dict[str, float]:
    """The numbers of one clip, without the brackets of their names."""
    found = Motion(None if "exact" in given else pyramid(), fps).add(0, clip, **given)
    return {name.partition("[")[0]: value for name, value in found.items()}


@pytest.mark.parametrize("velocity", [(0.0, 0.0), (0.4, 0.0), (1.0, -2.0), (-3.3, 1.7), (5.0, 4.0)])
def test_the_pyramid_finds_the_flow_of_textures(velocity: tuple[float, float]) -> None:
    """Within a tenth of a pixel in the mean, away from the border, over which texture comes in."""
    clip = sliding(velocity).movedim(0, 1) / 2 + 0.5
    found = pyramid()(clip[:-1], clip[1:])
    error = (found - torch.tensor(velocity).view(2, 1, 1)).norm(dim=1)[:, 12:-12, 12:-12]
    assert float(error.mean()) < 0.1, float(error.mean())


def test_the_pyramid_finds_a_turn() -> None:
    """A texture that turns by 3 degrees a frame: flow that differs from place to place."""
    from math import cos, radians, sin

    from tests.evaluation.films import texture

    y, x = torch.meshgrid(*[torch.arange(48, dtype=torch.float64) - 23.5] * 2, indexing="ij")
    frames = []
    for frame in range(2):
        c, s = cos(radians(-3 * frame)), sin(radians(-3 * frame))
        frames.append(texture(c * x - s * y, s * x + c * y, seed=1).float()[None])
    c, s = cos(radians(3)), sin(radians(3))
    wanted = torch.stack([c * x - s * y - x, s * x + c * y - y]).float()
    error = (pyramid()(*frames)[0] - wanted).norm(dim=0)[8:-8, 8:-8]
    assert float(wanted.norm(dim=0).mean()) > 0.8 and float(error.mean()) < 0.1


def test_warping_follows_the_flow() -> None:
    clip = sliding((2.0, -1.0)).movedim(0, 1)
    flow = even((2.0, -1.0), clip.movedim(0, 1))
    there = inside(flow)
    assert there.float().mean() == pytest.approx(46 * 47 / 48**2)
    assert float((warped(clip[1:], flow) - clip[:-1])[there[:, None].expand_as(clip[1:])].abs().max()) < 1e-5


def test_what_is_covered_does_not_come_back() -> None:
    """A disc that moves over a still ground: the flow there and back agrees but where the disc goes."""
    y, x = torch.meshgrid(*[torch.arange(32.0)] * 2, indexing="ij")
    first, second = (((x - centre) ** 2 + (y - 16) ** 2 < 36).float() for centre in (12, 16))
    forward = torch.stack([4 * first, 0 * first])[None]
    backward = torch.stack([-4 * second, 0 * second])[None]
    seen = seen_in_both(forward, backward)[0]
    covered = (second > 0) & (first == 0)
    assert not seen[covered].any() and seen[~covered].all()


def test_the_exact_flow_has_no_warping_error_and_a_wrong_one_has() -> None:
    clip = levels(sliding((1.0, 2.0)))
    exact = of(clip, exact=even((1.0, 2.0), clip))
    assert exact["warping error"] < 0.01  # rounding to levels; times 1000
    assert exact["motion"] == pytest.approx(5**0.5, rel=1e-5)
    wrong = of(clip, exact=even((0.0, 2.0), clip))
    assert wrong["warping error"] > 1


def test_pixels_that_are_hidden_do_not_count() -> None:
    clip = levels(sliding((1.0, 0.0)))
    clip[:, :, :10] = torch.randint(0, 256, clip[:, :, :10].shape, generator=torch.Generator().manual_seed(0)).byte()
    flow, visible = even((1.0, 0.0), clip), torch.ones(5, 48, 48, dtype=torch.bool)
    visible[:, :10], visible[:, :, -1] = False, False
    assert of(clip, exact=flow, visible=visible)["warping error"] < 0.01 < of(clip, exact=flow)["warping error"]


@cache
def clips() -> Tensor:
    """A sliding texture, and discs over a still ground."""
    return torch.stack([levels(sliding((1.2, 0.7), frames=8)), *discs(2, seed=5, side=48)])


@pytest.mark.parametrize("index", [0, 1, 2])
def test_spoilt_clips_move_each_measure_the_right_way(index: int) -> None:
    clip = clips()[index]
    plain = of(clip)
    noise, still, order = of(noisy(clip, 10)), of(frozen(clip)), of(shuffled(clip))
    assert noise["flicker"] > plain["flicker"] + 2 and noise["warping error"] > 3 * plain["warping error"]
    assert still["flicker"] == still["dynamic degree"] == 0 and max(still["warping error"], still["motion"]) < 1e-4
    assert order["warping error"] > 1.5 * plain["warping error"] and order["flicker"] > plain["flicker"]
    assert plain["dynamic degree"] == 1


def test_still_regions_flicker_for_noise_and_not_for_motion() -> None:
    clip = clips()[1]
    still = unchanged(clip)
    assert 0.3 < still.float().mean() < 0.9
    plain, noise = of(clip, still=still), of(noisy(clip, 10), still=still)
    assert plain["flicker, still regions"] < 0.5 < plain["flicker"] / 2
    assert noise["flicker, still regions"] == pytest.approx(10 * 2 / 3.14159**0.5, rel=0.1)  # E |a - b| of normal ones
    own, spoilt = of(clip)["flicker, still regions"], of(noisy(clip, 10))["flicker, still regions"]  # as the flow says
    assert own < 1 and spoilt == pytest.approx(noise["flicker, still regions"], rel=0.15)
    nowhere = Motion(pyramid(), 8.0)
    nowhere.add(0, clip, still=torch.zeros(48, 48, dtype=torch.bool))
    nowhere.add(1, clip, still=still)
    score = {each.name: each for each in nowhere.scores("test", 8.0)}["flicker, still regions"]
    assert score.value == plain["flicker, still regions"] and "of 1 of 2 clips" in score.note


def test_blur_lowers_flicker_of_noise() -> None:
    noise = noisy(clips()[1], 10)
    assert of(blurred(noise))["flicker"] < of(noise)["flicker"] / 2


def test_dynamic_degree_is_the_published_rule() -> None:
    """Threshold 6/256 of the shorter side at 8 frames a second, in a quarter of the frames that are looked at."""
    clip = levels(sliding((0.0, 0.0), frames=16))
    limit = 6 * 48 / 256

    def moving(pairs: int, speed: float, fps: float = 8.0) -> float:
        flow = even((0.0, 0.0), clip)
        flow[:pairs, 0] = speed
        return of(clip, fps, exact=flow)["dynamic degree"]

    assert moving(4, limit * 1.01) == 1 and moving(3, limit * 1.01) == 0 and moving(15, limit * 0.99) == 0
    assert moving(15, limit * 1.9, fps=4.0) == 0 and moving(15, limit * 2.01, fps=4.0) == 1  # half as many a second
    assert moving(15, limit * 0.51, fps=16.0) == 1 and moving(15, limit * 0.49, fps=16.0) == 0  # every second frame


def test_a_twentieth_of_the_pixels_makes_motion() -> None:
    speed = torch.zeros(1, 10, 20)
    speed[0, 0, :10] = 4.0
    assert float(fastest(speed)) == 4.0
    speed[0, 0, :5] = 0.0
    assert float(fastest(speed)) == 2.0


def test_clips_that_have_no_motion_to_measure_hear_why() -> None:
    own = Motion(pyramid(), 8.0)
    own.add(0, clips()[0])
    for clip, given, said in (
        (clips()[0][:, :1], {}, "clip 1 has 1 frames of 48x48: motion needs at least 2 frames"),
        (clips()[0][:, :4], {}, "clip 1 has 4 frames of 48x48, and those before 8 frames of 48x48"),
        (clips()[0], {"exact": torch.zeros(8, 2, 48, 48)}, r"clip 1: its flow is \(8, 2, 48, 48\), and must be \(7, 2"),
        (torch.full((3, 4, 8, 8), torch.nan), {}, "clip 1 has values that are not finite"),
    ):
        with pytest.raises(ValueError, match=said):
            own.add(1, clip, **given)
    with pytest.raises(ValueError, match="comes without exact flow, and no estimator is there"):
        Motion(None, 8.0).add(0, clips()[0])
    with pytest.raises(ValueError, match="no clip was scored"):
        Motion(None, 8.0).scores("test", None)


def test_scores_name_whose_flow_it_is() -> None:
    own = Motion(pyramid(), 8.0)
    for index, clip in enumerate(clips()):
        own.add(index, clip)
    found = {each.name: each for each in own.scores("test", 8.0)}
    assert list(found) == [
        "flicker", "flicker, still regions", "warping error[pyramid]", "motion[pyramid]", "dynamic degree[pyramid]",
    ]  # fmt: skip
    assert found["flicker"].protocol.network == "" and found["motion[pyramid]"].protocol.network == "pyramid"
    assert found["flicker"].low < found["flicker"].value < found["flicker"].high  # type: ignore[operator]
    share = found["dynamic degree[pyramid]"]
    assert share.value == share.high == 1 and share.low == pytest.approx(0.438, abs=1e-3)  # Wilson's of 3 of 3


def test_raft_takes_small_frames_and_its_weights_from_a_file(tmp_path: Path) -> None:
    """On random weights, so that only sizes and scale are looked at: flow of a small frame is in its own pixels."""
    optical_flow = pytest.importorskip("torchvision.models.optical_flow")
    torch.manual_seed(0)
    model = optical_flow.raft_small(weights=None).eval()
    torch.save(model.state_dict(), tmp_path / "raft.pth")
    own = Raft("cpu", file=str(tmp_path / "raft.pth"), small=True)
    assert own.name == "raft_small" and len(own.sha256) == 64
    frames = clips()[0, :, :2].movedim(0, 1).float() / 255
    found = own(frames[:1], frames[1:])
    larger = [torch.nn.functional.interpolate(each[None], size=(128, 128), mode="bilinear") * 2 - 1 for each in frames]
    with torch.no_grad():
        wanted = torch.nn.functional.interpolate(model(*larger)[-1], size=(48, 48), mode="bilinear") * 48 / 128
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    for file, small, said in (
        (None, True, "flow.file is missing"),
        ("nowhere.pth", True, "flow.file=nowhere.pth is not there"),
        (str(tmp_path / "raft.pth"), False, "does not hold the weights of torchvision's raft_large"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=said) as error:
            Raft("cpu", file=file, small=small)
        assert "\n" not in str(error.value)
