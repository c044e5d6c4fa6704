"""Shards give the clips that the webdataset library gives, one by one, and no text of theirs reaches a shell."""

from __future__ import annotations

import csv
import functools
import http.server
import io
import json
import os
import tarfile
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from data import remote
from data.buckets import Buckets
from data.clips import ClipDataset
from data.decode import BadClip, Ladder, PyAV
from data.excerpts import RandomView
from data.manifest import chosen, read_manifest
from data.module import VideoData
from data.shards import are_shards, expanded, fetched
from tests.data.test_shaped_data import real_data
from tests.data.test_validate import run_script
from tests.data.videos import write_numbered

webdataset = pytest.importorskip("webdataset", reason="pip install -r requirements-data.txt")


def image() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8)).save(file, "png")
    return file.getvalue()


def write_shard(path: Path, members: dict[str, bytes | str]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            data = content.encode() if isinstance(content, str) else content
            about = tarfile.TarInfo(name)
            about.size = len(data)
            archive.addfile(about, io.BytesIO(data))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two shards of three clips, and the same clips as files below `files`."""
    (tmp_path / "files" / "sub").mkdir(parents=True)
    videos = [
        write_numbered(tmp_path / "files" / name, count=12 + 2 * number, height=32, width=48).read_bytes()
        for number, name in enumerate(("a.mp4", "sub/b.mp4"))
    ]
    (tmp_path / "files" / "c.png").write_bytes(image())
    (tmp_path / "shards").mkdir()
    first: dict[str, bytes | str] = {
        "./a.txt": "one\ntwo", "./a.mp4": videos[0], "./a.png": image(), "./a.cls": "7",
        "sub/b.json": json.dumps({"captions": ["three", "four"], "license": "MIT"}), "sub/b.mp4": videos[1],
        "notes.txt": "of no clip",
    }  # fmt: skip
    write_shard(tmp_path / "shards" / "train-000.tar", first)
    write_shard(tmp_path / "shards" / "train-001.tar", {"c.png": image(), "c.txt": "five"})
    return tmp_path


def test_clips_of_shards_are_those_of_the_library(folder: Path) -> None:
    pattern = f"{folder}/shards/train-{{000..001}}.tar"
    clips = read_manifest(None, pattern)
    assert [clips[index].id for index in range(3)] == [
        "train-000.tar/a.mp4", "train-000.tar/sub/b.mp4", "train-001.tar/c.png"
    ]  # fmt: skip
    assert [clips[index].captions for index in range(3)] == [("one two",), ("three", "four"), ("five",)]
    assert clips.table.column("label").to_pylist() == ["7", "", ""]
    assert clips.table.column("licence").to_pylist() == ["", "MIT", ""]
    theirs = {
        sample["__key__"].removeprefix("./"): sample
        for sample in webdataset.WebDataset(pattern, shardshuffle=False, empty_check=False)
    }
    for index, key in enumerate(("a", "sub/b", "c")):
        row = clips[index]
        with row.opened() as path:
            assert path.read_bytes() == theirs[key]["png" if key == "c" else "mp4"]
        assert not Path(path).exists() or not str(path).startswith("/proc"), "nothing is left of it"


def test_a_clip_in_a_shard_is_the_item_that_its_file_is(folder: Path) -> None:
    listed = read_manifest(None, f"{folder}/shards/train-{{000..001}}.tar")
    files = read_manifest(folder / "files", None)

    def dataset(manifest: Any) -> ClipDataset:
        return ClipDataset(manifest, Ladder(decoders=[PyAV()]), RandomView(3), 4, 32, 32, 10.0)

    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None
    order = [files[index].path.name for index in range(3)]
    for index in range(3):
        beside = order.index(listed[index].path.name)
        for epoch in range(3):
            view = dataset(listed).view(index, epoch)
            mine = dataset(listed)._read(listed[index], view, "x")
            theirs = dataset(files)._read(files[beside], view, "x")
            assert torch.equal(mine["pixels"], theirs["pixels"])
    assert before is None or len(os.listdir("/proc/self/fd")) == before
    train, val = listed.split(1)
    assert len(train) == 2 and train.root == listed.root and len(val) == 1


def test_a_checked_list_of_shards_is_its_index(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = folder / "checked.csv"
    pattern = f"{folder}/shards/train-{{000..001}}.tar"
    asked = [f"manifest={pattern}", f"out={out}", "jobs=2", "filter=duration > 0.1 or kind == 'image'"]
    assert run_script(monkeypatch, *asked) == 0, capsys.readouterr().err
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows][1:] == ["shards/train-000.tar/sub/b.mp4", "shards/train-001.tar/c.png"]
    assert [row["frames"] for row in rows] == ["12", "14", "1"] and rows[0]["offset"].isdigit()
    indexed = chosen(read_manifest(None, out), None)
    (folder / "plain.csv").write_text("path,caption\n" + "".join(f"{row['path']},x\n" for row in rows))
    for clips in (indexed, read_manifest(None, folder / "plain.csv")):  # with and without the places in the shards
        for index in range(3):
            with clips[index].opened() as path:
                assert path.read_bytes() == (folder / "files" / rows[index]["path"].partition(".tar/")[2]).read_bytes()
    (folder / "plain.csv").write_text("path,caption\nshards/train-000.tar/gone.mp4,x\n")
    with (
        pytest.raises(BadClip, match=r"train-000.tar has no member gone.mp4"),
        read_manifest(None, folder / "plain.csv")[0].opened(),
    ):
        pass


@pytest.mark.parametrize(
    "pattern, says",
    [
        ("pipe:touch {folder}/x; cat train-000.tar", "a pipe would run a command; run it yourself"),
        ("pipe:touch {folder}/x && cat a.tar", "a pipe would run a command"),
        ("s3://bucket/train-000.tar", "cannot read s3://; use files, or http or https"),
        ("file:///etc/a.tar", "cannot read file://"),
        ("{folder}/shards/train-00{{0..3}}.tar", "train-002.tar: no such file"),
        ("https://host/a.tar", "data.shard_cache=FOLDER says where"),
        ("https://host/a.zip", "a shard is an uncompressed .tar file"),
        ("{folder}/cut.tar", "cut.tar: unexpected end of data behind a.txt; the shard is cut off"),
        ("{folder}/text.tar", "text.tar: .*; the shard is cut off, damaged, or no .tar file"),
        ("{folder}/empty.tar", "no videos and no images in 1 shards"),
        ("{folder}/out.tar", "out.tar: the name '../a.mp4' leads out of the shard"),
        ("{folder}/latin.tar", "latin.tar: the text at byte 512 is not UTF-8"),
        ("{folder}/json.tar", "json.tar: a.json, line 1: not JSON"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_one_line(folder: Path, pattern: str, says: str) -> None:
    whole = (folder / "shards" / "train-000.tar").read_bytes()
    (folder / "cut.tar").write_bytes(whole[:3000])
    (folder / "text.tar").write_text("no shard" * 200)
    write_shard(folder / "empty.tar", {"a.txt": "x"})
    write_shard(folder / "out.tar", {"../a.mp4": b"x"})
    write_shard(folder / "latin.tar", {"a.txt": "ü".encode("latin-1"), "a.mp4": b"x"})
    write_shard(folder / "json.tar", {"a.json": "{", "a.mp4": b"x"})
    named = pattern.format(folder=folder)
    assert are_shards(named) or named.endswith(".zip")
    with pytest.raises((ValueError, FileNotFoundError), match=says) as error:
        read_manifest(None, named)
    assert "\n" not in str(error.value) and not (folder / "x").exists()


@pytest.mark.parametrize("shapes", [None, Buckets([[4, 16, 24], [1, 16, 16]], None, ["1:1"], None, 2000, 1.0, 0.5)])
def test_each_clip_comes_once_an_epoch_and_a_stopped_run_goes_on_with_other_workers_and_ranks(
    folder: Path, shapes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is promised of clips in files is promised of those in shards; with shapes by a list of their sizes."""
    index = read_manifest(None, f"{folder}/shards/train-{{000..001}}.tar").table
    sizes = {"duration": [1.2, 1.4, None], "fps": [10.0, 10.0, None], "height": [32.0] * 3, "width": [48.0, 48.0, 32.0]}
    names = ("path", "caption", "offset", "bytes")
    listed = pa.table(
        {**{name: index.column(name) for name in names}, **{name: pa.array(sizes[name]) for name in sizes}}
    )
    pyarrow.parquet.write_table(listed, folder / "shards" / "list.parquet")

    def data(rank: int, ranks: int, num_workers: int) -> VideoData:
        monkeypatch.setattr(VideoData, "rank", rank)
        monkeypatch.setattr(VideoData, "world_size", ranks)
        return real_data(
            folder / "shards", manifest=str(folder / "shards" / "list.parquet"), num_workers=num_workers, num_frames=4,
            height=16, width=24, batch_size=1, fps=10.0, shapes=shapes, max_bad_share=0.0,
        )  # fmt: skip

    whole = list(islice(iter(data(0, 1, 0).train_dataloader()), 9))
    assert Counter(id for batch in whole for id in batch.ids) == Counter(dict.fromkeys(index["path"].to_pylist(), 3))
    rest = []
    for rank in range(2):
        there = data(rank, 2, num_workers=rank)
        state = {**there.state_dict(), "position": 4, "batches_before": whole[3].batches_before, "alike": 1}
        there.load_state_dict({**state, "budget": there.sets.budget if there.sets else None})
        rest.append(list(islice(iter(there.train_dataloader()), 2)))
    for before, after in zip(whole[4:8], (rest[0][0], rest[1][0], rest[0][1], rest[1][1]), strict=True):
        assert before.ids == after.ids and torch.equal(before.clips[0], after.clips[0])


def test_a_shard_that_shrinks_afterwards_is_a_bad_clip(folder: Path) -> None:
    clips = read_manifest(None, f"{folder}/shards/train-001.tar")
    shard = folder / "shards" / "train-001.tar"
    shard.write_bytes(shard.read_bytes()[:600])
    dataset = ClipDataset(clips, Ladder(decoders=[PyAV()]), RandomView(3), 4, 32, 32, 10.0)
    with pytest.raises(ValueError, match="train-001.tar ends before it does"):
        dataset[0]


@pytest.fixture
def server(folder: Path) -> Iterator[str]:
    yield from serving(functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder)))


def serving(handler: Any) -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as opened:
        thread = threading.Thread(target=opened.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{opened.server_port}"
        opened.shutdown()
        thread.join()


def test_shards_elsewhere_are_fetched_once(folder: Path, server: str, caplog: pytest.LogCaptureFixture) -> None:
    pattern, cache = f"{server}/shards/train-{{000..001}}.tar", str(folder / "cache")
    clips = read_manifest(None, pattern, shard_cache=cache)
    assert [clips[index].id for index in range(3)][0] == "shards_train-000.tar/a.mp4"
    (folder / "shards").rename(folder / "moved")
    again = read_manifest(None, pattern, shard_cache=cache)
    assert again.stated == clips.stated
    assert sorted(path.name for path in (folder / "cache").rglob("*.tar*")) == [
        "shards_train-000.tar", "shards_train-001.tar"
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"data.manifest=http://.*/gone.tar: File not found"):
        fetched(f"{server}/gone.tar", folder / "cache")
    assert not list((folder / "cache").rglob("*.part"))


class Parts(http.server.SimpleHTTPRequestHandler):
    """A server that gives parts of files, as those of object stores do, and notes which."""

    asked: list[tuple[str, str]] = []
    failing = 0  # of so many requests to come

    def do_GET(self) -> None:
        wanted = self.headers.get("Range", "")
        self.asked.append((self.path, wanted))
        if type(self).failing:
            type(self).failing -= 1
            self.send_error(503, "busy")
            return
        if not wanted:
            super().do_GET()
            return
        file = Path(self.translate_path(self.path))
        if not file.is_file():
            self.send_error(404, "File not found")
            return
        content = file.read_bytes()
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        part = content[int(first) : int(last) + 1]
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{int(first) + len(part) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def parts_server(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(Parts, "asked", [])
    monkeypatch.setattr(remote, "WAITS", (0.0, 0.0))
    yield from serving(functools.partial(Parts, directory=str(folder)))


def test_shards_are_streamed_clip_by_clip(folder: Path, parts_server: str) -> None:
    """The same rows and clips as of fetched shards; on the disk are indices alone, and a clip is one request."""
    pattern, cache = f"{parts_server}/shards/train-{{000..001}}.tar", folder / "cache"
    wanted = read_manifest(None, pattern, shard_cache=str(folder / "whole"))
    clips = read_manifest(None, f"stream:{pattern}", shard_cache=str(cache))
    assert clips.table == wanted.table
    kept = sum(file.stat().st_size for file in cache.rglob("*") if file.is_file())
    assert kept < 2000 < sum(file.stat().st_size for file in (folder / "shards").iterdir())
    Parts.asked.clear()
    for index in range(3):
        with clips[index].opened() as mine, wanted[index].opened() as theirs:
            assert mine.read_bytes() == theirs.read_bytes()
    assert [path for path, part in Parts.asked if part] == [f"/shards/train-00{n}.tar" for n in (0, 0, 1)]
    assert read_manifest(None, f"stream:{pattern}", shard_cache=str(cache)).table == wanted.table
    assert len(Parts.asked) == 3, "the indices are made once"
    signed = read_manifest(None, f"stream:{parts_server}/shards/train-001.tar?key=new.tar", shard_cache=str(cache))
    with signed[0].opened() as mine:
        assert mine.stat().st_size > 0 and Parts.asked[-1][0].endswith("?key=new.tar") and len(Parts.asked) == 4


def test_processes_at_once_fetch_a_shard_once(folder: Path, parts_server: str) -> None:
    """Threads here: each takes the lock for itself, as processes do."""

    def fetch(number: int) -> Path:
        return fetched(f"{parts_server}/shards/train-001.tar", folder / "cache")

    with ThreadPoolExecutor(4) as pool:
        files = set(pool.map(fetch, range(4)))
    assert len(files) == 1 and Parts.asked == [("/shards/train-001.tar", "")]


def test_a_checked_list_of_streamed_shards(
    folder: Path, parts_server: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = folder / "checked.csv"
    asked = [f"manifest=stream:{parts_server}/shards/train-000.tar", f"out={out}", f"shard_cache={folder / 'cache'}"]
    assert run_script(monkeypatch, *asked, "jobs=1") == 0, capsys.readouterr().err
    clips = chosen(read_manifest(None, out), None)
    item = ClipDataset(clips, Ladder(decoders=[PyAV()]), RandomView(0), 4, 32, 48, 10.0)[1]
    assert item["id"].endswith("train-000.tar/sub/b.mp4") and item["skipped"] == ()


def test_a_server_that_fails_for_a_while_and_one_that_has_another_file(folder: Path, parts_server: str) -> None:
    clips = read_manifest(None, f"stream:{parts_server}/shards/train-001.tar", shard_cache=str(folder / "cache"))

    def read() -> bytes:
        with clips[0].opened() as path:
            return path.read_bytes()

    whole = read()
    Parts.failing = 2
    assert read() == whole
    Parts.failing = 3
    with pytest.raises(BadClip, match=r"train-001.tar: (busy|HTTP Error 503: busy)"):
        read()
    Parts.failing = 0
    with (folder / "shards" / "train-001.tar").open("ab") as file:
        file.write(b"more")
    with pytest.raises(BadClip, match="train-001.tar is another file by now"):
        read()
    (folder / "shards" / "train-001.tar").unlink()
    with pytest.raises(BadClip, match="File not found"):
        read()
    (index,) = (folder / "cache").rglob("*.tar")
    index.write_bytes(index.read_bytes()[:40])
    with pytest.raises(BadClip, match="is a damaged index of a streamed shard; remove it"):
        read()


def test_what_cannot_be_streamed_is_one_line(folder: Path, server: str, parts_server: str) -> None:
    (folder / "cut.tar").write_bytes((folder / "shards" / "train-000.tar").read_bytes()[:3000])
    for pattern, says in (
        (f"stream:{server}/shards/train-000.tar", "this server gives no parts of a file; without stream: in front"),
        (f"stream:{parts_server}/gone.tar", "gone.tar: "),
        (f"stream:{parts_server}/cut.tar", "cut.tar: unexpected end of data"),
        (f"stream:{folder}/shards/train-000.tar", "stream: is for addresses; a file is read where it lies anyway"),
        ("stream:pipe:cat a.tar", "a pipe would run a command"),
    ):
        with pytest.raises(ValueError, match=says) as error:
            read_manifest(None, pattern, shard_cache=str(folder / "cache"))
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="data.shard_cache=FOLDER says where the indices of streamed shards are kept"):
        read_manifest(None, f"stream:{parts_server}/shards/train-000.tar")
    assert not [each for each in (folder / "cache").rglob("*") if each.suffix in (".part", ".tar")]


def test_names_of_shards_never_reach_a_shell(folder: Path) -> None:
    for name in (f"$(touch {folder}/x).tar", f"`touch {folder}/x`.tar", f"a;touch {folder}/x;.tar"):
        with pytest.raises((ValueError, FileNotFoundError)):
            read_manifest(None, name)
    assert not (folder / "x").exists() and expanded("a-{00..02}.tar") == ["a-00.tar", "a-01.tar", "a-02.tar"]
