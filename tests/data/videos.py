"""Small video files for tests, each frame of which says its own number."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

MEDIA = Path(__file__).parents[3] / "shared" / "media"


def media(name: str) -> Path:
    """A real clip, or a skip where they are not there."""
    if not MEDIA.is_dir():
        pytest.skip("real clips of ../shared/media are not there")
    return MEDIA / name


def frame_number(frames: np.ndarray) -> list[int]:
    """The numbers written by `write_numbered`, read from the frames (F, H, W, 3)."""
    height, width = frames.shape[1:3]
    bits = [frames[:, height // 2, (2 * bit + 1) * width // 16].mean(-1) > 127 for bit in range(8)]
    return [int(sum(int(bits[bit][f]) << bit for bit in range(8))) for f in range(len(frames))]


def write_numbered(
    path: Path,
    count: int = 40,
    fps: float = 10,
    height: int = 64,
    width: int = 96,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    times: list[float] | None = None,
) -> Path:
    """Frame `f` shows `f` as eight bars, the lowest bit on the left; its brightness rises with `f` as well.

    `times` in seconds, if given, replaces the even spacing.
    """
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1001))
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        stream.options = options or {"g": "12", "bf": "2", "crf": "10"}
        for f in range(count):
            image = np.zeros((height, width, 3), np.uint8)
            for bit in range(8):
                image[:, bit * width // 8 : (bit + 1) * width // 8] = 225 if f >> bit & 1 else 30
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = round(1000 * (times[f] if times else f / fps))
            frame.time_base = Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path
