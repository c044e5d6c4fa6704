"""A contact sheet shows each clip's own frames, in time order, with its caption."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFont

from dit.media.sheet import CARD, INK, _wrap, contact_sheet


def flat(*levels: int, size: int = 16) -> torch.Tensor:
    """One grey level a frame."""
    return torch.tensor(levels, dtype=torch.uint8).view(1, -1, 1, 1).expand(3, -1, size, size)


def greys(path: Path, wanted: set[int]) -> list[int]:
    """Which of the wanted grey levels fill whole frames, in reading order."""
    pixels = np.asarray(Image.open(path).convert("RGB"))
    found: list[int] = []
    for row in pixels:
        inside = [int(p[0]) for p in row if p[0] == p[1] == p[2] and int(p[0]) in wanted]
        in_order = [level for i, level in enumerate(inside) if i == 0 or level != inside[i - 1]]
        if in_order and in_order != found[-len(in_order) :]:
            found += in_order
    return found


def test_frames_are_in_time_order_and_cards_in_reading_order(tmp_path: Path) -> None:
    videos = [flat(40, 60, 80), flat(90, 100, 120), flat(130, 150, 160)]
    contact_sheet(tmp_path / "s.png", videos, ["", "", ""], columns=2, frames_per_video=3, scale=3, metadata={})
    assert greys(tmp_path / "s.png", {40, 60, 80, 90, 100, 120, 130, 150, 160}) == [
        *(40, 60, 80, 90, 100, 120),
        *(130, 150, 160),
    ]


def test_long_clips_show_first_and_last_frame_and_even_steps(tmp_path: Path) -> None:
    levels = list(range(40, 140, 10))
    contact_sheet(tmp_path / "s.png", [flat(*levels)], ["x"], columns=1, frames_per_video=4, scale=2, metadata={})
    assert greys(tmp_path / "s.png", set(levels)) == [40, 70, 100, 130]


def test_metadata_comes_back_and_captions_leave_ink(tmp_path: Path) -> None:
    words = {"prompt": "a röd circle", "weights": "ema 0.999"}
    for name, caption in (("with", "a red circle moves right"), ("without", " ")):
        contact_sheet(tmp_path / f"{name}.png", [flat(200)], [caption], 1, 1, 16, words)
    ink = {
        name: (np.asarray(Image.open(tmp_path / f"{name}.png")) == INK).all(-1).sum() for name in ("with", "without")
    }
    assert ink["with"] > ink["without"]
    image = Image.open(tmp_path / "with.png")
    assert {key: image.text[key] for key in words} == words  # type: ignore[attr-defined]
    assert [file.name for file in sorted(tmp_path.iterdir())] == ["with.png", "without.png"]


def test_clips_of_different_sizes_share_a_sheet(tmp_path: Path) -> None:
    contact_sheet(tmp_path / "s.png", [flat(50, size=8), flat(70, 90, size=24)], ["a", "b"], 2, 8, 2, {}, title="mixed")
    image = np.asarray(Image.open(tmp_path / "s.png"))
    assert (image == 50).all(-1).sum() == 16 * 16
    assert (image == 90).all(-1).sum() == 48 * 48
    assert (image == CARD).all(-1).any()


def test_captions_are_wrapped_to_the_strip_and_cut_with_dots() -> None:
    font = ImageFont.load_default(20)
    long = "a small green square bounces between the walls " * 9
    for caption in (long, "x" * 400, "short", "one " + "y" * 300):
        lines = _wrap(caption, font, 300)
        assert 1 <= len(lines) <= 2
        assert all(font.getlength(line) <= 300 for line in lines)
        assert lines[-1].endswith("...") == (caption != "short")
    assert " ".join(_wrap("a red circle moves right", font, 120)) == "a red circle moves right"


@pytest.mark.parametrize(
    "videos, captions, columns, says",
    [
        ([], [], 1, "0 videos"),
        ([flat(1)], ["a", "b"], 1, "1 videos, 2 captions"),
        ([flat(1)], ["a"], 0, "columns=0"),
        ([torch.zeros(4, 1, 8, 8)], ["a"], 1, r"got \(4, 1, 8, 8\)"),
    ],
)
def test_wrong_input_is_named(
    tmp_path: Path, videos: list[torch.Tensor], captions: list[str], columns: int, says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        contact_sheet(tmp_path / "s.png", videos, captions, columns, 2, 1, {})
    assert list(tmp_path.iterdir()) == []
