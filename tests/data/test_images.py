"""Images of each kind mean what they show, or are refused in a line."""

from __future__ import annotations

import math
import random
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.checks import Checks, check_clip
from data.decode import BadClip, Ladder, PyAV
from data.images import open_image, open_mask
from data.manifest import Row
from tests.hostile import watched


def save(tmp_path: Path, array: np.ndarray, mode: str | None = None, name: str = "a.png", **options: object) -> Path:
    Image.fromarray(array).convert(mode or Image.fromarray(array).mode).save(tmp_path / name, **options)
    return tmp_path / name


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_sixteen_bits_of_grey_keep_their_scale(tmp_path: Path, name: str) -> None:
    grey = np.arange(0, 65536, 257, dtype=np.uint16)[None].repeat(2, 0)  # black to white
    file = save(tmp_path, grey, name=name)
    assert np.array_equal(
        np.asarray(open_image(file)), np.arange(256, dtype=np.uint8)[None, :, None].repeat(2, 0).repeat(3, 2)
    )
    assert np.array_equal(np.asarray(open_mask(file)), np.arange(256, dtype=np.uint8)[None].repeat(2, 0))


def test_transparent_places_are_white_in_an_image_and_outside_a_mask(tmp_path: Path) -> None:
    array = np.zeros((2, 2, 4), np.uint8)
    array[0, 0] = (200, 10, 10, 255)
    array[0, 1] = (255, 255, 255, 0)
    array[1, 0] = (0, 255, 0, 0)  # a colour that nobody sees
    array[1, 1] = (255, 255, 255, 255)
    file = save(tmp_path, array)
    image = np.asarray(open_image(file))
    assert image[0, 0].tolist() == [200, 10, 10] and image[1, 0].tolist() == image[0, 1].tolist() == [255, 255, 255]
    assert (np.asarray(open_mask(file)) > 127).tolist() == [[False, False], [False, True]]
    palette = Image.fromarray(array[..., :3]).quantize(4)
    palette.save(tmp_path / "p.png", transparency=palette.getpixel((0, 0)))
    assert np.asarray(open_image(tmp_path / "p.png"))[0, 0].tolist() == [255, 255, 255]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_the_image(tmp_path: Path, orientation: int) -> None:
    upright = np.zeros((40, 64, 3), np.uint8)
    upright[:20, :32] = 250  # the upper left quarter
    undo = {
        2: "FLIP_LEFT_RIGHT",
        3: "ROTATE_180",
        4: "FLIP_TOP_BOTTOM",
        5: "TRANSPOSE",
        6: "ROTATE_90",
        7: "TRANSVERSE",
    }
    undo |= {8: "ROTATE_270"}
    image = Image.fromarray(upright)
    if orientation in undo:
        image = image.transpose(getattr(Image.Transpose, undo[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "a.jpg", exif=exif, quality=95)
    assert np.abs(np.asarray(open_image(tmp_path / "a.jpg")).astype(int) - upright).mean() < 3


@pytest.mark.parametrize("mode", ["CMYK", "L", "1", "P", "YCbCr"])
def test_other_modes_show_their_colours(tmp_path: Path, mode: str) -> None:
    array = np.zeros((16, 16, 3), np.uint8)
    array[:8] = 255
    file = save(tmp_path, array, mode, name="a.jpg" if mode in ("CMYK", "YCbCr") else "a.png")
    read = open_image(file)
    assert read.mode == "RGB" and np.abs(np.asarray(read).astype(int) - array).mean() < 2


def bomb(path: Path) -> Path:
    """A PNG of a kilobyte or so that claims 30,000 x 30,000 pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))))
    return path


def test_what_has_no_known_meaning_is_refused_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "notes.png").write_text("no picture")
    whole = save(
        tmp_path, np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8), name="whole.png"
    ).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    Image.fromarray(np.full((4, 4), 0.5, np.float32)).save(tmp_path / "float.tif")
    Image.fromarray(np.full((4, 4), 1_000_000, np.int32)).save(tmp_path / "deep.tif")
    for file, says in [
        (bomb(tmp_path / "bomb.png"), "more than 128 megapixels; scale it down"),
        (tmp_path / "notes.png", "cannot be read as an image"),
        (tmp_path / "cut.png", "cannot be read as an image .*truncated"),
        (tmp_path / "float.tif", "floating-point pixels"),
        (tmp_path / "deep.tif", "grey values outside 16 bits"),
    ]:
        for read in (open_image, open_mask):
            with pytest.raises(BadClip, match=says) as error:
                read(file)
            assert "\n" not in str(error.value) and file.name in str(error.value)


def test_no_reader_of_an_image_starts_a_command(tmp_path: Path) -> None:
    """Pillow's reader of EPS, which goes by the bytes and not by the name, hands them to Ghostscript."""
    file = tmp_path / "frame.png"
    file.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n%%EndComments\nshowpage\n%%EOF\n")
    with watched() as seen:
        for read in (open_image, open_mask):
            with pytest.raises(BadClip, match="none of BMP, GIF, JPEG"):
                read(file)
        assert (
            check_clip(Row(file, (), "frame", 0.0, math.inf), Ladder(decoders=[PyAV()]), Checks()).status
            == "unreadable"
        )
    assert seen == []
    with watched() as seen, pytest.raises(OSError), Image.open(file) as image:
        image.load()
    assert seen != []


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.tif", "a.bmp"])
def test_bytes_overwritten_anywhere_give_an_image_or_bad_clip(tmp_path: Path, name: str) -> None:
    whole = save(tmp_path, np.random.default_rng(0).integers(0, 255, (24, 24, 3), np.uint8), name=name).read_bytes()
    rng, outcomes = random.Random(name), set()
    for _ in range(60):
        spoiled = bytearray(whole)
        for _ in range(rng.randint(1, 8)):
            spoiled[rng.randrange(min(len(spoiled), 200))] = rng.randrange(256)
        (tmp_path / f"spoiled-{name}").write_bytes(spoiled)
        try:
            outcomes.add(open_image(tmp_path / f"spoiled-{name}").mode)
        except BadClip:
            outcomes.add("bad")
    assert outcomes == {"RGB", "bad"}
