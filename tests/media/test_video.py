"""Written videos come back: pixels, frame rate, words. Nothing is left half written."""

import random
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from dit.media.video import as_uint8, viewing_scale, write_video


def read(path: Path) -> tuple[np.ndarray, float, dict[str, str]]:
    with av.open(str(path)) as container:
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
        rate = container.streams.video[0].average_rate
        return frames, float(rate), dict(container.metadata)


def smooth(frames: int, height: int, width: int, seed: int) -> torch.Tensor:
    """A soft random clip, float in [-1, 1]: what 4:2:0 can hold."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 2, 3, 3, generator=generator) * 2 - 1
    return torch.nn.functional.interpolate(coarse, (frames, height, width), mode="trilinear", align_corners=True)[0]


@pytest.mark.parametrize("seed", range(4))
def test_pixels_rate_and_words_come_back(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    frames, height, width = rng.randint(1, 9), rng.randint(9, 40), rng.randint(9, 40)
    fps, scale = rng.choice([8, 24, 29.97, 12.5]), rng.randint(1, 4)
    words = {"prompt": "a röd circle, “moves” right", "seed": str(seed), "made.by": '{"weights": "ema"}'}
    pixels = smooth(frames, height, width, seed)
    write_video(tmp_path / "deep" / "clip.mp4", pixels, fps, words, scale=scale)

    got, rate, metadata = read(tmp_path / "deep" / "clip.mp4")
    want = as_uint8(pixels).permute(1, 2, 3, 0).numpy().repeat(scale, 1).repeat(scale, 2)
    assert got.shape[1] % 2 == got.shape[2] % 2 == 0
    got = got[:, : height * scale, : width * scale]
    assert got.shape == want.shape
    assert np.abs(got.astype(int) - want).mean() < 6  # a swapped channel or frame gives 40 and more
    assert rate == pytest.approx(fps, rel=1e-3)
    assert {key: metadata[key] for key in words} == words


@pytest.mark.parametrize("colour", [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (12, 200, 90)])
def test_colours_do_not_shift(tmp_path: Path, colour: tuple[int, int, int]) -> None:
    pixels = torch.tensor(colour, dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 3, 16, 16)
    write_video(tmp_path / "c.mp4", pixels, 8, {})
    assert np.abs(read(tmp_path / "c.mp4")[0].astype(int) - np.array(colour)).max() <= 3


def test_an_odd_size_repeats_its_last_row_and_column(tmp_path: Path) -> None:
    write_video(tmp_path / "c.mp4", smooth(2, 17, 21, 0), 8, {})
    frames, _, _ = read(tmp_path / "c.mp4")
    assert frames.shape == (2, 18, 22, 3)
    assert np.abs(frames[:, -1].astype(int) - frames[:, -2]).mean() < 6


def test_floats_and_bytes_are_the_same_picture() -> None:
    pixels = torch.randint(0, 256, (3, 2, 5, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(as_uint8(pixels.float() / 127.5 - 1), pixels)
    assert torch.equal(as_uint8(torch.tensor([-9.0, 9.0])), torch.tensor([0, 255], dtype=torch.uint8))


@pytest.mark.parametrize("spoil", [float("nan"), float("inf")])
def test_a_diverged_clip_is_refused_and_the_old_file_stays(tmp_path: Path, spoil: float) -> None:
    path = tmp_path / "clip.mp4"
    write_video(path, smooth(2, 16, 16, 0), 8, {})
    before = path.read_bytes()
    bad = smooth(2, 16, 16, 1)
    bad[0, 1, 3, 3] = spoil
    with pytest.raises(ValueError, match="NaN or infinity"):
        write_video(path, bad, 8, {})
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["clip.mp4"]


def test_an_encoder_that_breaks_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(av.VideoFrame, "from_ndarray", broken, raising=True)
    with pytest.raises(OSError, match="disk full"):
        write_video(tmp_path / "clip.mp4", smooth(2, 16, 16, 0), 8, {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "pixels, fps, scale, says",
    [
        (torch.zeros(2, 3, 8, 8), 8, 1, r"\(3, frames, height, width\)"),
        (torch.zeros(3, 0, 8, 8), 8, 1, "none of them 0"),
        (torch.zeros(3, 2, 8, 8), 0, 1, "fps=0"),
        (torch.zeros(3, 2, 8, 8), 8, 0, "scale=0"),
        (torch.zeros(3, 2, 8, 8, dtype=torch.int64), 8, 1, "int64"),
    ],
)
def test_wrong_input_is_named(tmp_path: Path, pixels: torch.Tensor, fps: float, scale: int, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        write_video(tmp_path / "clip.mp4", pixels, fps, {}, scale=scale)


def test_viewing_scale_brings_small_clips_to_a_size_for_eyes() -> None:
    assert [viewing_scale(*size) for size in [(32, 32), (64, 32), (100, 300), (256, 256), (480, 832)]] == [
        8,
        8,
        3,
        1,
        1,
    ]


def test_the_same_clip_is_the_same_bytes(tmp_path: Path) -> None:
    """Whatever lies in memory that was used before; on one machine x264's macroblock tree failed this."""
    pixels, noise = smooth(16, 96, 96, seed=9), np.random.default_rng(9)
    written = set()
    for index in range(12):
        used = [noise.integers(0, 255, 2**size, dtype=np.uint8) for size in range(10, 19) for _ in range(4)]
        del used
        write_video(tmp_path / f"{index}.mp4", pixels, 16, {}, scale=1)
        written.add((tmp_path / f"{index}.mp4").read_bytes())
    assert len(written) == 1
