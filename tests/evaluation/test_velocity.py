"""The velocity that is read from real clips is the true one, and spoiled clips are noticed."""

from itertools import product

import numpy as np
import pytest
import torch

from data.worlds.phyworld.dataset import PhyWorld
from data.worlds.phyworld.picture import lattice, paint
from data.worlds.phyworld.scenario import IN_DISTRIBUTION, SCENARIOS, UNSEEN, WORLD
from dit.evaluation.velocity import MEASURES, Balls, Reader, Verdict, counted
from dit.evaluation.verdicts import Report


def made(scenario: str, split: str, size: int, count: int) -> tuple[Reader, list[torch.Tensor], list[Balls]]:
    data = PhyWorld(
        scenario=scenario, seed=1, num_clips=count, num_frames=31, height=size, width=size, fps=10.0, split=split,
        small_balls=False,
    )  # fmt: skip
    clips = [data.clip(index) for index in range(count)]
    truths = [Balls(clip.positions, clip.scene.radii, 10.0, 3) for clip in clips]
    return Reader(WORLD, *lattice(size)), [torch.from_numpy(clip.pixels) for clip in clips], truths


@pytest.mark.parametrize("scenario, size", product(SCENARIOS, (32, 128)))
def test_real_clips_are_read_right_in_and_out_of_distribution(scenario: str, size: int) -> None:
    """The floor of the sharp reading: a hundredth of the slowest speed of training, at 32 pixels, too."""
    for split in (IN_DISTRIBUTION, *UNSEEN):
        reader, videos, truths = made(scenario, split, size, 8)
        report = Report.of(reader.judge, videos, truths, MEASURES)
        assert max(report.values("sharp_velocity_error")) < 0.01, (split, report.metrics())
        assert max(report.values("position_error")) < 0.01 and report.metrics()["found"] == 1.0
        assert not any(verdict.reasons for verdict in report.verdicts)


def test_the_public_reading_has_the_published_floor() -> None:
    """Kang et al., table 3: 0.0099 of ground truth in uniform motion, which is 1/256 of the mean speed of 2.5."""
    reader, videos, truths = made("uniform", IN_DISTRIBUTION, 256, 6)
    report = Report.of(reader.judge, videos, truths, MEASURES)
    expected = np.mean([np.diff(truth.positions[:2, 0, 0]).item() * 10.0 / 256 for truth in truths])
    assert report.metrics()["velocity_error"] == pytest.approx(expected, abs=2e-3)
    assert report.metrics()["sharp_velocity_error"] < 1e-3


def test_a_ball_that_is_not_drawn_down_by_gravity_is_noticed() -> None:
    reader, _, truths = made("parabola", IN_DISTRIBUTION, 32, 6)
    for truth in truths:
        floating = truth.positions.copy()
        floating[3:, :, 1] = floating[2, :, 1]
        verdict = reader.judge(torch.from_numpy(paint(floating, truth.radii, 32)), truth)
        asked = counted(truth, WORLD)
        fallen = (truth.positions[asked[0], 0, 1] - truth.positions[asked[-1], 0, 1]) / (0.1 * (len(asked) - 1))
        assert verdict.sharp_velocity_error == pytest.approx(fallen, abs=0.02) and fallen > 2.0


@pytest.mark.parametrize("noise", [4.0, 12.0])
def test_noise_moves_the_reading_little(noise: float) -> None:
    reader, videos, truths = made("collision", IN_DISTRIBUTION, 32, 8)
    generator = torch.Generator().manual_seed(0)
    noisy = [(each / 127.5 - 1.0) + torch.randn(each.shape, generator=generator) * noise / 127.5 for each in videos]
    report = Report.of(reader.judge, noisy, truths, MEASURES)
    assert report.metrics()["sharp_velocity_error"] < 0.03 and report.metrics()["found"] == 1.0


def test_a_frozen_clip_is_wrong_by_the_speed() -> None:
    reader, videos, truths = made("uniform", IN_DISTRIBUTION, 32, 8)
    for video, truth in zip(videos, truths, strict=True):
        verdict = reader.judge(torch.cat([video[:, :3], video[:, 2:3].expand(-1, 28, -1, -1)], 1), truth)
        speed = 10.0 * (truth.positions[1, 0, 0] - truth.positions[0, 0, 0])
        assert verdict.velocity_error == verdict.sharp_velocity_error == pytest.approx(speed)
        assert verdict.frame_error == pytest.approx(speed)


def test_a_ball_of_another_speed_is_wrong_by_the_difference() -> None:
    reader, _, truths = made("uniform", IN_DISTRIBUTION, 64, 6)
    for truth in truths:
        slow = truth.positions.copy()
        slow[3:, :, 0] = slow[2, :, 0] + 0.8 * (truth.positions[3:, :, 0] - slow[2, :, 0])
        verdict = reader.judge(torch.from_numpy(paint(slow, truth.radii, 64)), truth)
        speed = 10.0 * (truth.positions[1, 0, 0] - truth.positions[0, 0, 0])
        assert verdict.sharp_velocity_error == pytest.approx(0.2 * speed, abs=0.01)


def test_a_ball_that_vanishes_is_counted_and_costs() -> None:
    """It stands at the edge, as in the public script: whoever shows nothing gains nothing."""
    reader, videos, truths = made("uniform", IN_DISTRIBUTION, 32, 4)
    video, truth = videos[0].clone(), truths[0]
    video[:, 10:] = 255
    asked = counted(truth, WORLD)
    verdict = reader.judge(video, truth)
    assert verdict.found == pytest.approx((asked < 10).mean()) and verdict.reasons[0] == "frame 10: no red ball"
    video[:, 3:] = 255
    gone = reader.judge(video, truth)
    speed = 10.0 * (truth.positions[1, 0, 0] - truth.positions[0, 0, 0])
    assert gone.found == 0.0 and gone.velocity_error == pytest.approx(speed) and gone.position_error > 1.0
    white = reader.judge(torch.full(video.shape, float("nan")), truth)
    assert white.found == 0.0 and np.isfinite(white.velocity_error)


def test_swapped_and_passing_balls_are_noticed() -> None:
    reader, videos, truths = made("collision", IN_DISTRIBUTION, 32, 8)
    for video, truth in zip(videos, truths, strict=True):
        right = reader.judge(video, truth)
        swapped = reader.judge(video.flip(0), truth)  # red is blue, and blue is red
        assert swapped.sharp_velocity_error > 0.5 > 0.02 > right.sharp_velocity_error
        assert right.error_before is not None and right.error_after is not None
        assert right.momentum_error is not None and right.momentum_error < 0.2
        through = truth.positions.copy()
        through[3:, :, 0] = truth.positions[2, :, 0] + np.arange(1, 29)[:, None] * np.diff(
            truth.positions[:2, :, 0], axis=0
        )
        passed = reader.judge(torch.from_numpy(paint(through, truth.radii, 32)), truth)
        assert passed.error_after is not None and passed.error_after > 0.3 > 0.03 > (passed.error_before or 0.0)


def test_a_ball_that_grows_is_noticed() -> None:
    reader, videos, truths = made("parabola", IN_DISTRIBUTION, 64, 1)
    assert reader.judge(videos[0], truths[0]).size_change < 0.03
    parts = [
        paint(truths[0].positions[:15], truths[0].radii, 64),
        paint(truths[0].positions[15:], 1.3 * truths[0].radii, 64),
    ]
    grown = reader.judge(torch.from_numpy(np.concatenate(parts, 1)), truths[0])
    assert grown.size_change == pytest.approx(0.3 * truths[0].radii[0], abs=0.05)


def test_frames_in_which_the_ball_leaves_do_not_count() -> None:
    _, _, truths = made("uniform", UNSEEN[1], 32, 20)
    for truth in truths:
        asked = counted(truth, WORLD)
        edges = truth.positions[asked, 0, 0] + truth.radii[0]
        assert asked[0] == 3 and edges.max() <= WORLD
        assert len(asked) == 28 or truth.positions[asked[-1] + 1, 0, 0] + truth.radii[0] > WORLD
    with pytest.raises(ValueError, match="0 frames behind the 31 given ones"):
        counted(Balls(truths[0].positions, truths[0].radii, 10.0, 31), WORLD)


def test_what_cannot_be_held_against_a_truth_is_said_in_a_line() -> None:
    reader, videos, truths = made("uniform", IN_DISTRIBUTION, 32, 2)
    with pytest.raises(ValueError, match="a video of 30 frames cannot be held against the truth of 31"):
        reader.judge(videos[0][:, :30], truths[0])
    with pytest.raises(ValueError, match="a picture of 32x30 is none of a square world"):
        reader.judge(videos[0][..., :30], truths[0])
    with pytest.raises(ValueError, match="2 videos for 1 expectations"):
        Report.of(reader.judge, videos, truths[:1], MEASURES)


def test_a_report_has_means_and_intervals_of_what_its_clips_have() -> None:
    one = Verdict(0.1, 0.2, None, None, 0.3, 0.4, None, None, 0.5, 1.0, ())
    two = Verdict(0.3, 0.4, None, None, 0.3, 0.4, None, None, 0.5, 0.5, ("frame 3: no red ball",))
    report = Report((one, two), MEASURES)
    assert report.metrics()["velocity_error"] == pytest.approx(0.2) and "error_after" not in report.metrics()
    found, half = report.estimates()["velocity_error"], 12.706 * 0.1  # Student's t of two values
    assert (found.low, found.high) == pytest.approx((0.2 - half, 0.2 + half), abs=1e-3)
    assert report.estimates()["found"].high is not None  # a number of each clip, not one that is right or wrong
    assert report.estimates()["found"].high > 1.0
    assert set(report.metrics()) < set(MEASURES)
    assert all(each.low is None for each in Report((one,), MEASURES).estimates().values())
