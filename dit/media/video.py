"""The one place that writes video files, so that every MP4 of this project says where it came from."""

from __future__ import annotations

import os
from collections.abc import Mapping
from fractions import Fraction

import av
import torch
from av.video.reformatter import Colorspace
from torch import Tensor

from data.on_disk import on_disk
from dit.media.files import atomic


def as_uint8(pixels: Tensor) -> Tensor:
    """Pixels as uint8 [0, 255], any shape: floats are taken as [-1, 1] and rounded, uint8 passes through.

    Raises:
        ValueError: pixels that are not finite, or of another kind of number.
    """
    if pixels.dtype == torch.uint8:
        return pixels
    if not pixels.is_floating_point():
        raise ValueError(f"pixels of dtype {pixels.dtype} cannot be shown: give uint8, or floats in [-1, 1]")
    if not torch.isfinite(pixels).all():
        raise ValueError("pixels hold NaN or infinity and cannot be shown; the sampler or the decoder diverged")
    return pixels.float().add(1.0).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)


def viewing_scale(height: int, width: int, least: int = 256) -> int:
    """The whole factor that brings the shorter side of a frame to about `least` pixels; 1 for larger frames."""
    return max(1, round(least / min(height, width)))


def say_colours(stream: av.VideoStream) -> None:
    """Tags a stream that is written as BT.709. Untagged files are shown in BT.601 by some players and BT.709 by others:
    colours would shift."""
    stream.codec_context.colorspace = Colorspace.ITU709
    stream.codec_context.color_primaries = 1
    stream.codec_context.color_trc = 1
    stream.codec_context.color_range = 1


def write_video(
    path: str | os.PathLike[str],
    pixels: Tensor,  # (3, F, H, W), uint8 or float in [-1, 1]
    fps: float,  # frames a second
    metadata: Mapping[str, str],  # written into the file; {} says in so many words that there is none
    scale: int = 1,  # each pixel becomes scale x scale pixels, so that small clips can be looked at
    lossless: bool = False,  # every pixel as it is: 4:4:4 RGB, which players on FFmpeg show, browsers may not
    reproducible: bool = False,  # the same bytes on processors with other instructions, too
) -> None:
    """Writes a clip as H.264 MP4 (4:2:0, BT.709) that every browser and player shows.

    H.264 4:2:0 has even sizes only: an odd height or width gets its last row or column once more. The file appears
    whole or not at all. `metadata` is read back by `av.open(path).metadata`.

    Raises:
        ValueError: pixels of another shape, not finite, or a frame rate or scale that is not positive.
    """
    if pixels.ndim != 4 or pixels.shape[0] != 3 or 0 in pixels.shape:
        raise ValueError(f"a video is (3, frames, height, width), none of them 0; got {tuple(pixels.shape)}")
    if fps <= 0 or scale < 1:
        raise ValueError(f"fps={fps} must be above 0 and scale={scale} at least 1")
    frames = as_uint8(pixels.detach()).cpu().permute(1, 2, 3, 0)  # (F, H, W, 3)
    _, height, width, _ = frames.shape
    with (
        atomic(path) as temporary,
        av.open(
            on_disk(temporary), "w", format="mp4", options={"movflags": "use_metadata_tags+faststart"}
        ) as container,
    ):
        container.metadata.update(metadata)
        codec = "libx264rgb" if lossless else "libx264"
        stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1001))
        stream.height, stream.width = height * scale, width * scale
        # The same clip is the same bytes, each time and on any number of cores. With its macroblock tree x264 gave one
        # file in ten other bytes, on one thread too.
        stream.codec_context.thread_count = 1
        quality = {"qp": "0"} if lossless else {"crf": "12"}
        more = ":cpu-independent=1" if reproducible else ""
        stream.options = {**quality, "preset": "medium", "x264-params": f"mbtree=0{more}"}
        if lossless:
            stream.pix_fmt = "rgb24"
        else:
            stream.height, stream.width = even(stream.height), even(stream.width)
            stream.pix_fmt = "yuv420p"
            say_colours(stream)
        for frame in frames:
            image = frame.repeat_interleave(scale, 0).repeat_interleave(scale, 1)
            image = image if lossless else _repeat_last(_repeat_last(image, 0), 1)
            picture = av.VideoFrame.from_ndarray(image.contiguous().numpy(), format="rgb24")
            if not lossless:
                picture = picture.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


def even(size: int) -> int:
    """The next even number."""
    return size + size % 2


def _repeat_last(image: Tensor, axis: int) -> Tensor:
    if image.shape[axis] % 2 == 0:
        return image
    return torch.cat([image, image.narrow(axis, -1, 1)], axis)
