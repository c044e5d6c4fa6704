"""Videos whose path reads as an address are files, and nobody is asked for them."""

from __future__ import annotations

import ast
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from data import scores
from data.decode import Decord, Ladder, PyAV, TorchCodec
from data.on_disk import on_disk
from data.source import look
from dit.media.gif import as_gif
from dit.media.samples import SampleSet, read_back
from dit.media.video import write_video
from dit.media.web import LADDER, as_webm
from dit.report.clips import clips_in
from scripts import doctor

ROOT = Path(__file__).resolve().parents[2]
OPENERS = ("av.open", "VideoReader", "VideoDecoder")


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that reads as the address of a server here, with a clip; whoever connects is a failure."""
    asked: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    caller, _ = server.accept()
                except OSError:
                    return
                with caller:
                    caller.settimeout(5)
                    asked.append(caller.recv(200))

        threading.Thread(target=serve, daemon=True).start()
        monkeypatch.chdir(tmp_path)
        folder = Path("http:") / f"127.0.0.1:{server.getsockname()[1]}"
        folder.mkdir(parents=True)
        doctor.write_clip(tmp_path / "clip.mp4")
        (tmp_path / "clip.mp4").rename(folder / "clip.mp4")
        yield folder
        server.shutdown(socket.SHUT_RDWR)
    assert not asked


def looked(clip: Path) -> int:
    with look(clip) as source:
        source.turn  # noqa: B018 - it opens the file once more
        return len(source.stamps)


def cut(clip: Path) -> int:
    if scores.missing_detector() is not None:
        pytest.skip("scenedetect is not installed")
    return 8 if scores.cuts(clip, 0.0, 1.0) is not None else 0


def decoded(decoder: Any) -> Callable[[Path], int]:
    def read(clip: Path) -> int:
        if decoder.missing() is not None:
            pytest.skip(f"{decoder.name} is not installed")
        return len(Ladder(decoders=[decoder]).frames(clip, range(8)))

    return read


def shown(clip: Path) -> int:
    said: list[str] = []
    there = clips_in(clip.parent.parent, [], said.append)
    assert not said
    return 8 * len(there)


READERS: dict[str, Callable[[Path], int]] = {
    "looked at": looked,
    "PyAV": decoded(PyAV()),
    "decord": decoded(Decord()),
    "torchcodec": decoded(TorchCodec()),
    "cuts": cut,
    "GIF": lambda clip: 8 * bool(as_gif(clip, 32)[0]),
    "WebM": lambda clip: 8 * bool(as_webm(clip, LADDER[-1])),
    "report": shown,
    "doctor": lambda clip: len(doctor.read_pyav(clip)),
}


@pytest.mark.parametrize("reader", READERS)
def test_reading(address: Path, reader: str) -> None:
    assert READERS[reader](address / "clip.mp4") == 8


def test_writing(address: Path) -> None:
    pixels = torch.zeros(3, 4, 32, 32, dtype=torch.uint8)
    write_video(address / "made.mp4", pixels, 8.0, {})
    assert looked(address / "made.mp4") == 4
    fact = {"prompt": "a", "seed": 0, "fps": 8.0, "height": 32, "width": 32}
    assert read_back(SampleSet(address, [fact]).write(0, pixels)).shape == pixels.shape
    assert len(doctor.write_clip(address / "other.mp4")) == looked(address / "other.mp4") == 8
    assert not list(address.glob(".*"))


@pytest.mark.parametrize(
    "path", ["clip.mp4", "http:/host/clip.mp4", "concat:a|b", "subfile,,start,0,end,9,,:a", "../a", "-", "pipe:0"]
)
def test_a_name_that_is_no_address(path: str) -> None:
    named = on_disk(path)
    assert named == on_disk(Path(path)) == f"{Path.cwd()}/{path}"
    assert on_disk(named) == named


def openings() -> Iterator[tuple[str, ast.Call]]:
    """All calls that give FFmpeg a file, with where they stand."""
    for file in (file for folder in ("dit", "data", "scripts") for file in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(OPENERS):
                yield f"{file.relative_to(ROOT)}:{node.lineno}", node


def test_every_video_is_opened_by_such_a_name() -> None:
    """But what is written into memory (`made`, in dit/media/web.py)."""
    given = {at: ast.unparse(call.args[0]) for at, call in openings()}
    others = {at: name for at, name in given.items() if not name.startswith("on_disk(")}
    assert len(given) > 10 and list(others.values()) == ["made"], others
