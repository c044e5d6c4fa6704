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
        if codec not in ("mpeg2video", "mpeg4"):  # they count whole frames
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


# Red, green, blue, white, black, grey, orange, teal.
COLOURS = np.array(
    [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255] * 3, [0] * 3, [128] * 3, [230, 120, 30], [20, 110, 140]], np.float64
)
# Weights of red and blue in luma, and FFmpeg's number of the matrix (AVCOL_SPC_...).
MATRICES = {"bt601": (0.299, 0.114, 6), "bt709": (0.2126, 0.0722, 1), "bt2020": (0.2627, 0.0593, 9)}


def write_colours(
    path: Path,
    matrix: str,
    full: bool,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    options: dict[str, str] | None = None,
    tagged: bool = True,
) -> np.ndarray:
    """A clip of 64x128 that shows `COLOURS` as eight bars, four frames; returns them (8, 3) as a decoder should give
    them: the samples that are stored, turned into RGB by the book (ITU-R BT.601, BT.709, BT.2020), in float64.

    full: black is stored as 0 and white as 255 (or 1023), not as 16 and 235.
    tagged: the file says its matrix and range.
    """
    red, blue, number = MATRICES[matrix]
    depth = 10 if "10" in pixels else 8
    top, unit = 2**depth - 1, 2 ** (depth - 8)
    scale, black, chroma = (top, 0, top) if full else (219 * unit, 16 * unit, 224 * unit)
    r, g, b = COLOURS.T / 255
    luma = red * r + (1 - red - blue) * g + blue * b
    stored = np.stack(
        [
            black + scale * luma,
            128 * unit + chroma * (b - luma) / (2 - 2 * blue),
            128 * unit + chroma * (r - luma) / (2 - 2 * red),
        ],
        1,
    )
    stored = stored.round().clip(0, top)  # (8, 3)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = 128, 64, pixels
        stream.options = options or {"qp": "0"}
        tags = (number, 2 if full else 1) if tagged else (2, 0)
        stream.codec_context.colorspace, stream.codec_context.color_range = tags
        for place in range(4):
            frame = av.VideoFrame(128, 64, pixels)
            frame.colorspace, frame.color_range = tags
            for channel, plane in enumerate(frame.planes):
                samples = np.zeros((plane.height, plane.line_size // (1 if depth == 8 else 2)), np.uint16)
                samples[:, : plane.width] = np.repeat(stored[:, channel], plane.width // 8)
                plane.update(samples.astype(np.uint8 if depth == 8 else np.uint16).tobytes())
            frame.pts = place
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    luma, u, v = (stored[:, 0] - black) / scale, *((stored[:, 1:] - 128 * unit) / chroma).T
    r, b = luma + (2 - 2 * red) * v, luma + (2 - 2 * blue) * u
    g = (luma - red * r - blue * b) / (1 - red - blue)
    return (255 * np.stack([r, g, b], 1)).clip(0, 255)
