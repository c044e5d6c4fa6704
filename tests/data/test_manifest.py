"""Manifests in each format, folders, and each way in which they can be wrong."""

import csv
import json
import math
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from data.fingerprint import fingerprint
from data.manifest import chosen, read_manifest

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
        assert (got.path, got.captions) == (root / str(row["path"]), (row["caption"],))
        assert (got.start, got.end) == (row["start"] or 0, float("inf") if row["end"] is None else row["end"])
    assert [clips[index].id for index in range(3)] == ["a.mp4#0.5-2", "sub/b.mkv", "c.mov#1-"]


def test_a_manifest_needs_only_paths_and_captions(root: Path) -> None:
    (root / "list.csv").write_text("caption,path\n,a.mp4\nnull,c.mov\n")
    clips = read_manifest(root, root / "list.csv")
    assert [(clips[i].captions, clips[i].path.name) for i in range(2)] == [((), "a.mp4"), (("null",), "c.mov")]
    assert list(clips.captions()) == ["", "null"]


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
    with pytest.raises(ValueError, match="val_clips=3 .* 3 clips of 3 files"):
        read_manifest(root, None).split(3)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("list.csv", "file,caption\na.mp4,x\n", "no column path; it has file, caption"),
        ("list.csv", "file,text\na.mp4,x\n", "no column path or caption"),
        ("list.csv", "path,caption\n", "no rows"),
        ("list.csv", "", "the file is empty"),
        ("list.csv", "path,caption\na.mp4,x\n,y\n", "row 2 has no path"),
        ("list.csv", "path,caption,start\na.mp4,x,1\na.mp4,x,soon\n", "row 2, column start: 'soon' is no number"),
        ("list.csv", "path,caption\na.mp4,x,y,z\n", "row 1: 4 cells, but the header names 2 columns"),
        ("list.csv", "path,caption,caption\na.mp4,x,y\n", "names the column caption twice"),
        ("list.csv", "path,caption,captions\na.mp4,x,y\n", "columns caption and captions are the same"),
        ("list.csv", "path,captions\na.mp4,[3]\n", "list.csv, row 1, column captions: the caption 3 is no text"),
        ("list.jsonl", '{"path": "a.mp4", "caption"\n', "row 1: not JSON"),
        ("list.jsonl", '{"path": "a.mp4"}\n[1]\n', r"row 2: '\[1\]' is not a JSON object"),
        (
            "list.jsonl",
            '{"path": "a.mp4", "caption": "x"}\n{"path": "b", "caption": {"x": 1}}\n',
            r'list.jsonl, row 2, column caption: \{"x": 1\} is no caption',
        ),
        (
            "list.jsonl",
            '{"path": "a.mp4", "caption": "x"}\n\n{"path": "b", "start": "soon"}\n',
            'list.jsonl, row 2, column start: "soon" is no number',
        ),
        ("list.jsonl", '{"path": null, "caption": "x"}\n', "row 1 has no path"),
        ("list.jsonl", '{"file": "a.mp4", "caption": "x"}\n', "no column path; it has file, caption"),
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
    with pytest.raises(ValueError, match="no videos .* and no images in this folder or below"):
        read_manifest(tmp_path, None)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_other_encodings_are_refused_by_line_and_byte_order_marks_are_not_read(root: Path, suffix: str) -> None:
    text = write(root, suffix).read_text(encoding="utf-8").replace("a red circle", "größer")
    file = root / f"other{suffix}"
    file.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert read_manifest(root, file)[0].captions == ("größer, moving",)
    for encoding, says in (
        ("latin-1", f"other{suffix}, line .: byte 0xf6 is not UTF-8"),
        ("utf-16", "is UTF-16; save"),
    ):
        file.write_bytes(text.encode(encoding))
        with pytest.raises(ValueError, match=says):
            read_manifest(root, file)


def test_a_damaged_parquet_is_one_line_wherever_it_is_damaged(root: Path) -> None:
    whole = write(root, ".parquet").read_bytes()
    rng, refused = random.Random(0), 0
    for _ in range(150):
        spoiled = bytearray(whole)
        for _ in range(rng.randint(1, 6)):
            spoiled[rng.randrange(len(spoiled))] = rng.randrange(256)
        file = root / "spoiled.parquet"
        file.write_bytes(spoiled[: rng.randrange(len(spoiled))] if rng.random() < 0.2 else spoiled)
        try:
            clips = read_manifest(root, file)
            assert [clips[index].captions for index in range(len(clips))]
        except (ValueError, FileNotFoundError) as error:
            refused += 1
            assert "\n" not in str(error) and "spoiled.parquet" in str(error)
    assert refused > 50


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_clip_may_have_several_captions(root: Path, suffix: str) -> None:
    rows = [{"path": "a.mp4", "caption": ["a cat", "", "an animal"]}, {"path": "c.mov", "caption": []}]
    file = root / f"several{suffix}"
    if suffix == ".jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pyarrow.parquet.write_table(pa.Table.from_pylist(rows), file)
    clips = read_manifest(root, file)
    assert [clips[index].captions for index in range(2)] == [("a cat", "an animal"), ()]
    assert list(clips.captions()) == ["a cat", "an animal", ""]


@pytest.mark.parametrize(
    "name, content",
    [
        ("list.csv", 'path,captions\na.mp4,"[""a cat"", """", ""an animal""]"\nc.mov,\nc.mov,one\n'),
        ("list.jsonl", '{"path": "a.mp4", "captions": ["a cat", null, "an animal"]}\n{"path": "c.mov"}\n'
                       '{"path": "c.mov", "captions": "one"}\n'),
    ],
)  # fmt: skip
def test_captions_is_the_same_column_and_texts_may_stand_beside_lists(root: Path, name: str, content: str) -> None:
    (root / name).write_text(content)
    clips = read_manifest(root, root / name)
    assert [clips[index].captions for index in range(3)] == [("a cat", "an animal"), (), ("one",)]
    assert clips.uncaptioned().to_pylist() == [False, True, False]


def test_a_list_without_captions_needs_classes(root: Path) -> None:
    (root / "list.csv").write_text("path,label\na.mp4,7\n")
    clips = read_manifest(root, root / "list.csv")
    assert clips[0].captions == () and clips.table.column("label").to_pylist() == ["7"]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_licences_and_findings_are_read_but_are_not_what_is_trained_on(root: Path, suffix: str) -> None:
    """A licence that is written down later, or a check, leaves the clips those of the checkpoint."""
    rows = [{"path": "a.mp4", "caption": "x"}, {"path": "c.mov", "caption": "y"}]
    more = [{"license": "MIT", "source": "s", "status": "ok", "duration": 2.5, "frames": 50}, {"license": ""}]
    files = []
    for number, listed in enumerate((rows, [a | b for a, b in zip(rows, more, strict=True)])):
        files.append(root / f"{number}{suffix}")
        if suffix == ".jsonl":
            files[-1].write_text("".join(json.dumps(row) + "\n" for row in listed))
        elif suffix == ".parquet":
            names = dict.fromkeys(name for row in listed for name in row)
            table = pa.table({name: [row.get(name) for row in listed] for name in names})
            pyarrow.parquet.write_table(table, files[-1])
        else:
            with files[-1].open("w", newline="") as file:
                table = csv.DictWriter(file, listed[0])
                table.writeheader()
                table.writerows(listed)
    plain, checked = (read_manifest(root, file) for file in files)
    assert fingerprint(root, plain.stated) == fingerprint(root, checked.stated)
    told = {name: checked.table.column(name).to_pylist() for name in ("licence", "source", "duration", "frames")}
    assert told == {"licence": ["MIT", ""], "source": ["s", ""], "duration": [2.5, None], "frames": [50.0, None]}


def test_a_column_that_means_something_else_elsewhere_is_left(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    (root / "list.csv").write_text("path,caption,duration,status\na.mp4,x,0:12,published\nc.mov,y,1:00,draft\n")
    clips = chosen(read_manifest(root, root / "list.csv"), None)
    assert len(clips) == 2 and "duration" not in clips.table.column_names
    assert "column duration is not used: '0:12' is no number" in caplog.text
    with pytest.raises(ValueError, match="list.csv, row 1, column duration: '0:12' is no number"):
        read_manifest(root, root / "list.csv", also=["duration"])


def test_rows_that_a_check_found_a_fault_with_are_left_out(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    (root / "list.csv").write_text("path,caption,status\na.mp4,x,ok\nc.mov,y,hangs\nc.mov,z,\nc.mov,z,hangs\n")
    with caplog.at_level("INFO"):
        clips = chosen(read_manifest(root, root / "list.csv"), None)
    assert list(clips.captions()) == ["x", "z"] and clips.left_out == {"status hangs": 2}
    assert "2 of 4 clips are left out by their status: 2 hangs" in caplog.text
    (root / "list.csv").write_text("path,caption,status\nc.mov,y,hangs\n")
    with pytest.raises(ValueError, match="the column status says of all 1 clips that they cannot be used: 1 hangs"):
        chosen(read_manifest(root, root / "list.csv"), None)


def test_paths_are_relative_to_the_manifest_where_no_folder_is_given(root: Path, tmp_path: Path) -> None:
    (root / "list.csv").write_text("path,caption\na.mp4,x\n")
    assert read_manifest(None, root / "list.csv")[0].path == root / "a.mp4"
    with pytest.raises(ValueError, match="give data.root=FOLDER, or a list of them, data.manifest=FILE"):
        read_manifest(None, None)


def test_files_are_held_out_whole(tmp_path: Path) -> None:
    """Excerpts and captions of one file stand on one side, however its path is written."""
    rows = [f"{name}.mp4,{caption},{start}," for name in "abcdefgh" for caption in ("x", "y") for start in (0, 1, 2)]
    rows += [f"./{name}.mp4,z,," for name in "abcdefgh"] + [f"{tmp_path}/{name}.mp4,z,4," for name in "abcdefgh"]
    (tmp_path / "a.mp4").touch()
    (tmp_path / "list.csv").write_text("path,caption,start,end\n" + "\n".join(rows))
    for held_out in (1, 5, 9, 30):
        train, val = read_manifest(tmp_path, tmp_path / "list.csv").split(held_out)
        assert not set(train.files().to_pylist()) & set(val.files().to_pylist())
        assert held_out <= len(val) < held_out + 8 and len(train) + len(val) == len(rows)
    (tmp_path / "one.csv").write_text("path,caption,start,end\n" + "\n".join(row for row in rows if row[0] == "a"))
    with pytest.raises(ValueError, match="6 clips of 1 files, which are held out whole"):
        read_manifest(tmp_path, tmp_path / "one.csv").split(2)


def test_the_clips_are_counted_and_missing_captions_said(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    (root / "still.png").touch()
    (root / "list.csv").write_text("path,caption\na.mp4,x\nc.mov,\nc.mov,\nstill.png,y\n")
    with caplog.at_level("INFO"):
        read_manifest(root, root / "list.csv").report()
        assert "4 clips of 3 files: 3 videos, 1 images" in caplog.text
        assert "2 of 4 clips have no caption, e.g. c.mov:" in caplog.text and "write c.txt beside it" in caplog.text
        read_manifest(root, None).report()
    assert "all of 4 clips have no caption" in caplog.text


MORE = [("a.mp4", 0.5, "slow", [0.0, 1.0]), ("c.mov", None, None, [2.0, 3.0])]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_columns_that_are_asked_for_are_read_and_no_others(root: Path, suffix: str) -> None:
    names = ("motion", "word", "camera") if suffix != ".csv" else ("motion", "word")
    rows = [dict(zip(("path", *names), row, strict=False)) | {"caption": "", "licence": "MIT"} for row in MORE]
    file = root / f"list{suffix}"
    if suffix == ".csv":
        file.write_text("path,motion,word,caption,licence\na.mp4,0.5,slow,,MIT\nc.mov,,,,MIT\n")
    elif suffix == ".jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pyarrow.parquet.write_table(pa.Table.from_pylist(rows), file)
    clips = read_manifest(root, file, names)
    assert clips.columns == names and read_manifest(root, file).columns == ()
    first, second = (dict(clips[index].columns) for index in range(2))
    assert math.isnan(second.pop("motion")) and first.pop("motion") == 0.5  # type: ignore[arg-type]
    want = [{"word": "slow", "camera": [0.0, 1.0]}, {"word": "", "camera": [2.0, 3.0]}]
    assert [first, second] == [{name: row[name] for name in names[1:]} for row in want]
    other = read_manifest(root, file, names[:1])
    assert fingerprint(root, clips.stated) != fingerprint(root, other.stated), "values are part of what is trained on"


@pytest.mark.parametrize(
    "columns, content, words",
    [
        (["speed"], "path,caption\na.mp4,\n", r"no column speed; it has path, caption"),
        (["start"], "path,caption\na.mp4,\n", r"data.columns=\[start\]: start cannot be asked for"),
        (["speeed"], "path,caption,speed\na.mp4,,3\n", r"no column speeed \(speed is meant\?\)"),
    ],
)
def test_columns_that_cannot_be_read(root: Path, columns: list[str], content: str, words: str) -> None:
    (root / "list.csv").write_text(content)
    with pytest.raises(ValueError, match=words) as caught:
        read_manifest(root, root / "list.csv", columns)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("cell", "words"), [("null", "there is no list"), ("[1, null]", "has nothing in a place")])
@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_row_without_its_list_is_named(root: Path, suffix: str, cell: str, words: str) -> None:
    rows = [{"path": "a.mp4", "caption": "", "camera": each} for each in ([1, 2], json.loads(cell), [3, 4])]
    file = root / f"list{suffix}"
    if suffix == ".jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pyarrow.parquet.write_table(pa.Table.from_pylist(rows), file)
    with pytest.raises(ValueError, match=f"list{suffix}, row 2, column camera: .*({words}|no number|is no list)"):
        read_manifest(root, file, ["camera"])


def test_a_column_is_what_all_its_cells_say(root: Path) -> None:
    """Also where the first megabyte of a CSV holds numbers alone, or a text looks like a date."""
    many = 200_000
    rows = [f"a.mp4,,{row % 10},{row % 2 == 0}" for row in range(many)] + ["a.mp4,,2026-11-28,"]
    (root / "list.csv").write_text("path,caption,mixed,yes\n" + "\n".join(rows) + "\n")
    clips = read_manifest(root, root / "list.csv", ["mixed", "yes"])
    assert [clips[index].columns["mixed"] for index in (0, many)] == ["0", "2026-11-28"]
    assert [clips[index].columns["yes"] for index in (0, 1)] == [1.0, 0.0]
    (root / "list.jsonl").write_text('{"path": "a.mp4", "caption": "2026-11-28", "when": "2026-11-28"}\n')
    assert read_manifest(root, root / "list.jsonl", ["when"])[0].columns == {"when": "2026-11-28"}
    assert read_manifest(root, root / "list.jsonl")[0].captions == ("2026-11-28",)


def test_a_folder_has_no_columns(root: Path) -> None:
    with pytest.raises(
        ValueError, match=r"data.columns=\[motion\]: a folder has no columns; give .* data.manifest=FILE"
    ):
        read_manifest(root, None, ["motion"])
