"""A set of samples on disk."""

import json
from pathlib import Path

import av
import pytest
import torch
from PIL import Image

from dit.media.samples import SampleSet, file_name, read_back


def facts(count: int) -> list[dict]:
    return [
        {
            "prompt": f"clip {i}",
            "seed": 7 + i,
            "fps": 8,
            "height": 12,
            "width": 16,
            "task": {"a": None},
            "batch": [0] * 99,
        }
        for i in range(count)
    ]


@pytest.mark.parametrize("count, most", [(1, 24), (5, 24), (5, 2)])
def test_each_sample_is_whole_when_it_is_written_and_says_how_it_was_made(
    tmp_path: Path, count: int, most: int
) -> None:
    samples = SampleSet(tmp_path, facts(count))
    for index, clip in enumerate(torch.rand(count, 3, 5, 12, 16) * 2 - 1):
        assert not samples.has(index)
        path = samples.write(index, clip)
        assert samples.has(index) and path == samples.videos[index]
        said = json.loads(path.with_suffix(".json").read_text())
        assert facts(count)[index].items() <= said.items() and {"commit", "torch", "av"} <= said["versions"].keys()
        with av.open(str(path)) as container:
            assert container.metadata["prompt"] == f"clip {index}" and container.metadata["task"] == '{"a": null}'
            assert sum(1 for _ in container.decode(video=0)) == 5
    with Image.open(samples.sheet(most)) as sheet:
        shown = json.loads(sheet.text["settings"])  # type: ignore[attr-defined]
        height = sheet.height
    assert [each["seed"] for each in shown] == [7 + i for i in range(min(count, most))] and "batch" not in shown[0]
    if most < count:
        with Image.open(SampleSet(tmp_path, facts(most)).sheet(most)) as whole:
            assert height > whole.height, "a line says how many are left out"


def test_the_sheet_shows_what_was_written(tmp_path: Path) -> None:
    samples = SampleSet(tmp_path, facts(1))
    clip = (torch.rand(3, 2, 12, 16) > 0.5).float() * 2 - 1
    assert (read_back(samples.write(0, clip)).float() / 127.5 - 1 - clip).abs().mean() < 0.05


def test_names_are_readable_and_apart(tmp_path: Path) -> None:
    assert file_name("A red circle, moves RIGHT!", 3) == "a-red-circle-moves-right-seed-3"
    assert file_name("", 0) == "no-prompt-seed-0" and file_name(207, 1) == "207-seed-1"
    assert len(file_name("long " * 99, 1)) < 64
    alike = [{"prompt": prompt, "seed": 1, "fps": 8} for prompt in ("圆", "方", "")]
    assert len({path.name for path in SampleSet(tmp_path, alike).videos}) == 3
