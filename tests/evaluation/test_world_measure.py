"""The measure reads real clips of the world right, and notices each way of spoiling one in the right column."""

from math import hypot

import numpy as np
import pytest
import torch
import torch.nn.functional as functional

from data.worlds.world import World
from dit.evaluation.verdicts import Report
from dit.evaluation.world import COLUMNS, MEASURES, Expectation, Reader, Verdict
from dit.statistics import Estimate

COLOURS = {
    "red": (230, 25, 25),
    "green": (25, 200, 25),
    "blue": (40, 60, 255),
    "yellow": (250, 230, 20),
    "purple": (200, 40, 230),
    "white": (250, 250, 250),
}


def make_world(seed: int = 0, side: int = 32, num_frames: int = 8, **changes: object) -> World:
    arguments: dict[str, object] = {
        "seed": seed,
        "num_clips": 1000,
        "num_frames": num_frames,
        "height": side,
        "width": side,
        "fps": float(num_frames),
        "shapes": ["circle", "square", "triangle", "diamond", "star"],
        "colours": COLOURS,
        "directions": ["left", "right", "up", "down"],
        "sizes": {"plain": 0.14},
        "speeds": {"plain": 0.5},
        "speed_jitter": 0.0,
        "motions": {"straight": 1.0},
        "num_objects": {1: 1.0},
        "gravity": 0.0,
        "background": [16, 16, 24],
        "split": "train",
        "heldout_fraction": 0.2,
    }
    return World(**(arguments | changes))  # type: ignore[arg-type]


def as_video(world: World, index: int) -> tuple[torch.Tensor, Expectation]:
    """Clip `index` as float `(3, F, H, W)` in [-1, 1], and what its caption promises."""
    clip = world.clip(index)
    pixels = torch.from_numpy(clip.pixels.copy()).permute(3, 0, 1, 2)
    return pixels.float() / 127.5 - 1.0, Expectation(**world.expect(clip.caption))


def blurred(video: torch.Tensor, sigma: float) -> torch.Tensor:
    kernel = torch.exp(-0.5 * (torch.arange(-4, 5) / sigma) ** 2)
    kernel = kernel / kernel.sum()
    channels, frames, height, width = video.shape
    images = functional.pad(video.reshape(-1, 1, height, width), (4, 4, 4, 4), mode="replicate")
    images = functional.conv2d(functional.conv2d(images, kernel.view(1, 1, 1, 9)), kernel.view(1, 1, 9, 1))
    return images.reshape(channels, frames, height, width)


def wrong(verdict: Verdict) -> set[str]:
    return {column for column in COLUMNS if not getattr(verdict, column)}


SETTINGS = {
    "32 pixels": make_world(seed=1),
    "32 pixels, held out": make_world(seed=2, split="heldout"),
    "64 pixels, sizes, speeds, diagonals": make_world(
        seed=3,
        side=64,
        num_frames=16,
        sizes={"small": 0.08, "plain": 0.11, "large": 0.14},
        speeds={"slowly": 0.25, "plain": 0.375, "quickly": 0.5},
        directions=["left", "right", "up and left", "down and right"],
    ),
    "wide": make_world(seed=4, width=48),
}


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize(("sigma", "noise"), [(0.0, 0.0), (1.0, 0.0), (0.0, 8.0), (0.7, 6.0)])
def test_real_clips_are_read_right_also_soft_and_noisy(name: str, sigma: float, noise: float) -> None:
    world = SETTINGS[name]
    reader = Reader(**world.legend())
    generator = torch.Generator().manual_seed(5)
    videos, expectations = [], []
    for index in range(60 if sigma == noise == 0.0 and world.height == 32 else 8):
        video, expected = as_video(world, index)
        video = blurred(video, sigma) if sigma else video
        videos.append(video + torch.randn(video.shape, generator=generator) * noise / 127.5)
        expectations.append(expected)
    report = Report.of(reader.judge, videos, expectations, MEASURES)
    assert [verdict.reasons for verdict in report.verdicts if not verdict.all] == []
    assert max(verdict.speed_error for verdict in report.verdicts) < 0.05
    if sigma == 0.0:
        assert report.metrics()["outline_error"] < (0.05 if noise else 0.02)


def test_centroids_agree_with_the_exact_state_to_a_fraction_of_a_pixel() -> None:
    world = make_world(seed=6)
    reader = Reader(**world.legend())
    for index in range(30):
        clip = world.clip(index)
        track = reader.read(torch.from_numpy(clip.pixels.copy()).permute(3, 0, 1, 2)).track
        assert track is not None
        np.testing.assert_allclose(track.centroids, clip.state.positions[:, 0] * world.height, atol=0.15)


def test_uint8_and_float_videos_read_alike() -> None:
    world = make_world(seed=7)
    reader = Reader(**world.legend())
    video, expected = as_video(world, 3)
    levels = ((video + 1.0) * 127.5).round().to(torch.uint8)
    assert reader.judge(levels, expected).all
    first, second = reader.read(video), reader.read(levels)
    assert first.colours == second.colours and first.radius == pytest.approx(second.radius, abs=1e-4)


def other(words: list[str], word: str) -> str:
    return words[(words.index(word) + 1) % len(words)]


@pytest.mark.parametrize("index", range(10))
class TestSpoiledClips:
    """Every spoiled clip is made from a real one; the columns that stay right must stay right."""

    world = make_world(seed=8)
    reader = Reader(**world.legend())

    def film(self, expected: Expectation, index: int, **changes: str) -> torch.Tensor:
        """The clip of a caption with some words changed, starting where the original starts."""
        words = self.world.clip(index).state.spec.objects[0]
        caption = (
            f"a {changes.get('colour', words.colour)} {changes.get('shape', words.shape)} "
            f"moves {changes.get('direction', words.direction)}"
        )
        pixels = self.world.film(caption, index).pixels
        return torch.from_numpy(pixels.copy()).permute(3, 0, 1, 2).float() / 127.5 - 1.0

    def test_wrong_colour(self, index: int) -> None:
        _, expected = as_video(self.world, index)
        spoiled = self.film(expected, index, colour=other(list(COLOURS), expected.colour))
        assert wrong(self.reader.judge(spoiled, expected)) == {"colour"}

    def test_wrong_shape(self, index: int) -> None:
        _, expected = as_video(self.world, index)
        spoiled = self.film(expected, index, shape=other(self.world.shapes, expected.shape))
        assert wrong(self.reader.judge(spoiled, expected)) == {"shape"}

    def test_wrong_direction(self, index: int) -> None:
        _, expected = as_video(self.world, index)
        word = self.world.clip(index).state.spec.objects[0].direction
        spoiled = self.film(expected, index, direction=other(self.world.directions, word))
        assert wrong(self.reader.judge(spoiled, expected)) == {"direction"}

    def test_reversed(self, index: int) -> None:
        video, expected = as_video(self.world, index)
        verdict = self.reader.judge(video.flip(1), expected)
        assert wrong(verdict) == {"direction"} and verdict.speed_error < 0.05

    def test_frozen(self, index: int) -> None:
        video, expected = as_video(self.world, index)
        verdict = self.reader.judge(video[:, :1].expand_as(video), expected)
        assert wrong(verdict) == {"direction"}
        assert verdict.speed_error == pytest.approx(hypot(*expected.velocity), abs=1e-6)
        assert verdict.outline_error < 0.05  # the outline is right all the same

    @pytest.mark.parametrize("frames", [slice(4, 5), slice(0, 1), slice(5, 8)])
    def test_vanishing(self, index: int, frames: slice) -> None:
        video, expected = as_video(self.world, index)
        video[:, frames] = torch.tensor(self.world.background).view(3, 1, 1, 1) / 127.5 - 1.0
        assert wrong(self.reader.judge(video, expected)) == {"permanence"}

    def test_fading(self, index: int) -> None:
        video, expected = as_video(self.world, index)
        paper = torch.tensor(self.world.background).view(3, 1, 1, 1) / 127.5 - 1.0
        share = torch.linspace(1.0, 0.3, video.shape[1]).view(1, -1, 1, 1)
        assert not self.reader.judge(paper + share * (video - paper), expected).permanence

    @pytest.mark.parametrize("frame", [1, 4, 7])
    def test_teleporting(self, index: int, frame: int) -> None:
        video, expected = as_video(self.world, index)
        centroid = self.world.clip(index).state.positions[frame:, 0].mean(0) * 32
        axis = 2 if abs(expected.velocity[0]) > abs(expected.velocity[1]) else 1  # sideways: the direction stays
        jump = 6 if centroid[1 if axis == 2 else 0] < 16 else -6
        video[:, frame:] = torch.roll(video[:, frame:], jump, dims=axis + 1 if axis == 1 else axis)
        verdict = self.reader.judge(video, expected)
        assert not verdict.permanence and verdict.colour and verdict.shape

    def test_splitting_in_two(self, index: int) -> None:
        video, expected = as_video(self.world, index)
        paper = torch.tensor(self.world.background).view(3, 1, 1) / 127.5 - 1.0
        for frame in range(4, 8):
            middle = round(self.world.clip(index).state.positions[frame, 0, 0] * 32)
            whole = video[:, frame].clone()
            video[:, frame] = paper
            video[:, frame, :, : middle - 3] = whole[:, :, 3:middle]
            video[:, frame, :, middle + 3 :] = whole[:, :, middle:-3]
        verdict = self.reader.judge(video, expected)
        assert not verdict.permanence and verdict.colour

    def test_a_ghost_beside_the_object(self, index: int) -> None:
        video, expected = as_video(self.world, index)
        centre = self.world.clip(index).state.positions[5, 0] * 32
        ghost = torch.roll(video[:, 5], (0, 14 if centre[0] < 16 else -14), dims=(1, 2))
        video[:, 5] = torch.maximum(video[:, 5], 0.5 * ghost + 0.5 * video.amin())
        assert wrong(self.reader.judge(video, expected)) == {"permanence"}

    def test_double_speed(self, index: int) -> None:
        video, expected = as_video(self.world, index)
        spoiled = video[:, ::2]
        verdict = self.reader.judge(spoiled, expected)
        assert wrong(verdict) == set()
        assert verdict.speed_error == pytest.approx(hypot(*expected.velocity), abs=0.05)

    def test_colour_changes_on_the_way(self, index: int) -> None:
        video, expected = as_video(self.world, index)
        later = self.film(expected, index, colour=other(list(COLOURS), expected.colour))
        video[:, 6:] = later[:, 6:]
        assert "colour" in wrong(self.reader.judge(video, expected))

    def test_shape_changes_on_the_way(self, index: int) -> None:
        video, expected = as_video(self.world, index)
        video[:, 4:] = self.film(expected, index, shape=other(self.world.shapes, expected.shape))[:, 4:]
        assert "shape" in wrong(self.reader.judge(video, expected))

    def test_wrong_size(self, index: int) -> None:
        video, expected = as_video(self.world, index)
        smaller = Expectation(expected.colour, expected.shape, expected.radius * 0.75, expected.velocity)
        verdict = self.reader.judge(video, smaller)
        assert wrong(verdict) == {"size"} and 0.6 < verdict.outline_error < 1.6

    def test_outlines_of_soft_clips_are_off_where_every_column_is_right(self, index: int) -> None:
        video, expected = as_video(self.world, index)
        verdicts = [self.reader.judge(blurred(video, sigma), expected) for sigma in (0.01, 0.5, 0.7, 1.0)]
        assert all(verdict.all for verdict in verdicts)
        errors = [verdict.outline_error for verdict in verdicts]
        assert errors == sorted(errors) and errors[0] < 0.04 and 0.2 < errors[3] < 0.5

    def test_one_dented_frame_shows_in_the_mean_and_in_the_worst(self, index: int) -> None:
        video, expected = as_video(self.world, index)
        x, y = (int(place) for place in self.world.clip(index).state.positions[3, 0] * 32)
        paper = torch.tensor(self.world.background).view(3, 1, 1) / 127.5 - 1.0
        video[:, 3, y : y + 9, x - 1 : x + 1] = paper  # from the middle down
        whole, dented = (self.reader.judge(each, expected) for each in (as_video(self.world, index)[0], video))
        assert dented.outline_worst > 0.1 > 2 * whole.outline_worst - 0.02
        risen = 8 * (dented.outline_error - whole.outline_error)
        assert risen == pytest.approx(dented.outline_worst - whole.outline_worst, abs=0.06)

    def test_no_object_and_values_that_are_not_finite(self, index: int) -> None:
        video, expected = as_video(self.world, index)
        empty = (torch.tensor(self.world.background).view(3, 1, 1, 1) / 127.5 - 1.0).expand_as(video)
        video[index % 3, index % 8, index, index] = float("nan") if index % 2 else float("inf")
        for spoiled in (empty, video, torch.full_like(video, float("nan"))):
            verdict = self.reader.judge(spoiled, expected)
            assert wrong(verdict) == set(COLUMNS)
            assert verdict.speed_error == pytest.approx(hypot(*expected.velocity))
            missing = self.reader.outlines[expected.shape].missing(expected.radius)
            assert verdict.outline_error == verdict.outline_worst == pytest.approx(missing)

    def test_noise_and_grey(self, index: int) -> None:
        video, expected = as_video(self.world, index)
        generator = torch.Generator().manual_seed(index)
        for spoiled in (
            torch.rand(video.shape, generator=generator) * 2.0 - 1.0,
            torch.randn(video.shape, generator=generator),
            torch.zeros_like(video),
        ):
            verdict = self.reader.judge(spoiled, expected)
            assert wrong(verdict) == set(COLUMNS)


def test_a_report_adds_up() -> None:
    world = make_world(seed=9)
    reader = Reader(**world.legend())
    videos, expectations = zip(*(as_video(world, index) for index in range(10)), strict=True)
    spoiled = [video.flip(1) if index < 3 else video for index, video in enumerate(videos)]
    report = Report.of(reader.judge, spoiled, expectations, MEASURES)
    found = report.metrics()
    assert found["direction"] == 0.7 and found["colour"] == 1.0 and found["all"] == 0.7
    assert list(found) == list(MEASURES) and {*COLUMNS, "all"} < set(found)
    direction = report.estimates()["direction"]
    # Wilson's interval for 7 of 10, from the published formula's tables.
    assert (direction.low, direction.high) == (pytest.approx(0.397, abs=1e-3), pytest.approx(0.892, abs=1e-3))


def test_mistakes_are_refused_in_one_line() -> None:
    world = make_world()
    legend = world.legend()
    reader = Reader(**legend)
    with pytest.raises(ValueError, match="0 videos for 0 expectations"):
        Report.of(reader.judge, [], [], MEASURES)
    with pytest.raises(ValueError, match=r"\(3, F, H, W\), not \(8, 3, 32, 32\)"):
        reader.read(torch.zeros(8, 3, 32, 32))
    with pytest.raises(ValueError, match="at least 60"):
        Reader(**(legend | {"background": (200, 30, 30)}))
    with pytest.raises(ValueError, match="outlines is empty"):
        Reader(**(legend | {"outlines": {}}))


def test_a_shape_without_an_outline_is_refused() -> None:
    world = make_world()
    video, expected = as_video(world, 0)
    odd = Expectation(expected.colour, "blob", expected.radius, expected.velocity)
    with pytest.raises(ValueError, match="shape blob has no outline; there are circle, square"):
        Reader(**world.legend()).judge(video, odd)


def test_verdicts_say_why() -> None:
    world = make_world(seed=10)
    video, expected = as_video(world, 0)
    reasons = Reader(**world.legend()).judge(video[:, :1].expand_as(video), expected).reasons
    assert reasons == ("stands still",)


def test_errors_are_means_with_their_intervals() -> None:
    def estimates(*errors: float) -> dict[str, Estimate]:
        verdicts = tuple(Verdict(True, True, True, True, True, error, 2 * error, 0.5, ()) for error in errors)
        return Report(verdicts, MEASURES).estimates()

    three = estimates(0.1, 0.2, 0.6)
    half = 4.303 * 0.07**0.5 / 3**0.5  # of the sample's deviation, with Student's t of three values
    found = three["speed_error"]
    assert found.mean == pytest.approx(0.3)
    assert (found.low, found.high) == pytest.approx((0.3 - half, 0.3 + half), abs=1e-3)
    assert three["outline_error"].mean == pytest.approx(0.6)
    assert three["outline_worst"] == Estimate(0.5, 0.5, 0.5, 3)
    assert estimates(0.25)["speed_error"] == Estimate(0.25)
