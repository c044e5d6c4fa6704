"""Decoders against frames that say their number, against each other on real clips, and on damaged files."""

import gc
import random
import re
import struct
from pathlib import Path

import av
import numpy as np
import pytest

from data import decode
from data.decode import BadClip, Decoder, Decord, Ladder, PyAV, Timeline, TorchCodec
from tests.data.videos import MATRICES, frame_number, media, write_colours, write_numbered

WIDTH = 128  # decord refuses narrow pictures of some widths: 24, 48; decord2 32 and 96 too

DECODERS: list[Decoder] = [
    pytest.param(decoder, id=decoder.name, marks=pytest.mark.skipif(why is not None, reason=f"{decoder.name}: {why}"))  # type: ignore[misc]
    for decoder in (Decord(), TorchCodec(), PyAV())
    for why in [decoder.missing()]
]


def sequential(path: Path) -> np.ndarray:
    """All frames without any seek: what a player shows, before rotation."""
    with av.open(str(path)) as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(container.streams.best("video"))])


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
def test_any_frames_in_any_order_are_the_frames_asked_for(tmp_path: Path, decoder: Decoder, suffix: str) -> None:
    path = write_numbered(tmp_path / f"clip{suffix}", count=40, width=WIDTH)
    rng = random.Random(suffix)
    for _ in range(6):
        asked = [rng.randrange(40) for _ in range(rng.randint(1, 8))]
        frames = Ladder(decoders=[decoder]).frames(path, asked)
        assert frames.dtype == np.uint8 and frames.shape == (len(asked), 64, WIDTH, 3)
        assert frame_number(frames) == asked


@pytest.mark.parametrize("decoder", DECODERS)
def test_the_timeline_is_the_files_own(tmp_path: Path, decoder: Decoder) -> None:
    seen: list[Timeline] = []

    def pick(timeline: Timeline) -> list[int]:
        seen.append(timeline)
        return [0]

    Ladder(decoders=[decoder]).read(write_numbered(tmp_path / "clip.mkv", count=30, fps=12.5, width=WIDTH), pick)
    assert len(seen[0].times) == 30 and seen[0].fps == pytest.approx(12.5, rel=1e-3)
    np.testing.assert_allclose(seen[0].times, np.arange(30) / 12.5, atol=1e-3)


@pytest.mark.parametrize("decoder", DECODERS)
def test_uneven_frames_have_their_own_times(tmp_path: Path, decoder: Decoder) -> None:
    times = np.cumsum([0.0, *np.random.default_rng(0).choice([0.05, 0.1, 0.2], 24)])
    seen: list[Timeline] = []
    path = write_numbered(tmp_path / "clip.mkv", count=25, width=WIDTH, times=times.tolist())
    Ladder(decoders=[decoder]).read(path, lambda timeline: seen.append(timeline) or [0])  # type: ignore[func-returns-value]
    np.testing.assert_allclose(seen[0].times, times, atol=2e-3)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("name", ["nasa_13013.mp4", "flipping_a_pancake.mkv", "hiker_tiny.mp4"])
def test_real_clips_are_bit_equal_to_playing_them(decoder: Decoder, name: str) -> None:
    path = media(name)
    want = sequential(path)
    asked = random.Random(name).sample(range(len(want)), 5)
    np.testing.assert_array_equal(Ladder(decoders=[decoder]).frames(path, asked), want[asked])


@pytest.mark.parametrize("decoder", DECODERS)
def test_rotated_clips_stand_upright_in_every_decoder(decoder: Decoder) -> None:
    path = media("rotated_90.mov")
    frames = Ladder(decoders=[decoder]).frames(path, [0, 2])
    lying = sequential(path)[[0, 2]]
    assert frames.shape[1:3] == lying.shape[1:3][::-1]
    # decord turns frames by itself: where it runs, this compares two independent rotations.
    np.testing.assert_array_equal(frames, Ladder(decoders=[PyAV()]).frames(path, [0, 2]))


@pytest.mark.parametrize("decoder", DECODERS)
def test_ten_bit_clips_are_close_in_every_decoder(decoder: Decoder) -> None:
    path = media("h264_10bits.mp4")
    difference = np.abs(Ladder(decoders=[decoder]).frames(path, [3, 17]).astype(int) - sequential(path)[[3, 17]])
    assert difference.mean() < 5


H264, H265 = "keyint=12:bframes=3:b-adapt=0:scenecut=0", "keyint=12:min-keyint=12:bframes=3:log-level=none"
KINDS = {  # name of the file: codec, its options
    "closed.mp4": ("libx264", {"x264-params": H264}),
    "open.mp4": ("libx264", {"x264-params": f"{H264}:open-gop=1"}),
    "open.mkv": ("libx264", {"x264-params": f"{H264}:open-gop=1"}),
    "h264.avi": ("libx264", {"x264-params": H264}),
    "h265.mp4": ("libx265", {"x265-params": f"{H265}:open-gop=1"}),
    "h265_closed.mkv": ("libx265", {"x265-params": f"{H265}:open-gop=0"}),
    "mpeg2.mkv": ("mpeg2video", {"g": "12", "bf": "2", "q": "2"}),
    "mpeg4.avi": ("mpeg4", {"g": "12", "bf": "2"}),
    "mpeg4.mp4": ("mpeg4", {"g": "12", "bf": "2"}),
    "vp9.webm": ("libvpx-vp9", {"g": "12", "auto-alt-ref": "1", "lag-in-frames": "16", "b": "500k"}),
    "ffv1.mkv": ("ffv1", {}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_frame_is_the_one_asked_for_or_the_decoder_refuses(tmp_path: Path, kind: str) -> None:
    """PyAV refuses none. Where groups of pictures are open, decord by itself gives other frames, without an error."""
    codec, options = KINDS[kind]
    path = write_numbered(tmp_path / kind, count=50, width=WIDTH, codec=codec, options=options)
    rng = random.Random(kind)
    for asked in ([0, 49], list(range(20, 40, 3)), [rng.randrange(50) for _ in range(8)]):
        assert frame_number(Ladder(decoders=[PyAV()]).frames(path, asked)) == asked
        for decoder in (each for each in (Decord(), TorchCodec()) if each.missing() is None):
            try:
                assert frame_number(Ladder(decoders=[decoder]).frames(path, asked)) == asked, decoder.name
            except BadClip as refused:
                assert kind != "closed.mp4" and re.search("groups|time stamps|other frames|Error", refused.why)


# Name, matrix, full range, codec, pixels, options.
TAGGED = [
    *((f"{matrix}-{full}.mp4", matrix, full, "libx264", "yuv420p", {}) for matrix in MATRICES for full in (0, 1)),
    ("full.webm", "bt709", 1, "libvpx-vp9", "yuv420p", {"lossless": "1"}),  # range in a tag alone, no pixels of its own
    ("h265.mkv", "bt709", 1, "libx265", "yuv420p", {"x265-params": "lossless=1:log-level=none:open-gop=0"}),
    ("ten.mp4", "bt709", 0, "libx264", "yuv420p10le", {}),
    ("ten.mkv", "bt2020", 1, "ffv1", "yuv420p10le", {}),
    ("chroma422.mp4", "bt709", 0, "libx264", "yuv422p", {}),
]


@pytest.mark.parametrize(("name", "matrix", "full", "codec", "pixels", "options"), TAGGED, ids=[t[0] for t in TAGGED])
def test_colours_are_those_that_matrix_and_range_mean(
    tmp_path: Path, name: str, matrix: str, full: int, codec: str, pixels: str, options: dict[str, str]
) -> None:
    """Within 2 grey levels of the book for 8 bits, 3.5 for 10; a wrong matrix or range is 10 and more away."""
    want = write_colours(tmp_path / name, matrix, bool(full), codec, pixels, options)
    seen = {}
    for decoder in (each for each in (PyAV(), TorchCodec(), Decord()) if each.missing() is None):
        try:
            frame = Ladder(decoders=[decoder]).frames(tmp_path / name, [2])[0]
        except BadClip as refused:
            assert decoder.name != "pyav" and re.search("full range|Error", refused.why)
            continue
        seen[decoder.name] = frame
        bars = frame[32, 8::16].astype(float)
        assert np.abs(bars - want).max() <= (3.5 if "10" in pixels else 2), decoder.name
        assert np.abs(frame.astype(int) - seen["pyav"]).mean() <= (5 if "10" in pixels else 0), decoder.name


def test_colours_without_tags_are_taken_as_bt601_in_limited_range(tmp_path: Path) -> None:
    want = write_colours(tmp_path / "clip.mp4", "bt601", full=False, tagged=False)
    for decoder in (each for each in (PyAV(), TorchCodec(), Decord()) if each.missing() is None):
        bars = Ladder(decoders=[decoder]).frames(tmp_path / "clip.mp4", [1])[0, 32, 8::16]
        assert np.abs(bars - want).max() <= 2


def write_corner(path: Path) -> None:
    """Four frames of 64x128, one quarter of which is bright: no two turns of it are alike."""
    image = np.full((64, 128, 3), 40, np.uint8)
    image[:32, :64] = 200
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 128, 64, "yuv420p"
        for _ in range(4):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


@pytest.mark.parametrize(("degrees", "mirrored"), [(90, False), (180, False), (-90, False), (0, True), (90, True)])
def test_turned_and_mirrored_clips_stand_upright(tmp_path: Path, degrees: int, mirrored: bool) -> None:
    write_corner(tmp_path / "lying.mp4")
    with av.open(str(tmp_path / "lying.mp4")) as lying, av.open(str(tmp_path / "clip.mp4"), "w") as turned:
        stream = turned.add_stream_from_template(lying.streams.video[0])
        stream.set_display_rotation(degrees, hflip=mirrored)
        for packet in lying.demux(video=0):
            if packet.size:
                packet.stream = stream
                turned.mux(packet)
    want = Ladder(decoders=[PyAV()]).frames(tmp_path / "lying.mp4", [2])
    want = np.rot90(want, degrees // 90, axes=(1, 2))
    want = want[:, :, ::-1] if mirrored else want
    np.testing.assert_array_equal(Ladder(decoders=[PyAV()]).frames(tmp_path / "clip.mp4", [2]), want)
    for decoder in (each for each in (TorchCodec(), Decord()) if each.missing() is None):
        try:
            np.testing.assert_array_equal(Ladder(decoders=[decoder]).frames(tmp_path / "clip.mp4", [2]), want)
        except BadClip as refused:
            assert mirrored and "mirrored" in refused.why


def test_frames_that_an_edit_list_hides_are_counted_by_nobody(tmp_path: Path) -> None:
    content = bytearray(write_numbered(tmp_path / "a.mp4", count=25, width=WIDTH, options={"g": "12"}).read_bytes())
    at = content.index(b"elst") + 16
    content[at : at + 4] = struct.pack(">i", struct.unpack(">i", content[at : at + 4])[0] + 8000)  # of 16000 a second
    (tmp_path / "cut.mp4").write_bytes(content)
    assert frame_number(Ladder(decoders=[PyAV()]).frames(tmp_path / "cut.mp4", [0, 7, 19])) == [5, 12, 24]
    for decoder in (each for each in (TorchCodec(), Decord()) if each.missing() is None):
        try:
            assert frame_number(Ladder(decoders=[decoder]).frames(tmp_path / "cut.mp4", [0, 7, 19])) == [5, 12, 24]
        except BadClip as refused:
            assert re.search(r"it counts 25 frames of 20", refused.why)


def test_what_decord_cannot_read_goes_down_the_ladder() -> None:
    pytest.importorskip("decord")
    ladder = Ladder(decoders=[Decord(), PyAV()])
    with pytest.raises(BadClip, match="open groups of pictures"):
        Ladder(decoders=[Decord()]).frames(media("h265_video.mp4"), [3])
    for name in ("av1_video.mkv", "h265_video.mp4"):
        np.testing.assert_array_equal(ladder.frames(media(name), [3, 8]), sequential(media(name))[[3, 8]])


def test_no_memory_waits_for_the_garbage_collector(tmp_path: Path) -> None:
    """A picture in a cycle of references lives until the next full collection, hundreds of clips later."""
    path = write_numbered(tmp_path / "clip.mp4", width=WIDTH)
    (tmp_path / "cut.mkv").write_bytes(write_numbered(tmp_path / "whole.mkv", width=WIDTH).read_bytes()[:9000])
    ladder = Ladder(decoders=[PyAV()])

    def read() -> None:
        ladder.frames(path, [3, 30, 12])
        for bad in (tmp_path / "cut.mkv", path):
            with pytest.raises(BadClip):
                ladder.frames(bad, [500])

    read()
    gc.collect()
    gc.disable()
    try:
        read()
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        assert not [
            each for each in gc.garbage if type(each).__module__.startswith("av.") or isinstance(each, np.ndarray)
        ]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


def test_memory_is_given_back_every_few_files_bad_ones_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int] = []
    monkeypatch.setattr(decode, "TRIM_EVERY", 3)
    monkeypatch.setattr(decode, "give_memory_back", lambda: given.append(ladder.reads))
    ladder = Ladder(decoders=[PyAV()])
    path = write_numbered(tmp_path / "clip.mp4", count=4)
    (tmp_path / "text.mp4").write_text("no video")
    for place in range(7):
        if place % 2:
            ladder.frames(path, [0])
        else:
            with pytest.raises(BadClip):
                ladder.frames(tmp_path / "text.mp4", [0])
    assert given == [3, 6]
    monkeypatch.undo()
    decode.give_memory_back()  # also where the C library has no such function


@pytest.mark.parametrize(("name", "why"), [("truncated.mp4", "Invalid data"), ("corrupted.mp4", r"decord.*pyav")])
def test_damaged_real_files_raise_one_line_with_every_reason(name: str, why: str) -> None:
    pytest.importorskip("decord")
    with pytest.raises(BadClip) as error:
        Ladder(decoders=[Decord(), PyAV()]).frames(media(name), list(range(50)))
    assert error.value.path.endswith(name)
    assert re.search(why, error.value.why) and "\n" not in str(error.value)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("spoil", ["empty", "text", "cut", "sound only", "absent"])
def test_spoiled_files_raise_bad_clip_and_nothing_else(tmp_path: Path, decoder: Decoder, spoil: str) -> None:
    path = tmp_path / "clip.mp4"
    whole = write_numbered(path).read_bytes()
    if spoil == "absent":
        path.unlink()
    elif spoil == "sound only":
        with av.open(str(path), "w") as container:
            sound = container.add_stream("aac", rate=44100)
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate = 44100
            container.mux(sound.encode(frame))
            container.mux(sound.encode())
    else:
        path.write_bytes({"empty": b"", "text": b"this is no video\n" * 50, "cut": whole[: len(whole) // 2]}[spoil])
    with pytest.raises(BadClip) as error:
        Ladder(decoders=[decoder]).frames(path, [0, 20])
    assert "\n" not in str(error.value) and len(error.value.why) < 400


def test_bytes_overwritten_anywhere_give_frames_or_bad_clip(tmp_path: Path) -> None:
    whole = write_numbered(tmp_path / "clip.mp4").read_bytes()
    rng = random.Random(0)
    outcomes = set()
    for _ in range(25):
        spoiled = bytearray(whole)
        for _ in range(30):
            spoiled[rng.randrange(len(spoiled))] = rng.randrange(256)
        (tmp_path / "spoiled.mp4").write_bytes(spoiled)
        try:
            frames = Ladder(decoders=[PyAV()]).frames(tmp_path / "spoiled.mp4", range(0, 40, 5))
            assert len(frames) == 8
            outcomes.add("frames")
        except BadClip:
            outcomes.add("bad")
    assert "bad" in outcomes


def test_a_codec_that_nobody_knows_is_a_bad_clip(tmp_path: Path) -> None:
    whole = write_numbered(tmp_path / "clip.mp4").read_bytes()
    (tmp_path / "unknown.mp4").write_bytes(whole.replace(b"avc1", b"zzzz"))
    for decoder in (each for each in (PyAV(), Decord()) if each.missing() is None):
        with pytest.raises(BadClip, match="its codec is not known"):
            Ladder(decoders=[decoder]).frames(tmp_path / "unknown.mp4", [0])


@pytest.mark.parametrize("decoder", DECODERS)
def test_frames_that_do_not_exist_are_an_error(tmp_path: Path, decoder: Decoder) -> None:
    path = write_numbered(tmp_path / "clip.mp4", count=10)
    for asked in ([10], [-1], []):
        with pytest.raises(ValueError, match="numbered 0 to 9"):
            Ladder(decoders=[decoder]).frames(path, asked)


class Absent:
    name = "absent"

    def missing(self) -> str | None:
        return "not installed"

    def read(self, path: object, pick: object) -> np.ndarray:
        raise AssertionError


def test_decoders_that_are_missing_are_left_out_and_logged(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    with caplog.at_level("INFO"):
        ladder = Ladder(decoders=[Absent(), PyAV()])
    assert "decoding with pyav (absent cannot run: not installed)" in caplog.text
    assert frame_number(ladder.frames(write_numbered(tmp_path / "clip.mp4"), [7])) == [7]
    with pytest.raises(ValueError, match="absent cannot run: not installed.*data/decoder=pyav"):
        Ladder(decoders=[Absent()])
