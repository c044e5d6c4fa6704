"""Weights by source: who is named, how often each is shown, and what is said."""

import logging
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.buckets import Buckets
from data.epochs import Epochs, Mixture
from data.manifest import Manifest, read_manifest
from data.module import VideoData
from data.shapes import Pixels
from data.sources import longer, mixture_of
from tests.data.test_shaped_data import real_data
from tests.data.videos import write_numbered


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six rows of one clip: four of Pexels, one of Vimeo, one of nobody; the column `kind` says another thing."""
    folder = tmp_path_factory.mktemp("sources")
    write_numbered(folder / "a.mp4", count=12, fps=8, height=64, width=64)
    sources = ["Pexels", "pexels", "Pexels", "Pexels ", "vimeo", ""]
    rows = [f"a.mp4,c{i},{source},{i % 2},1.5,8,64,64" for i, source in enumerate(sources)]
    (folder / "list.csv").write_text("\n".join(["path,caption,source,kind,duration,fps,height,width", *rows]) + "\n")
    return folder


def listed(folder: Path) -> Manifest:
    return read_manifest(None, folder / "list.csv", also=["kind"])


def test_named_sources_have_their_weights_and_all_others_one(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    mixture = mixture_of(listed(folder), {"pexels": 0.5, "VIMEO": 3.0}, "source")
    assert mixture is not None and list(mixture.weights) == [0.5, 3.0, 1.0]
    assert mixture.source.tolist() == [0, 0, 0, 0, 1, 2]
    assert (
        "an epoch shows 6 clips, by source: pexels 4 x 0.5 (33.3%), vimeo 1 x 3 (50.0%), all others 1 x 1"
        in caplog.text
    )
    unknown = mixture_of(listed(folder), {"unknown": 2.0}, "source")
    assert unknown is not None and unknown.source.tolist() == [1, 1, 1, 1, 1, 0]
    by_kind = mixture_of(listed(folder), {"1": 2.0}, "kind")
    assert by_kind is not None and by_kind.source.tolist() == [1, 0, 1, 0, 1, 0]
    assert mixture_of(listed(folder), None, "source") is None


@pytest.mark.parametrize(
    ("weights", "by", "says"),
    [
        ({"pexels": 0.0}, "source", "data.weights.pexels=0 must be above 0; data.filter"),
        ({"pexel": 2.0}, "source", "data.weights names pexel, which no clip has in the column source; there is pexels"),
        ({"a": 2.0}, "where", "data.weights_by=where: the clips have no such column"),
        ({"Pexels": 2.0, "pexels": 1.0}, "source", "data.weights names pexels twice"),
    ],
)
def test_what_cannot_be_meant_is_named(folder: Path, weights: dict[str, float], by: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        mixture_of(listed(folder), weights, by)


@pytest.mark.parametrize("shapes", [None, Buckets([[4, 32, 32]], None, ["1:1"], None, 4 * 32 * 32 * 2, 1.0, 0.5)])
def test_a_run_shows_clips_by_weight_and_goes_on_where_it_was(folder: Path, shapes: Any) -> None:
    def data() -> VideoData:
        return real_data(folder, num_frames=4, shapes=shapes, weights={"pexels": 0.5, "vimeo": 3.0}, columns=["kind"])

    batches = list(islice(iter(data().train_dataloader()), 12))
    drawn = Counter(caption for batch in batches for caption in batch.values["caption"])
    assert sum(drawn.values()) == 24  # four epochs of six
    assert drawn == {"c0": 2, "c1": 2, "c2": 2, "c3": 2, "c4": 12, "c5": 4}
    again = data()
    state = {**again.state_dict(), "position": batches[4].position, "batches_before": batches[4].batches_before}
    again.load_state_dict({**state, "alike": 1, "budget": again.sets.budget if again.sets else None})
    rest = list(islice(iter(again.train_dataloader()), 7))
    assert [batch.values["caption"] for batch in rest] == [batch.values["caption"] for batch in batches[5:]]
    assert again.card().content["train"]["chosen_by"] == {"weights by source": ["pexels 0.5", "vimeo 3"]}
    assert "weights by source" not in again.train.manifest.chosen_by, "a list that is handed on would say so of others"  # type: ignore[attr-defined]


def test_clips_that_have_no_shape_take_their_source_along(folder: Path) -> None:
    data = real_data(folder, weights={"vimeo": 2.0}, shapes=Buckets([[4, 32, 32]], None, ["1:1"], None, None, 1.0, 0.5))
    clips = data.train.shaped(np.array([0, -1, 0, 0, 0, -1]), {})  # type: ignore[attr-defined]
    assert clips.mixture.source.tolist() == [1, 1, 1, 0]
    assert sorted(Epochs(4, 0, clips.mixture).draws(0).index) == [0, 1, 2, 3, 3]


def test_few_clips_are_shown_again_until_an_epoch_is_long_enough() -> None:
    assert longer(None, 100, 100) is None and longer(None, 0, 100) is None
    times, source = longer(None, 30, 100)  # type: ignore[misc]
    assert times == [4.0] and source.tolist() == [0] * 30
    epochs = Epochs(30, 0, Mixture(times, source))
    assert np.bincount(epochs.draws(3).index).tolist() == [4] * 30
    weighted = Mixture([2.0, 0.5], np.array([0, 1, 1, 1, 1]))
    assert longer(weighted, 5, 4) is weighted
    assert longer(weighted, 5, 9).weights == [6.0, 1.5]  # type: ignore[union-attr]


def test_few_clips_of_several_shapes_fill_their_batches(folder: Path) -> None:
    shapes = Buckets([[4, 32, 32]], None, ["1:1"], None, None, 1.0, 0.5)
    for least, full in ((None, False), (64, True)):
        data = real_data(folder, shapes=shapes, batch_size=8, epoch_clips=least, num_frames=4, height=32, width=32)
        data.measure(Pixels())
        batches = iter(data.train_dataloader())
        assert (len(next(batches)) == 8) == full
