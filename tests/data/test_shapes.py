"""Which shape a clip gets, out of what the manifest says, and what is said of clips that get none."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.batch import Shape
from data.buckets import Buckets
from data.extents import extents
from data.manifest import read_manifest
from data.shapes import CUT, SHORT, SMALL, UNKNOWN, Extents, Pixels, Shapes, assign

OWN = Shape(8, 64, 64)


def shapes(**changed: Any) -> Shapes:
    settings: dict[str, Any] = {
        "shapes": None, "sides": None, "aspects": ["9:16", "1:1", "16:9"], "lengths": None, "tokens": None,
        "max_enlarge": 1.0, "max_cut": 0.5,
    }  # fmt: skip
    return Buckets(**{**settings, **changed})


class Sixteens:
    """Patches of 2 x 16 x 16 pixels."""

    def tokens(self, num_frames: int, height: int, width: int) -> int:
        if num_frames % 2 or height % 16 or width % 16:
            raise ValueError("not whole patches")
        return num_frames // 2 * (height // 16) * (width // 16)

    def nearest(self, num_frames: int, height: int, width: int) -> tuple[int, int, int]:
        steps = ((num_frames, 2), (height, 16), (width, 16))
        frames, rows, columns = (max(1, round(size / step)) * step for size, step in steps)
        return frames, rows, columns


# ---- the list ------------------------------------------------------------------------------------------------------


def test_a_list_is_all_lengths_by_sides_by_aspects_as_codec_and_network_take_them() -> None:
    found = shapes(lengths=[1, 8, 17], sides=[64, 128]).listed(OWN, Sixteens())
    assert {shape.num_frames for shape in found} == {2, 8, 16}
    assert {shape[1:] for shape in found} == {
        (64, 64), (48, 80), (80, 48), (128, 128), (96, 176), (176, 96),
    }  # fmt: skip
    assert found == sorted(set(found))


def test_by_default_it_has_as_many_pixels_as_the_run_and_its_length_half_of_it_and_images() -> None:
    assert shapes(aspects=["1:1"]).listed(OWN, Pixels()) == [Shape(1, 64, 64), Shape(4, 64, 64), Shape(8, 64, 64)]


def test_a_written_shape_that_cannot_be_taken_is_named_with_the_nearest() -> None:
    assert shapes(shapes=[[8, 64, 64], [2, 48, 80]]).listed(OWN, Sixteens()) == [(2, 48, 80), (8, 64, 64)]
    with pytest.raises(ValueError, match=r"data.shapes.shapes: \[8, 64, 70\] .* nearest: \[8, 64, 64\]"):
        shapes(shapes=[[8, 64, 70]]).listed(OWN, Sixteens())


def test_the_budget_is_that_of_as_many_clips_or_a_number_and_holds_every_clip() -> None:
    assert shapes().budget(OWN, 6, [OWN], Sixteens()) == 6 * 64
    assert shapes(tokens=100).budget(OWN, 6, [OWN], Sixteens()) == 100
    with pytest.raises(ValueError, match="a clip of 16x64x64 has 128 tokens, and a batch 100 .*data.shapes.tokens=128"):
        shapes(tokens=100).budget(OWN, 6, [OWN, Shape(16, 64, 64)], Sixteens())


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"shapes": [[8, 64]]}, r"\[8, 64\] is no \[num_frames, height, width\]"),
        ({"sides": [0]}, "data.shapes.sides: 0 is too small"),
        ({"lengths": []}, r"data.shapes.lengths=\[\] holds nothing"),
        ({"aspects": ["16/9"]}, "data.shapes.aspects: '16/9' is no aspect ratio"),
        ({"aspects": ["1:0"]}, "'1:0' is no aspect ratio"),
        ({"tokens": 0}, "data.shapes.tokens: 0 is too small"),
        ({"max_enlarge": 0.5}, "data.shapes.max_enlarge=0.5 must be at least 1"),
        ({"max_cut": 1.0}, "data.shapes.max_cut=1.0 must be from 0 to below 1"),
    ],
)
def test_what_cannot_be_meant_is_named(changed: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        shapes(**changed)


# ---- the rule ------------------------------------------------------------------------------------------------------

LIST = [
    Shape(1, 64, 64), Shape(1, 48, 80), Shape(1, 80, 48), Shape(8, 64, 64), Shape(8, 48, 80), Shape(8, 80, 48),
    Shape(8, 128, 128), Shape(16, 64, 64),
]  # fmt: skip


def given(*clips: tuple[int, int, int], images: bool = False) -> Extents:
    frames, heights, widths = np.array(clips).T
    return Extents(frames, heights, widths, np.full(len(clips), images))


def chosen(*clips: tuple[int, int, int], images: bool = False, enlarge: float = 1.0, cut: float = 0.5) -> list[Any]:
    numbers = assign(given(*clips, images=images), LIST, enlarge, cut)
    return [LIST[number] if number >= 0 else number for number in numbers]


def test_the_longest_length_then_the_nearest_aspect_ratio_then_the_largest() -> None:
    assert chosen((100, 64, 64), (100, 720, 1280), (15, 720, 1280), (15, 1280, 720), (15, 300, 300)) == [
        (16, 64, 64), (16, 64, 64), (8, 48, 80), (8, 80, 48), (8, 128, 128),
    ]  # fmt: skip
    assert chosen((7, 720, 1280), (1, 64, 64)) == [(1, 48, 80), (1, 64, 64)]


def test_aspect_ratios_that_rounding_sets_apart_count_as_equal() -> None:
    """Of 1.67 and 1.83, both meant as 16:9, a clip of 1.7 is nearer to the first and gets the larger."""
    rounded = [Shape(8, 48, 80), Shape(8, 96, 176), Shape(8, 96, 208)]
    assert assign(given((9, 1000, 1700)), rounded, 1.0, 0.5).tolist() == [1]


def test_images_have_the_shortest_length() -> None:
    assert chosen((-1, 720, 1280), (0, 900, 900), images=True) == [(1, 48, 80), (1, 64, 64)]
    shortest = assign(given((-1, 900, 900), images=True), [Shape(8, 64, 64), Shape(16, 64, 64)], 1.0, 0.5)
    assert shortest.tolist() == [0]


def test_what_fits_nowhere_has_a_reason() -> None:
    assert chosen((0, 64, 64), (20, 40, 40), (20, 100, 1000), (-1, 64, 64), (9, -1, 64)) == [
        SHORT, SMALL, CUT, UNKNOWN, UNKNOWN,
    ]  # fmt: skip


def test_a_length_is_given_up_for_the_aspect_ratio_only_where_too_much_would_be_cut_off() -> None:
    wide = (20, 720, 1280)  # 0.44 of it are cut off for a square
    assert chosen(wide) == [(16, 64, 64)]
    assert chosen(wide, cut=0.4) == [(8, 48, 80)]
    assert chosen(wide, cut=0.01) == [CUT]


def test_small_clips_are_enlarged_where_that_is_asked_for_and_as_little_as_can_be() -> None:
    assert chosen((9, 60, 60)) == [SMALL]
    assert chosen((9, 60, 60), (9, 70, 70), enlarge=3.0) == [(8, 64, 64), (8, 64, 64)]
    assert chosen((9, 60, 60), enlarge=1.05) == [SMALL]


def test_many_kinds_of_clips_are_told_apart_as_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    clips = Extents(
        rng.integers(-1, 20, 500), rng.integers(-1, 200, 500), rng.integers(-1, 200, 500), rng.random(500) < 0.3
    )
    together = assign(clips, LIST, 1.2, 0.5)
    alone = [int(assign(Extents(*(each[i : i + 1] for each in clips)), LIST, 1.2, 0.5)[0]) for i in range(500)]
    assert together.tolist() == alone and len(set(alone)) > 8
    monkeypatch.setattr("data.shapes.ROWS", 7)
    assert assign(clips, LIST, 1.2, 0.5).tolist() == alone


# ---- the columns ---------------------------------------------------------------------------------------------------


def manifest(folder: Path, header: str, *rows: str) -> Any:
    file = folder / "list.csv"
    file.write_text("\n".join([header, *rows]) + "\n")
    (folder / "a.mp4").touch()
    return read_manifest(None, file)


def test_frames_follow_from_seconds_and_the_part_that_is_meant(tmp_path: Path) -> None:
    clips = manifest(
        tmp_path, "path,caption,start,end,duration,fps,frames,height,width",
        "a.mp4,,,,2,24,48,480,640",  # 47 frames of 1/24 s, and half of the last one's time
        "a.mp4,,,,2.002,29.97,60,480,640",  # rounded to milliseconds
        "a.mp4,,1,2,1,8,,480,640",
        "a.mp4,,,,1.5,,,480,640",  # no rate: the run's own
        "a.mp4,,,,,8,16,480,640",
        "a.mp4,,3,,,,,480,640",  # nobody knows
        "a.mp4,,2,1,,8,16,480,640",  # no part at all
        "b.png,,,,,,,480,640",
    )  # fmt: skip
    found = extents(clips, fps=8)
    assert found.frames.tolist() == [16, 16, 8, 12, 16, -1, 0, -1]
    assert found.images.tolist() == [False] * 7 + [True]
    assert set(found.heights) == {480} and set(found.widths) == {640}


def test_without_the_columns_nothing_is_known(tmp_path: Path) -> None:
    found = extents(manifest(tmp_path, "path,caption", "a.mp4,x"), fps=8)
    assert (found.frames.tolist(), found.heights.tolist(), found.widths.tolist()) == ([-1], [-1], [-1])


class Sized:
    """Clips that are nothing but their sizes."""

    def __init__(self, found: Extents) -> None:
        self.found = found
        self.left_out: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self.found.frames)

    def __getitem__(self, index: int) -> Any:
        raise AssertionError("no clip is opened to plan an epoch")

    draw = __getitem__

    def extents(self) -> Extents:
        return self.found

    def shaped(self, number: np.ndarray, left_out: dict[str, int]) -> "Sized":
        kept = Sized(Extents(*(each[number >= 0] for each in self.found)))
        kept.left_out = left_out
        return kept


def test_shapes_and_clips_that_are_left_out_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    clips = Sized(given((9, 100, 100), (9, 90, 90), (9, 10, 10), (0, 99, 99), (4, 100, 100)))
    shaped = shapes().of(clips, OWN, Pixels(), "to train on")
    assert [shaped.shapes[number] for number in shaped.number] == [(8, 64, 64), (8, 64, 64), (4, 64, 64)]
    assert len(shaped.clips) == 3
    assert shaped.clips.left_out == {  # type: ignore[attr-defined]
        "shape: too short for every shape": 1, "shape: smaller than every shape": 1,
    }  # fmt: skip
    said = [record.getMessage() for record in caplog.records]
    assert "clips to train on by frames, height and width: 2 of 8x64x64, 1 of 4x64x64" in said
    assert any("2 of 5 clips to train on are left out: 1 too short for every shape, 1 smaller" in each for each in said)


def test_no_clip_at_all_is_an_error_that_says_what_is_missing() -> None:
    with pytest.raises(ValueError, match="none of 1 clips to train on fits a shape .*not known.*validate_data"):
        shapes().of(Sized(given((-1, 9, 9))), OWN, Pixels(), "to train on")
    with pytest.raises(ValueError, match=r"none of 1 clips .* \(1 smaller than every shape\); there are 1x48x85, "):
        shapes().of(Sized(given((9, 9, 9))), OWN, Pixels(), "to train on")
    with pytest.raises(ValueError, match="data.shapes wants clips of files.*list has one shape"):
        shapes().of([], OWN, Pixels(), "to train on")  # type: ignore[arg-type]
