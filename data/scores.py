"""What pictures say of a clip: brightness, motion, how it looks (to find it again), and where it is cut."""

from __future__ import annotations

import os
from collections.abc import Sequence
from fractions import Fraction
from importlib import import_module
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data.decode import BadClip, Frames, Timeline
from data.on_disk import on_disk

APART = 0.125  # seconds between the two pictures that motion compares
WIDTH = 64  # pixels that pictures are scaled to before their motion is measured
LOOKS = 4  # pictures of a clip that its perceptual hash holds, 64 bits each
DETAIL = 2.0  # standard deviation in grey levels below which a picture shows nothing to tell it by
STEP = 2  # grey levels that neighbours must differ by: less is noise of the encoder
MOST_CUTS = 1000
CUT_WIDTH = 256  # pixels that pictures are scaled to where cuts are looked for


def grey(frames: Frames, width: int, height: int) -> NDArray[np.float32]:
    """Luma of ITU-R BT.601, scaled by areas: (F, H, W, 3) to (F, height, width), 0 to 255."""
    small = [Image.fromarray(frame).convert("L").resize((width, height), Image.Resampling.BOX) for frame in frames]
    return np.stack([np.asarray(each, np.float32) for each in small])


def brightness(frames: Frames) -> float:
    """Mean grey level, 0 to 255."""
    return round(float(grey(frames, 32, 32).mean()), 2)


def partners(timeline: Timeline, probes: Sequence[int], part: NDArray[np.int64]) -> list[int]:
    """For each of some frames another one `APART` later, or, at the end of the part, earlier. A frame of its own where
    the part has no other."""
    found = []
    for probe in probes:
        later, earlier = timeline.nearest(timeline.times[probe] + np.array([APART, -APART]))
        later, earlier = max(later, probe + 1), min(earlier, probe - 1)
        found.append(later if later <= part[-1] else earlier if earlier >= part[0] else probe)
    return found


def motion(before: Frames, after: Frames) -> float:
    """Median over pairs of pictures (P, H, W, 3) of the mean difference in grey levels, 0 to 255. The median, since a
    pair across a cut differs in everything."""
    height = max(1, round(WIDTH * before.shape[1] / before.shape[2]))
    height = min(height, 4 * WIDTH)
    apart = np.abs(grey(before, WIDTH, height) - grey(after, WIDTH, height)).mean((1, 2))
    return round(float(np.median(apart)), 3)


def looks(frames: Frames) -> str:
    """A perceptual hash: 256 bits in hex, 64 of an image, equal or nearly so for copies in another size or codec.

    A difference hash (dHash) of `LOOKS` pictures at equal distances: whether each of 8x8 areas is darker than its right
    neighbour. "" for pictures without any detail, as a black screen, which would look alike whatever they are of.
    """
    places = np.linspace(0, len(frames) - 1, 2 * LOOKS + 1)[1::2].round().astype(int)
    small = grey(frames[places] if len(frames) > 1 else frames, 9, 8)  # (LOOKS or 1, 8, 9)
    if small.std((1, 2)).max() < DETAIL:
        return ""
    darker = small[:, :, 1:] - small[:, :, :-1] > STEP
    return np.packbits(darker.reshape(-1)).tobytes().hex()


def missing_detector() -> str | None:
    """Why cuts cannot be looked for on this machine, or None."""
    try:
        import_module("scenedetect.detectors")
    except (ImportError, OSError) as error:
        return str(error).strip().split("\n")[0][:120]
    return None


def cuts(path: str | os.PathLike[str], start: float, end: float) -> list[float]:
    """Seconds from the first frame of the file at which a scene begins anew, between `start` and `end`, in order.

    PySceneDetect's adaptive detector in its own settings, on pictures scaled to `CUT_WIDTH`; PyAV decodes them, each
    once. Raises BadClip where the file has no video, and what PyAV raises.
    """
    detector: Any = import_module("scenedetect.detectors").AdaptiveDetector()
    timecode: Any = import_module("scenedetect").FrameTimecode
    times: list[float] = []
    found: list[Any] = []
    with av.open(on_disk(path)) as container:
        stream = container.streams.best("video")
        if not isinstance(stream, av.VideoStream):
            raise BadClip(path, "no video stream")
        fps = Fraction(stream.average_rate or 25)
        first: float | None = None
        for frame in container.decode(stream):
            if frame.time is None:
                continue
            first = frame.time if first is None else first
            at = frame.time - first
            if at >= end:
                break
            if at < start - 1e-3:
                continue
            width = min(CUT_WIDTH, frame.width)
            small = frame.reformat(width, max(2, round(frame.height * width / frame.width)), "bgr24")
            found += detector.process_frame(timecode(len(times), fps), small.to_ndarray())
            times.append(at)
    if times:
        found += detector.post_process(timecode(len(times) - 1, fps))
    return [round(times[each.frame_num], 3) for each in found[:MOST_CUTS]]
