"""Filters take the rows that they say, and nothing in them is ever run."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from data.filter import LONGEST, Filter
from data.manifest import chosen, read_manifest, told_apart

TABLE = pa.table(
    {
        "path": ["a.mp4", "b.mp4", "c.png", "d.mp4"],
        "duration": [1.0, 3.0, None, 2.5],
        "frames": pa.array([10, 90, 1, None], pa.int64()),
        "licence": ["MIT", "CC-BY-4.0", "", "CC0-1.0"],
        "caption": pa.array([["a cat"], ["a dog", "two cats"], [], [None, "a cow"]], pa.list_(pa.string())),
        "camera": [[0.0, 1.0]] * 4,
        "good": [True, False, None, True],
    }
)


@pytest.mark.parametrize(
    "text, rows",
    [
        ("duration > 2", "bd"),
        ("not duration > 2", "a"),  # c has none, and is in neither
        ("2 < duration <= 2.5", "d"),
        ("duration is None", "c"),
        ("duration is not None and frames is not None", "ab"),
        ("licence == 'MIT' or licence == 'CC0-1.0'", "ad"),
        ("license in ['CC-BY-4.0', 'MIT']", "ab"),  # the other spelling
        ("license not in ('MIT',)", "bcd"),
        ("licence is None", "c"),
        ("frames in [10, 90]", "ab"),
        ("frames not in [10]", "bc"),
        ("frames / duration >= 30", "b"),
        ("frames * 2 - 1 == 19", "a"),
        ("-duration < -2", "bd"),
        ("path > 'b.mp4'", "cd"),
        ("'cat' in caption", "ab"),
        ("'cow' in caption", "d"),
        ("'b' in path or 'png' in path", "bc"),
        ("caption is None", "c"),
        ("good", "ad"),
        ("not good", "b"),
        ("good == False", "b"),
        ("duration > 2 and license in ['CC-BY-4.0']", "b"),
        ("True", "abcd"),
        ("duration > 2 or True", "abcd"),
        ("False", ""),
        ("1 < 2", "abcd"),
        ("frames / 0 > 1", "abc"),
    ],
)
def test_the_rows_that_are_taken(text: str, rows: str) -> None:
    for table in (TABLE, pa.concat_tables([TABLE.slice(0, 1), TABLE.slice(1)])):
        taken = table.filter(Filter(text).mask(table)).column("path").to_pylist()
        assert "".join(path[0] for path in taken) == rows


def test_columns_in_the_order_of_the_text() -> None:
    assert Filter("b > 1 and (a in [1] or b == 2) and\n c is None").columns == ["b", "a", "c"]


@pytest.mark.parametrize(
    "text, says",
    [
        ("__import__('os').system('touch x')", r"__import__\('os'\).system\('touch x'\) does not stand in a filter"),
        ("print(1)", "print\\(1\\) does not stand in a filter, which may hold columns, numbers"),
        ("path.__class__ == 1", "path.__class__ does not stand"),
        ("[x for x in path]", "does not stand"),
        ("[1, 2]", "is a list; lists stand behind `in`"),
        ("(lambda: 1)()", "does not stand"),
        ("path[0] == 'a'", "does not stand"),
        ("f'{path}' == 'a'", "does not stand"),
        ("duration ** 99 > 1", "is no sum, difference, product or quotient"),
        ("frames % 2 == 0", "is no sum"),
        ("(x := 3) > 2", "does not stand"),
        ("duration if good else 1", "does not stand"),
        ("frames > 10**10000", "is no sum"),
        ("frames > 99999999999999999999", "is too large a number"),
        ("duration > 2 and", "invalid syntax"),
        ("duration = 2", "at character"),
        ("import os", "invalid syntax"),
        ("", "invalid syntax"),
        ("duration > 2\nimport os", "invalid syntax"),
        ("a\0b", "null"),
        ("duration > '2'", "duration is a number, and '2' is a text"),
        ("licence > 2", "licence is a text, and 2 is a number"),
        ("licence in [2]", "licence is a text, and the list holds a number"),
        ("licence in [2, 'a']", "the list holds a number and a text"),
        ("licence in [[1]]", r"\[1\] in a list"),
        ("licence", "licence is a text, neither true nor false"),
        ("duration and licence", "duration is a number, neither true nor false"),
        ("not licence", "neither true nor false"),
        ("licence + 1 > 2", "licence is a text, and does not add or multiply"),
        ("good > False", "neither less nor more"),
        ("licence is 'MIT'", "`is` stands in front of None alone"),
        ("duration == None", "write `is None`"),
        ("camera > 1", "camera is a list of values"),
        ("'a' in camera", "holds no text"),
        ("'a' in duration", "holds no text"),
        ("licence in path", "on the left a text, or on the right a list"),
        ("durations > 1", r"no column durations \(duration is meant\?\); there are path, duration,"),
        ("(" * 300 + "good" + ")" * 300, "nested|parenthes"),
        ("not " * 480 + "durations", "no column durations"),
        ("good and " * LONGEST + "good", f"characters, and {LONGEST} are the most"),
    ],
)
def test_what_does_not_stand_in_one_is_named(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says) as error:
        Filter(text).mask(TABLE)
    assert str(error.value).startswith("data.filter=") and "\n" not in str(error.value)


def test_nothing_is_run(tmp_path: Path) -> None:
    """Odd expressions are computed or refused in a line; none compiles, opens or starts anything."""
    seen: list[tuple[object, ...]] = []
    watching = [True]

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        if watching[0] and event in ("exec", "open", "os.system", "subprocess.Popen", "socket.connect"):
            seen.append((event, *arguments))

    words = "duration licence good 'x' 1 [1] open('x','w') exec('1') path.x ( ) and or not < == in is None - / lambda"
    parts = [*words.split(), "import os", "`", "{}", "await", ":="]
    rng = random.Random(0)
    texts = [" ".join(rng.choices(parts, k=rng.randint(1, 7))) for _ in range(1500)]
    outcomes = {"taken": 0, "refused": 0}
    Filter("duration > 2").mask(TABLE)  # what is imported once
    sys.addaudithook(watch)
    try:
        for text in texts:
            try:
                assert len(Filter(text).mask(TABLE)) == 4
                outcomes["taken"] += 1
            except ValueError as error:
                assert str(error).startswith("data.filter=") and "\n" not in str(error)
                outcomes["refused"] += 1
    finally:
        watching[0] = False
    assert not seen and min(outcomes.values()) > 5


def test_a_manifest_is_filtered_by_any_of_its_columns(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.png"):
        (tmp_path / name).touch()
    file = tmp_path / "list.csv"
    file.write_text("path,caption,duration,license,mine\na.mp4,x,3,CC-BY-4.0,7\na.mp4,y,1,MIT,\nb.png,z,,CC-BY-4.0,8\n")

    def left(text: str) -> list[str]:
        asked = Filter(text)
        clips = chosen(read_manifest(None, file, also=asked.columns), asked)
        return list(clips.captions())

    assert left("duration > 2 and license in ['CC-BY-4.0']") == ["x"]
    assert left("mine >= 7") == ["x", "z"] and left("mine is None") == ["y"]
    assert left("kind == 'image'") == ["z"] and left("kind != 'image' and duration < 2") == ["y"]
    with pytest.raises(ValueError, match=r"list.csv: no column licens \(license is meant\?\); it has path, caption"):
        left("licens == 'MIT'")
    with pytest.raises(ValueError, match=r"data.filter=duration > 9: takes none of 3 clips"):
        left("duration > 9")
    with pytest.raises(ValueError, match="no column duration; there are path, caption"):
        chosen(read_manifest(tmp_path, None), Filter("duration > 2"))


def test_a_filter_holds_clips_out_for_validation(tmp_path: Path) -> None:
    rows = [f"{index}.mp4,clip {index},{'test' if index % 3 == 0 else 'train'}" for index in range(12)]
    (tmp_path / "0.mp4").touch()
    (tmp_path / "list.csv").write_text("\n".join(["path,caption,split", *rows]))
    held_out = Filter("split == 'test'", "data.val_filter")
    clips = read_manifest(None, tmp_path / "list.csv", also=held_out.columns)
    for most, validated in ((9, 4), (4, 4), (2, 2), (0, 0)):
        train, val = told_apart(clips, held_out, most)
        assert [caption for caption in train.captions() if int(caption[5:]) % 3 == 0] == [] and len(train) == 8
        assert len(val) == validated and all(int(caption[5:]) % 3 == 0 for caption in val.captions())
        assert train.chosen_by == val.chosen_by == {"val_filter": "split == 'test'"}
    (tmp_path / "parts.csv").write_text("path,caption,split\n0.mp4,x,train\n" + "b.mp4,y,test\n" * 3)
    of_one_file = read_manifest(None, tmp_path / "parts.csv", also=held_out.columns)
    assert len(told_apart(of_one_file, held_out, 2)[1]) == 3, "whole files, as without a filter"
    none, every = Filter("split == 'x'", "data.val_filter"), Filter("split in ['test', 'train']", "data.val_filter")
    with pytest.raises(ValueError, match="data.val_filter=split == 'x': takes none of 12 clips"):
        told_apart(clips, none, 2)
    with pytest.raises(ValueError, match="data.val_filter=.*: takes all of 12 clips"):
        told_apart(clips, every, 2)
    with pytest.raises(ValueError, match="data.val_filter=split_ == 1: .*no column split_"):
        told_apart(clips, Filter("split_ == 1", "data.val_filter"), 2)
