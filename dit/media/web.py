"""Videos for pages: VP9 in WebM, small, and played by every browser of today.

The MP4s of this project are H.264, which browsers built without licensed decoders (those of some Linux distributions,
and embedded ones) do not play. VP9 needs no licence, and unlike animated WebP, PNG or GIF it is a video: a page can
stop it, go through it frame by frame and keep several in step. AV1 would be smaller, but Apple's browsers play it on
their newest devices alone, and it is several times slower to write.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
from av.video.reformatter import Colorspace, Interpolation

from data.on_disk import on_disk
from dit.media.video import say_colours

TYPE = "video/webm"


@dataclass(frozen=True)
class Quality:
    """How a video is written. crf: constant quality of VP9, 0 (best) to 63. side: of the longer one, pixels at most."""

    crf: int
    side: int


LADDER = tuple(Quality(*each) for each in ((20, 512), (28, 448), (33, 384), (36, 320), (42, 256), (50, 192)))


def as_webm(source: str | os.PathLike[str], quality: Quality) -> bytes:
    """A video file as WebM, with the words that the file holds. It is never enlarged, and its sizes are even.

    Raises:
        ValueError: no video, or one that cannot be decoded.
    """
    made = io.BytesIO()
    try:
        with (
            av.open(on_disk(source)) as container,
            av.open(made, "w", format="webm", options={"fflags": "+bitexact"}) as webm,
        ):
            if not container.streams.video:
                raise ValueError("it has no pictures")
            pictures = container.streams.best("video")
            assert pictures is not None
            webm.metadata.update(container.metadata)
            stream = webm.add_stream("libvpx-vp9", rate=Fraction(pictures.average_rate or 8).limit_denominator(1001))
            share = min(1.0, quality.side / max(pictures.width, pictures.height))
            stream.width, stream.height = (
                max(2, round(size * share / 2) * 2) for size in (pictures.width, pictures.height)
            )
            stream.pix_fmt = "yuv420p"
            stream.bit_rate = 0  # the quality alone decides
            stream.options = {"crf": str(quality.crf), "deadline": "good", "cpu-used": "4", "row-mt": "1"}
            say_colours(stream)
            count = 0
            for frame in container.decode(pictures):
                picture = frame.reformat(
                    stream.width,
                    stream.height,
                    "yuv420p",
                    dst_colorspace=Colorspace.ITU709,
                    interpolation=Interpolation.AREA,
                )
                picture.pts, picture.time_base = count, 1 / stream.codec_context.framerate
                webm.mux(stream.encode(picture))
                count += 1
            if not count:
                raise ValueError("it has no frames")
            webm.mux(stream.encode())
    except (av.FFmpegError, OSError) as error:
        raise ValueError(" ".join(str(error).split())) from None
    return made.getvalue()


def fitting(
    sources: Sequence[Path],
    most_bytes: int,
    encode: Callable[[Path, Quality], bytes],
    done: Callable[[], None] = lambda: None,
) -> list[bytes]:
    """Videos that together have at most `most_bytes`: as good as possible, those that are large worse than those that
    are small anyway. Where the worst quality does not fit, the last videos are b"".

    encode: `as_webm`, or one that keeps what it made. done: is called behind each video of the first round.
    """
    made: list[bytes] = []
    for source in sources:
        made.append(encode(source, LADDER[0]))
        done()
    for quality in LADDER[1:]:
        if sum(map(len, made)) <= most_bytes:
            return made
        share = _share([len(each) for each in made], most_bytes)
        made = [encode(source, quality) if len(old) > share else old for source, old in zip(sources, made, strict=True)]
    total = 0
    for place, each in enumerate(made):
        total += len(each)
        if total > most_bytes:
            made[place:] = [b""] * (len(made) - place)
            break
    return made


def _share(sizes: Sequence[int], most: int) -> float:
    """What the large ones may have each, once the small ones, which need less, have theirs."""
    left, count = float(most), len(sizes)
    for size in sorted(sizes):
        if size > left / count:
            break
        left, count = left - size, count - 1
    return left / max(1, count)
