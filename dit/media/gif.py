"""Videos as animated GIFs, for viewers that show pictures and no videos."""

from __future__ import annotations

import io
import os

import av
from PIL import Image

from data.on_disk import on_disk

TICK = 1 / 100  # seconds: GIFs count time in hundredths, and browsers slow down pictures shown for less than two


def as_gif(source: str | os.PathLike[str], side: int) -> tuple[bytes, int, int]:
    """A video file as a GIF that repeats for ever, with its width and height, the longer one at most `side` pixels.

    Colours are the 256 that suit each frame best. The clip lasts as long as the video, to a hundredth of a second, up
    to 50 frames a second; equal frames that follow one another are one.

    Raises:
        OSError, av.FFmpegError: no video, or one that cannot be decoded.
    """
    with av.open(on_disk(source)) as container:
        stream = container.streams.video[0]
        share = min(1.0, side / max(stream.width, stream.height))
        size = (max(1, round(stream.width * share)), max(1, round(stream.height * share)))
        frames = [frame.to_image().resize(size, Image.Resampling.BOX) for frame in container.decode(stream)]
        seconds = 1 / float(stream.average_rate or 8)
    ends = [round(seconds * place / TICK) for place in range(len(frames) + 1)]
    times = [max(2, end - begin) * 10 for begin, end in zip(ends, ends[1:], strict=False)]  # milliseconds
    made = io.BytesIO()
    pictures = [frame.quantize(256, dither=Image.Dither.NONE) for frame in frames]
    pictures[0].save(made, "GIF", save_all=True, append_images=pictures[1:], duration=times, loop=0)
    return made.getvalue(), *size
