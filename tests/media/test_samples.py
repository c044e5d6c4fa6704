"""A set of samples on disk."""

import json
from pathlib import Path

import av
import pytest
import torch
from PIL import Image

from dit.media.samples import file_name, write_samples


@pytest.mark.parametrize("count, sheet_clips", [(1, None), (5, None), (5, 2), (2, 9)])
def test_everything_is_written_and_says_how_it_was_made(tmp_path: Path, count: int, sheet_clips: int | None) -> None:
    pixels = torch.rand(count, 3, 5, 12, 16) * 2 - 1
    facts = [{"prompt": f"clip {i}", "seed": 7 + i, "fps": 8, "weights": "ema:narrow"} for i in range(count)]
    paths = write_samples(tmp_path / "new", pixels, facts, sheet_clips)
    assert [path.suffix for path in paths] == [".mp4"] * count + [".png"]
    for path, fact in zip(paths, facts, strict=False):
        assert json.loads(path.with_suffix(".json").read_text()) == fact
        with av.open(str(path)) as container:
            assert container.metadata["prompt"] == fact["prompt"] and container.metadata["weights"] == "ema:narrow"
            assert sum(1 for _ in container.decode(video=0)) == 5
    with Image.open(paths[-1]) as sheet:
        shown = json.loads(sheet.text["settings"])
    assert [each["seed"] for each in shown] == [7 + i for i in range(min(count, sheet_clips or count))]


def test_names_are_readable_and_apart() -> None:
    assert file_name("A red circle, moves RIGHT!", 3) == "a-red-circle-moves-right-seed-3"
    assert file_name("", 0) == "no-prompt-seed-0" and file_name(207, 1) == "207-seed-1"
    assert len(file_name("long " * 99, 1)) < 64
