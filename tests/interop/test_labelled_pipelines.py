"""DiT out of its folder: classes by number and by name, and the same pictures from the same seeds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dit.sampling.pipeline import Pipeline
from scripts.twins.pipelines import CLASSES, ours, saved

NAMES = {str(number): f"thing {number}" for number in range(1000)}
NAMES |= {"0": "tench, Tinca tinca", "134": "crane", "517": "crane", "207": "golden retriever"}


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    folder = tmp_path_factory.mktemp("published")
    return saved("dit", folder), folder


@pytest.fixture
def named(theirs: tuple[Any, Path]) -> Callable[[Any], Path]:
    """The folder, whose model_index.json says these names of classes."""
    file = theirs[1] / "model_index.json"

    def with_names(names: Any) -> Path:
        file.write_text(json.dumps({**json.loads(file.read_text()), "id2label": names}))
        return theirs[1]

    return with_names


def test_a_seed_makes_the_picture_that_it_makes_there(theirs: tuple[Any, Path]) -> None:
    pipeline, folder = theirs
    generators = [torch.Generator().manual_seed(seed) for seed in CLASSES.seeds]
    numbers = [int(number) for number in CLASSES.prompts]
    wanted = pipeline(numbers, CLASSES.scale, generators, CLASSES.num_steps, output_type="pt").images
    made = ours("dit", folder, CLASSES)(CLASSES.prompts, CLASSES.seeds).pixels
    torch.testing.assert_close(made[:, :, 0], wanted * 2 - 1, rtol=0, atol=1e-5)


def test_its_size_is_that_of_its_network(theirs: tuple[Any, Path]) -> None:
    shape = Pipeline.from_pretrained(theirs[1], "cpu").shape
    assert (shape.num_frames, shape.height, shape.width) == (1, 64, 64)


def test_classes_have_names(named: Callable[[Any], Path]) -> None:
    pipeline = Pipeline.from_pretrained(named(NAMES), "cpu", num_steps=2)
    assert pipeline.signals["label"].around.classes[207] == "golden retriever"
    for said, number in (("golden retriever", 207), ("Tinca tinca", 0), ("tench, Tinca tinca", 0)):
        cond = pipeline.condition(pipeline.job(said, 0).batches[0], pipeline.canvas())
        assert cond["label"].tolist() == [number]


@pytest.mark.parametrize(
    ("said", "match"),
    [
        ("1001", "class '1001' is not known: this network reads class numbers, 0 to 999"),
        ("-1", "class '-1' is not known"),
        ("golden retreiver", "class 'golden retreiver' is not known.*golden retriever"),
        ("crane", "class 'crane' is what classes 134 and 517 are called: give the number"),
    ],
)
def test_a_class_that_cannot_be_is_one_line(said: str, match: str, named: Callable[[Any], Path]) -> None:
    pipeline = Pipeline.from_pretrained(named(NAMES), "cpu")
    with pytest.raises(ValueError, match=match):
        pipeline(said, 0)


@pytest.mark.parametrize(
    ("names", "match"),
    [
        (["tench"], "id2label must name each of the 1000 classes of the network"),
        ({"0": "tench"}, "id2label must name each of the 1000 classes"),
        ({**NAMES, "5": 5}, "id2label must name classes by texts of one line"),
        ({**NAMES, "5": "a\nb"}, "id2label must name classes by texts of one line"),
    ],
)
def test_names_that_cannot_be_are_one_line(names: Any, match: str, named: Callable[[Any], Path]) -> None:
    with pytest.raises(ValueError, match=match):
        Pipeline.from_pretrained(named(names), "cpu")


@pytest.mark.parametrize("channels", [None, [], 8])
def test_a_codec_that_does_not_say_its_stride_is_one_line(channels: Any, theirs: tuple[Any, Path]) -> None:
    file = theirs[1] / "vae" / "config.json"
    kept = file.read_text()
    file.write_text(json.dumps({**json.loads(kept), "block_out_channels": channels}))
    try:
        with pytest.raises(ValueError, match="block_out_channels=.* must be a list of channels"):
            Pipeline.from_pretrained(theirs[1], "cpu")
    finally:
        file.write_text(kept)
