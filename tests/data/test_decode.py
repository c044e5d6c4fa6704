"""Decoders against frames that say their number, against each other on real clips, and on damaged files."""

import random
import re
from pathlib import Path

import av
import numpy as np
import pytest

from data.decode import BadClip, Decoder, Decord, Ladder, PyAV, Timeline, TorchCodec
from tests.data.videos import frame_number, media, write_numbered

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
    path = write_numbered(tmp_path / f"clip{suffix}", count=40)
    rng = random.Random(suffix)
    for _ in range(6):
        asked = [rng.randrange(40) for _ in range(rng.randint(1, 8))]
        frames = Ladder(decoders=[decoder]).frames(path, asked)
        assert frames.dtype == np.uint8 and frames.shape == (len(asked), 64, 96, 3)
        assert frame_number(frames) == asked


@pytest.mark.parametrize("decoder", DECODERS)
def test_the_timeline_is_the_files_own(tmp_path: Path, decoder: Decoder) -> None:
    seen: list[Timeline] = []

    def pick(timeline: Timeline) -> list[int]:
        seen.append(timeline)
        return [0]

    Ladder(decoders=[decoder]).read(write_numbered(tmp_path / "clip.mkv", count=30, fps=12.5), pick)
    assert len(seen[0].times) == 30 and seen[0].fps == pytest.approx(12.5, rel=1e-3)
    np.testing.assert_allclose(seen[0].times, np.arange(30) / 12.5, atol=1e-3)


@pytest.mark.parametrize("decoder", [p for p in DECODERS if p.id != "torchcodec"])  # type: ignore[attr-defined]
def test_uneven_frames_have_their_own_times(tmp_path: Path, decoder: Decoder) -> None:
    times = np.cumsum([0.0, *np.random.default_rng(0).choice([0.05, 0.1, 0.2], 24)])
    seen: list[Timeline] = []
    path = write_numbered(tmp_path / "clip.mkv", count=25, times=times.tolist())
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


def test_what_decord_reads_wrongly_or_not_at_all_goes_down_the_ladder(caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("decord")
    ladder = Ladder(decoders=[Decord(), PyAV()])
    for name in ("av1_video.mkv", "h265_video.mp4"):
        with pytest.raises(BadClip):
            Ladder(decoders=[Decord()]).frames(media(name), [3])
        np.testing.assert_array_equal(ladder.frames(media(name), [3, 8]), sequential(media(name))[[3, 8]])


@pytest.mark.parametrize("name", ["truncated.mp4", "corrupted.mp4"])
def test_damaged_real_files_raise_one_line_with_every_decoders_reason(name: str) -> None:
    pytest.importorskip("decord")
    with pytest.raises(BadClip) as error:
        Ladder(decoders=[Decord(), PyAV()]).frames(media(name), list(range(50)))
    assert error.value.path.endswith(name)
    assert re.search(r"decord.*pyav", error.value.why) and "\n" not in str(error.value)


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
