"""Videos for pages: what they show, how large they are, and that many share the room there is."""

from pathlib import Path

import av
import numpy as np
import pytest
import torch

from dit.media.video import write_video
from dit.media.web import LADDER, Quality, as_webm, fitting


def clip(path: Path, frames: int = 5, height: int = 48, width: int = 64) -> Path:
    pixels = torch.full((3, frames, height, width), 30, dtype=torch.uint8)
    pixels[0] = 200
    pixels[1] += 30 * torch.arange(frames, dtype=torch.uint8)[:, None, None]
    write_video(path, pixels, 12.5, {"prompt": "a röd “one”", "seed": "3"})
    return path


def read(tmp_path: Path, content: bytes) -> tuple[np.ndarray, float, dict[str, str], str]:
    file = tmp_path / "read.webm"
    file.write_bytes(content)
    with av.open(str(file)) as container:
        stream = container.streams.video[0]
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)])
        about = {key.lower(): value for key, value in container.metadata.items()}
        return frames, float(stream.average_rate or 0), about, stream.codec_context.name


def test_frames_colours_rate_and_words_are_those_of_the_video(tmp_path: Path) -> None:
    made = as_webm(clip(tmp_path / "a.mp4"), LADDER[0])
    frames, rate, about, codec = read(tmp_path, made)
    assert frames.shape == (5, 48, 64, 3) and rate == pytest.approx(12.5, rel=1e-2) and "vp9" in codec
    middle = frames[:, 24, 32].astype(int)
    assert np.abs(middle - [[200, 30 + 30 * i, 30] for i in range(5)]).max() <= 6
    assert about["prompt"] == "a röd “one”" and about["seed"] == "3"
    assert as_webm(tmp_path / "a.mp4", LADDER[0]) == made, "the same video is the same bytes"


def test_large_videos_are_made_smaller_and_small_ones_left(tmp_path: Path) -> None:
    source = clip(tmp_path / "a.mp4", 2, 90, 150)
    assert read(tmp_path, as_webm(source, Quality(30, 76)))[0].shape == (2, 46, 76, 3)
    assert read(tmp_path, as_webm(source, Quality(30, 4000)))[0].shape == (2, 90, 150, 3)


@pytest.mark.parametrize("content", [b"", b"no video at all", None])
def test_what_is_no_video_is_refused(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "a.mp4"
    if content is None:
        clip(file)
        content = file.read_bytes()[:900]  # cut off
    file.write_bytes(content)
    with pytest.raises(ValueError):
        as_webm(file, LADDER[0])


def test_videos_share_the_room_and_the_small_ones_are_spared() -> None:
    asked: list[tuple[str, int]] = []

    def encode(source: Path, quality: Quality) -> bytes:
        asked.append((source.name, quality.crf))
        return bytes(int(source.name) * (64 - quality.crf) // 44)  # at the best quality as large as its name says

    sources = [Path(str(size)) for size in (44, 4400, 88, 4400)]
    assert [len(each) for each in fitting(sources, 10_000, encode)] == [44, 4400, 88, 4400]
    assert len(asked) == 4
    made = fitting(sources, 6000, encode)
    assert sum(map(len, made)) <= 6000 and len(made[0]) == 44 and len(made[2]) == 88
    assert len(made[1]) == len(made[3]) > 2000
    assert [len(each) for each in fitting(sources, 1000, encode)] == [44, 0, 0, 0], "what has no room is left out"
