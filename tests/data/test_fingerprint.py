"""The same clips are the same wherever they lie; another clip, caption or order is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from data.fingerprint import fingerprint
from data.manifest import read_manifest
from data.module import VideoData
from tests.engine import small


def table(paths: list[str], captions: list[list[str]], **more: Any) -> pa.Table:
    return pa.table({"path": paths, "caption": pa.array(captions, pa.list_(pa.string())), **more})


CAPTIONS = [["a"], ["b", "c"], []]
SAME = fingerprint(Path("x"), table(["1.mp4", "2.mp4", "3.mp4"], CAPTIONS))


def test_where_clips_lie_does_not_count(tmp_path: Path) -> None:
    inside = [str(tmp_path / f"{i}.mp4") for i in (1, 2, 3)]
    assert fingerprint(tmp_path, table(inside, CAPTIONS)) == SAME
    assert fingerprint(tmp_path / "elsewhere", table(["1.mp4", "2.mp4", "3.mp4"], CAPTIONS)) == SAME
    empty = table(["1.mp4", "2.mp4", "3.mp4"], CAPTIONS, start=pa.array([None] * 3, pa.float64()))
    assert fingerprint(tmp_path, empty) == SAME
    chunks = pa.concat_tables([table(["1.mp4"], CAPTIONS[:1]), table(["2.mp4", "3.mp4"], CAPTIONS[1:])])
    assert fingerprint(tmp_path, chunks) == SAME


@pytest.mark.parametrize(
    "name, content, columns, mark",
    [
        ("1.csv", 'path,caption,start,end,label,motion,word,licence\na.mp4,"x, ""q""\nz",0.5,,7,1,slow,MIT\n'
                  './run/b.mp4,null,,2,,,,\n{root}/c.png,,,,08,2.5,7,CC\n', ["motion", "word"], "a79c3b9969ecc647"),
        ("2.jsonl", '{"path":"a.mp4","caption":"x","start":1,"motion":3,"cam":[1,2],"label":"r"}\n'
                    '{"path":"c.png","caption":null,"end":2.5,"cam":[0.5,1],"word":"s"}\n',
         ["motion", "cam"], "551f66eed808eab6"),
        ("3.jsonl", '{"path":"a.mp4","caption":["x","y"]}\n{"path":"c.png","caption":[]}\n', [], "352ffe3daa5091b8"),
        (None, "", [], "fc6df9defe73aa62"),
    ],
)  # fmt: skip
def test_lists_have_the_marks_that_checkpoints_of_before_hold(
    tmp_path: Path, name: str | None, content: str, columns: list[str], mark: str
) -> None:
    """The marks were made by the code of before there were licences, filters and checks in lists."""
    (tmp_path / "run").mkdir()
    for file in ("a.mp4", "run/b.mp4", "c.png"):
        (tmp_path / file).touch()
    (tmp_path / "a.txt").write_text("a cat")
    (tmp_path / "run/b.json").write_text('{"captions": ["x", "y"], "license": "MIT", "source": "me"}')
    if name is not None:
        (tmp_path / name).write_text(content.replace("{root}", str(tmp_path)))
    clips = read_manifest(tmp_path, None if name is None else tmp_path / name, columns)
    assert fingerprint(tmp_path, clips.stated) == mark


@pytest.mark.parametrize(
    "other",
    [
        table(["1.mp4", "2.mp4", "4.mp4"], CAPTIONS),
        table(["2.mp4", "1.mp4", "3.mp4"], CAPTIONS),
        table(["1.mp4", "2.mp4", "3.mp4"], [["a"], ["b", "d"], []]),
        table(["1.mp4", "2.mp4", "3.mp4"], [["a"], ["b"], ["c"]]),
        table(["1.mp4", "2.mp4", "3.mp4"], CAPTIONS, start=[0.0, 1.0, None]),
        table(["1.mp4", "2.mp4"], CAPTIONS[:2]),
    ],
)
def test_any_other_set_is_another(other: pa.Table) -> None:
    assert fingerprint(Path("x"), other) != SAME


class Named(small.Clips):
    def __init__(self, num_clips: int, mark: str) -> None:
        super().__init__(num_clips)
        self.mark = mark

    def fingerprint(self) -> str:
        return self.mark


def data(train: str = "a", val: str = "a", **changes: Any) -> VideoData:
    return small.video_data(train=Named(10, train), val=Named(6, val), **changes)


def test_a_run_goes_on_with_its_clips_alone(caplog: pytest.LogCaptureFixture) -> None:
    saved = data().state_dict() | {"position": 24}
    same = data()
    same.load_state_dict(saved)
    assert same.place.position == 24 and caplog.text == ""
    with pytest.raises(ValueError, match=r"these 10 clips are not the checkpoint's.*resume_changes=\[data\]"):
        data(train="b").load_state_dict(saved)
    data(val="b").load_state_dict(saved)
    assert "the validation clips are others than before" in caplog.text
    other = data(train="b")
    other.accepts_other_clips = True
    other.load_state_dict(saved)
    assert other.place.position == 24
    older = {key: value for key, value in saved.items() if key != "fingerprints"}
    data(train="b").load_state_dict(older)  # a checkpoint of before says nothing of its clips
    with pytest.raises(ValueError, match=r"seed=1, its checkpoint on seed=0.*resume_changes=\[data,seed\]"):
        data(seed=1).load_state_dict(saved)
