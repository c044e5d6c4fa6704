"""Manifests in each format, folders, and each way in which they can be wrong."""

import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from data.manifest import read_manifest

ROWS = [
    {"path": "a.mp4", "caption": "a red circle, moving", "start": 0.5, "end": 2.0, "licence": "CC0"},
    {"path": "sub/b.mkv", "caption": 'says "hi"\nand more', "start": None, "end": None, "licence": "MIT"},
    {"path": "c.mov", "caption": "7", "start": 1.0, "end": None, "licence": ""},
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for row in ROWS:
        file = tmp_path / str(row["path"])
        file.parent.mkdir(exist_ok=True)
        file.touch()
    return tmp_path


def write(root: Path, suffix: str) -> Path:
    path = root / f"list{suffix}"
    if suffix == ".csv":
        quoted = ['"' + str(row["caption"]).replace('"', '""') + '"' for row in ROWS]
        cells = [
            [row["path"], caption, *("" if row[key] is None else row[key] for key in ("start", "end", "licence"))]
            for row, caption in zip(ROWS, quoted, strict=True)
        ]
        lines = ["path,caption,start,end,licence", *(",".join(map(str, row)) for row in cells)]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    elif suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    else:
        pyarrow.parquet.write_table(pa.Table.from_pylist(ROWS), path)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_all_formats_give_the_same_rows(root: Path, suffix: str) -> None:
    clips = read_manifest(root, write(root, suffix))
    assert len(clips) == 3
    for index, row in enumerate(ROWS):
        got = clips[index]
        assert (got.path, got.caption) == (root / str(row["path"]), row["caption"])
        assert (got.start, got.end) == (row["start"] or 0, float("inf") if row["end"] is None else row["end"])
    assert [clips[index].id for index in range(3)] == ["a.mp4#0.5-2", "sub/b.mkv", "c.mov#1-"]


def test_a_manifest_needs_only_paths_and_captions(root: Path) -> None:
    (root / "list.csv").write_text("caption,path\n,a.mp4\nnull,c.mov\n")
    clips = read_manifest(root, root / "list.csv")
    assert [(clips[i].caption, clips[i].path.name) for i in range(2)] == [("", "a.mp4"), ("null", "c.mov")]


def test_a_folder_is_read_in_order_with_captions_beside_the_files(root: Path) -> None:
    (root / "sub" / "b.txt").write_text("a blue\nsquare\n")
    (root / "notes.txt").write_text("not a clip")
    clips = read_manifest(root, None)
    assert [clips[i].id for i in range(len(clips))] == ["a.mp4", "c.mov", "sub/b.mkv"]
    assert [clips[i].caption for i in range(len(clips))] == ["", "", "a blue square"]


@pytest.mark.parametrize("held_out", [0, 1, 17, 59])
def test_held_out_clips_are_disjoint_and_do_not_depend_on_the_order_of_rows(tmp_path: Path, held_out: int) -> None:
    names = [f"{i}.mp4" for i in range(60)]
    chosen = []
    for seed in range(3):
        random.Random(seed).shuffle(names)
        (tmp_path / names[0]).touch()
        (tmp_path / "list.csv").write_text("path,caption\n" + "".join(f"{name},x\n" for name in names))
        train, val = read_manifest(tmp_path, tmp_path / "list.csv").split(held_out)
        assert (len(train), len(val)) == (60 - held_out, held_out)
        assert {train[i].id for i in range(len(train))} | {val[i].id for i in range(len(val))} == set(names)
        chosen.append({val[i].id for i in range(len(val))})
    assert chosen[0] == chosen[1] == chosen[2]


def test_holding_out_everything_is_an_error(root: Path) -> None:
    with pytest.raises(ValueError, match="val_clips=3 .* has 3 clips; at most 2"):
        read_manifest(root, None).split(3)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("list.csv", "file,caption\na.mp4,x\n", "no column path; it has file, caption"),
        ("list.csv", "file,text\na.mp4,x\n", "no column path or caption"),
        ("list.csv", "path,caption\n", "no rows"),
        ("list.csv", "", "the file is empty"),
        ("list.csv", "path,caption\na.mp4,x\n,y\n", "row 2 has no path"),
        ("list.csv", "path,caption,start\na.mp4,x,soon\n", "soon"),
        ("list.csv", "path,caption\na.mp4,x,y,z\n", "Expected 2 columns"),
        ("list.jsonl", '{"path": "a.mp4", "caption"\n', "JSON"),
        ("list.jsonl", '{"path": "a.mp4", "caption": ["x"]}\n', "column caption"),
        ("list.parquet", "not parquet", "[Pp]arquet"),
        ("list.xlsx", "x", r"cannot read .xlsx; use .csv, .jsonl, .parquet"),
        ("list.csv", "path,caption\ngone.mp4,x\naway.mp4,y\n", "none of the first 2 files.*gone.mp4.*data.root"),
    ],
)
def test_a_wrong_manifest_is_one_line(root: Path, name: str, text: str, says: str) -> None:
    (root / name).write_text(text)
    with pytest.raises((ValueError, FileNotFoundError), match=says) as error:
        read_manifest(root, root / name)
    assert "\n" not in str(error.value)


def test_missing_files_and_empty_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        read_manifest(tmp_path / "nowhere", None)
    with pytest.raises(FileNotFoundError, match=r"gone.csv: no such file"):
        read_manifest(tmp_path, tmp_path / "gone.csv")
    with pytest.raises(ValueError, match="no videos"):
        read_manifest(tmp_path, None)
