"""What is known of a file from its packets: time stamps, where decoding begins, how pictures are turned."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from data.decode import Frames, Ladder, PyAV
from data.source import SEEK_PAYS, BadClip, Turn, look
from tests.data.videos import frame_number, write_numbered

PICTURE = np.arange(2 * 3).reshape(2, 3)  # 0 1 2 / 3 4 5


@pytest.mark.parametrize(
    ("numbers", "shown", "degrees", "mirrored"),
    [
        ((1, 0, 0, 1), [[0, 1, 2], [3, 4, 5]], 0, False),
        ((0, 1, -1, 0), [[3, 0], [4, 1], [5, 2]], -90, False),  # clockwise: what ran to the right runs downwards
        ((-1, 0, 0, -1), [[5, 4, 3], [2, 1, 0]], 180, False),
        ((0, -1, 1, 0), [[2, 5], [1, 4], [0, 3]], 90, False),
        ((-1, 0, 0, 1), [[2, 1, 0], [5, 4, 3]], 180, True),
        ((1, 0, 0, -1), [[3, 4, 5], [0, 1, 2]], 0, True),
        ((0, 1, 1, 0), [[0, 3], [1, 4], [2, 5]], -90, True),
        ((0, -1, -1, 0), [[5, 2], [4, 1], [3, 0]], 90, True),
    ],
)
def test_a_display_matrix_is_a_turn(
    numbers: tuple[int, int, int, int], shown: list[list[int]], degrees: int, mirrored: bool
) -> None:
    turn = Turn.of_matrix(struct.pack("=9i", *(number << 16 for number in (*numbers[:2], 0, *numbers[2:], 0, 0, 0, 1))))
    frames: Frames = np.repeat(PICTURE[None, :, :, None], 3, 3).astype(np.uint8)
    assert turn.applied(frames)[0, :, :, 0].tolist() == shown
    assert (turn.degrees, turn.mirrored) == (degrees, mirrored)


def test_decoding_begins_at_the_nearest_key_frame_and_only_seeks_where_that_pays(tmp_path: Path) -> None:
    path = write_numbered(tmp_path / "clip.mkv", count=60, options={"g": "10", "bf": "0", "sc_threshold": "0"})
    with look(path) as source:
        assert source.keys.tolist() == list(range(0, 6000, 1000))
        for asked, begins in (
            ([0, 59], [0, 5000]),
            ([13, 14, 25], [1000, 2000] if SEEK_PAYS < 6 else [1000]),
            ([3, 9, 10, 11], [0]),
            ([35], [3000]),
            ([9, 19, 29], [0]),
            ([1, 31], [0, 3000]),
        ):
            stretches = source.stretches(np.array(asked))
            assert [begin for begin, _ in stretches] == begins, asked
            assert sum((stamps for _, stamps in stretches), []) == [100 * index for index in asked]


def replace_numbers(path: Path, box: bytes, entry: int, number: int, out: Path) -> Path:
    """A copy of an MP4 in which the second number of an entry of `stts` or `ctts` is another one, and which has no
    edit list: with one, FFmpeg itself leaves out frames behind its end."""
    content = bytearray(path.read_bytes().replace(b"edts", b"free"))
    at = content.index(box) + 12 + 8 * entry + 4
    content[at : at + 4] = struct.pack(">I", number)
    out.write_bytes(content)
    return out


UNEVEN = [0.0, 0.2, 0.3, 0.5, 0.6, 0.7, 0.75, 0.85, 1.0, 1.1, 1.2, 1.4]


@pytest.mark.parametrize(("box", "entry"), [(b"stts", 5), (b"ctts", 5), (b"stts", 0)])
def test_damaged_time_stamps_are_named_and_claim_no_duration(tmp_path: Path, box: bytes, entry: int) -> None:
    times = UNEVEN if entry else [0.1 * place for place in range(12)]  # one entry is the distance of all frames
    whole = write_numbered(tmp_path / "whole.mp4", count=12, times=times, options={"g": "6", "bf": "2"})
    spoiled = replace_numbers(whole, box, entry, 1 << 25, tmp_path / "spoiled.mp4")
    with look(whole) as source:
        assert source.timeline.times[-1] == pytest.approx(times[-1])
    with pytest.raises(BadClip, match=r"damaged time stamps: frame \d+ is shown for \d+\.\d s.* it lasts 1\.\d s"):
        Ladder(decoders=[PyAV()]).frames(spoiled, [0])


def test_damaged_clusters_of_a_matroska_file_are_named(tmp_path: Path) -> None:
    whole = write_numbered(tmp_path / "whole.mkv", count=120, options={"g": "12", "bf": "0"}).read_bytes()
    cluster = whole.rindex(bytes.fromhex("1f43b675"))
    time = whole.index(b"\xe7", cluster) + 2
    (tmp_path / "spoiled.mkv").write_bytes(whole[:time] + b"\x7f" + whole[time + 1 :])
    with pytest.raises(BadClip, match="damaged time stamps"), look(tmp_path / "spoiled.mkv"):
        pass


def test_a_picture_that_stands_still_for_long_is_believed_where_the_header_agrees(tmp_path: Path) -> None:
    times = [*UNEVEN, *(40 + time for time in UNEVEN)]
    path = write_numbered(tmp_path / "screen.mp4", count=24, times=times)
    with look(path) as source:
        np.testing.assert_allclose(source.timeline.times, times, atol=2e-3)
        assert source.timeline.fps == pytest.approx(23 / 41.4, rel=0.03)
        assert source.remarks() == ["frame 11 is shown for 38.6 s"]


def test_what_decoders_leave_as_it_is_gets_a_remark(tmp_path: Path) -> None:
    for name, number, words in (
        ("square.mkv", 1, []),
        ("hdr.mkv", 16, ["HDR (PQ), which is not mapped to the range of a screen"]),
    ):
        with av.open(str(tmp_path / name), "w") as container:
            stream = container.add_stream("libx264", rate=10)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            stream.codec_context.color_trc = number
            if words:
                stream.codec_context.sample_aspect_ratio = Fraction(4, 3)
            for _ in range(3):
                frame = av.VideoFrame(64, 48, "yuv420p")
                frame.color_trc = number
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        with look(tmp_path / name) as source:
            assert source.remarks() == words + ["its pixels are 4:3, and are taken as square"] * bool(words)


def test_a_damaged_first_picture_hides_no_other(tmp_path: Path) -> None:
    """It only does not say how the pictures are turned."""
    path = write_numbered(tmp_path / "clip.mkv", count=24, options={"g": "6", "bf": "0", "crf": "10"})
    content = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        at = content.index(bytes(packets[0])) + 40  # behind the parameters of x264
        content[at : at + packets[0].size - 40] = bytes(packets[0].size - 40)
    path.write_bytes(content)
    with look(path) as source:
        assert source.turn == Turn()
        assert frame_number(Ladder(decoders=[PyAV()]).decode(source, [12, 20])) == [12, 20]


def test_a_damaged_rate_in_the_header_is_not_believed(tmp_path: Path) -> None:
    """Of this file FFmpeg says one frame in 1,049 s; the last frame's end would be there."""
    whole = write_numbered(tmp_path / "whole.mp4", count=12, times=UNEVEN, options={"bf": "0"})
    last = struct.unpack(">I", whole.read_bytes().partition(b"stts")[2][4:8])[0] - 1
    with look(replace_numbers(whole, b"stts", last, 1 << 25, tmp_path / "spoiled.mp4")) as source:
        assert source.stream.average_rate < 0.1
        assert source.timeline.fps == pytest.approx(11 / 1.4, rel=0.1)
