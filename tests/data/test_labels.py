"""Classes of clips: from a column, from folders, from a world's words."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from data.batch import NO_CLASS, collate
from data.labels import classify
from data.manifest import CLASS, Manifest, read_manifest
from data.worlds.caption import parse
from tests.data.worlds.world_settings import rich, simple


def clips(**columns: list[str]) -> Manifest:
    return Manifest(Path("root"), pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()}))


def numbers(made: Manifest) -> list[int]:
    return [made[index].label for index in range(len(made))]


def test_from_a_column() -> None:
    listed = clips(path=["a", "b", "c", "d"], caption=[""] * 4, label=["run", " jump", "", "run"])
    made, names = classify(listed, "column", "list.csv")
    assert names == ["jump", "run"] and numbers(made) == [1, 0, NO_CLASS, 1]
    assert numbers(classify(listed, None, "list.csv")[0]) == [NO_CLASS] * 4


def test_numbers_are_the_class_numbers_themselves() -> None:
    made, names = classify(clips(path=["a", "b"], caption=["", ""], label=["10", "02"]), "column", "list.csv")
    assert numbers(made) == [10, 2] and names == [str(number) for number in range(11)]


def test_from_folders() -> None:
    listed = clips(path=["run/1.mp4", "jump/deep/2.mp4", "3.mp4"], caption=[""] * 3)
    made, names = classify(listed, "folder", "root")
    assert names == ["jump", "run"] and numbers(made) == [1, 0, NO_CLASS]
    absolute = clips(path=[str(Path("root/run/1.mp4").absolute()), "./jump/2.mp4"], caption=["", ""])
    assert classify(absolute, "folder", "root")[1] == ["jump", "run"]
    train, val = made.split(1)
    assert CLASS in train.table.column_names and len(train) + len(val) == 3


@pytest.mark.parametrize(
    "listed, labels, message",
    [
        (clips(path=["a"], caption=[""]), "column", "list.csv has no column label; data.labels=folder"),
        (clips(path=["a"], caption=[""]), "folder", "all files lie in the root itself"),
        (clips(path=["a"], caption=[""], label=[""]), "column", "the column label is empty"),
        (clips(path=["a"], caption=[""]), "names", "data.labels=names is none of: column, folder, null"),
    ],
)
def test_mistakes(listed: Manifest, labels: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        classify(listed, labels, "list.csv")
    assert "\n" not in str(caught.value)


def test_a_manifest_keeps_labels_as_text(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    (tmp_path / "list.csv").write_text("path,caption,label\na.mp4,x,7\n")
    made, names = classify(read_manifest(tmp_path, tmp_path / "list.csv"), "column", "list.csv")
    assert numbers(made) == [7] and names[-1] == "7"


def test_a_world_classifies_by_words() -> None:
    world = simple(labels=["shape", "colour"])
    assert world.classes[:3] == ["circle red", "circle green", "circle blue"] and len(world.classes) == 20
    for index in range(5):
        spec = world.clip(index).state.spec.objects[0]
        assert world.classes[world[index]["label"]] == f"{spec.shape} {spec.colour}"  # type: ignore[call-overload]
    assert collate([world[0], world[1]]).values["label"].tolist() == [world[0]["label"], world[1]["label"]]  # type: ignore
    other = simple(labels=["shape", "colour"], split="heldout", seed=5)
    assert other.classes == world.classes, "whatever the split shows"


def test_scenes_of_several_objects_have_no_class() -> None:
    world = rich(labels=["colour"])
    assert world.label(parse("a red circle falls")) == 0
    assert world.label(parse("a red circle falls and a green star falls")) == NO_CLASS
    assert "label" not in rich()[0] and "label" not in collate([rich()[0]]).values  # type: ignore[list-item]
    with pytest.raises(ValueError, match='label "hue" is not one of: colour, shape, size, motion, direction, speed'):
        rich(labels=["hue"])
