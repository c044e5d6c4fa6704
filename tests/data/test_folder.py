"""Folders as they are: captions under several names, links, thumbnails, hidden files."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from data.captions import captions_beside
from data.manifest import read_manifest


def ids(root: Path) -> list[str]:
    clips = read_manifest(root, None)
    return [clips[index].id for index in range(len(clips))]


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_videos_and_images_are_read_in_order_with_the_captions_beside_them(tmp_path: Path) -> None:
    touch(tmp_path, "c.mov", "sub/b.MKV", "a.mp4", "d.jpg", "notes.txt", ".trash/x.mp4", "._a.mp4")
    (tmp_path / "sub" / "b.txt").write_text("a blue\nsquare\n")
    clips = read_manifest(tmp_path, None)
    assert ids(tmp_path) == ["a.mp4", "c.mov", "d.jpg", "sub/b.MKV"]
    assert list(clips.captions()) == ["", "", "", "a blue square"]
    assert [clips[index].is_image for index in range(4)] == [False, False, True, False]


def test_thumbnails_and_other_kinds_are_left_out_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, "a.mp4", "a.jpg", "b.png", "c.gif", "d.gif")
    os.mkfifo(tmp_path / "e.mp4")
    os.mkfifo(tmp_path / "socket")
    assert ids(tmp_path) == ["a.mp4", "b.png"]
    assert "1 files are left out: named pipes, devices or links to nothing" in caplog.text
    assert "1 files are left out: thumbnails" in caplog.text and "2 files are left out: videos of other" in caplog.text


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    root = tmp_path / "clips"
    touch(tmp_path, "elsewhere/x.mp4", "elsewhere/deep/y.mp4", "clips/own/z.mp4")
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "own" / "back").symlink_to(root)  # a loop
    (tmp_path / "elsewhere" / "loop").symlink_to(tmp_path / "elsewhere")
    (root / "twice").symlink_to(tmp_path / "elsewhere" / "deep")
    (root / "file.mp4").symlink_to(tmp_path / "elsewhere" / "x.mp4")
    (root / "gone.mp4").symlink_to(tmp_path / "nowhere.mp4")
    assert ids(root) == ["file.mp4", "linked/deep/y.mp4", "linked/x.mp4", "own/z.mp4"]
    (tmp_path / "alias").symlink_to(root)
    assert len(ids(tmp_path / "alias")) == 4


@pytest.mark.parametrize(
    ("files", "captions"),
    [
        ({}, ()),
        ({"clip.txt": "a cat"}, ("a cat",)),
        ({"clip.mp4.txt": "a cat", "clip.txt": "of another clip.mov"}, ("a cat",)),
        ({"clip.txt": "\ufeffa cat\r\nwalks\r\n", "clip.json": '"no"'}, ("a cat walks",)),
        ({"clip.txt": " \n"}, ()),
        ({"clip.json": '"a cat"'}, ("a cat",)),
        ({"clip.json": json.dumps({"caption": "a cat", "fps": 8})}, ("a cat",)),
        ({"clip.mp4.json": json.dumps({"captions": ["a cat", "", "an animal"]})}, ("a cat", "an animal")),
        ({"clip.json": json.dumps(["a cat", "an animal"])}, ("a cat", "an animal")),
        ({"clip.json": json.dumps({"title": "IMG_1234", "views": 3})}, ()),
    ],
)
def test_captions_by_each_name(tmp_path: Path, files: dict[str, str], captions: tuple[str, ...]) -> None:
    for name, text in files.items():
        (tmp_path / name).write_bytes(text.encode())
    assert captions_beside(tmp_path / "clip.mp4") == captions


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("clip.txt", "a cat\nna\xefve".encode("latin-1"), r"clip.txt, line 2: byte 0xef is not UTF-8"),
        ("clip.mp4.txt", "a cat".encode("utf-16"), r"clip.mp4.txt, line 1: the file is UTF-16; save it as UTF-8"),
        ("clip.json", b'{\n"caption": }', r"clip.json, line 2: not JSON"),
        ("clip.json", b'{"caption": 3}', r"clip.json: the caption 3 is no text"),
        ("clip.json", b"[" * 100_000, r"clip.json.* not JSON"),
    ],
)
def test_what_cannot_be_read_is_one_line_with_the_file(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    touch(tmp_path, "clip.mp4")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=says) as error:
        read_manifest(tmp_path, None)
    assert "\n" not in str(error.value)


def test_licence_and_source_are_read_from_the_json_beside_a_clip(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b.mp4", "c.mp4")
    (tmp_path / "a.json").write_text(json.dumps({"caption": "a cat", "license": "CC0-1.0", "source": "me"}))
    (tmp_path / "b.mp4.json").write_text(json.dumps({"licence": 3, "source": "you"}))
    (tmp_path / "b.txt").write_text("a dog")
    (tmp_path / "c.json").write_text("{no json")
    (tmp_path / "c.txt").write_text("beside a file that is about something else")
    clips = read_manifest(tmp_path, None)
    assert clips.table.column("licence").to_pylist() == ["CC0-1.0", "", ""]
    assert clips.table.column("source").to_pylist() == ["me", "you", ""]
    assert list(clips.captions())[:2] == ["a cat", "a dog"]
