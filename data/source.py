"""What a video file says before its pictures are decoded: which stream, when each frame is shown, where decoding can
begin. Known once for all decoders (FFmpeg through PyAV reads the packets), so that frame 7 is the same frame in each.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any, NamedTuple

import av
import numpy as np
from av.sidedata.sidedata import SideDataContainer
from numpy.typing import NDArray

from data.on_disk import on_disk

MAX_MEGAPIXELS = 64  # a frame; a damaged header may claim any size, and 8K has 33
LONGEST_STILL = 10.0  # seconds between two frames, above which time stamps are held against the header's duration
HDR = {16: "PQ", 18: "HLG"}  # FFmpeg's numbers (AVCOL_TRC_...)
FULL_RANGE = 2  # FFmpeg's number for it (AVCOL_RANGE_JPEG)
SEEK_PAYS = 8  # frames that may be decoded for nothing before seeking takes less time


class BadClip(ValueError):
    """One file that cannot be used; `why` is one line."""

    def __init__(self, path: str | os.PathLike[str], why: str) -> None:
        self.path = os.fspath(path)
        self.why = " ".join(why.split())
        super().__init__(f"{self.path}: {self.why}")


@dataclass(frozen=True)
class Timeline:
    """When each frame of a file is shown."""

    times: NDArray[np.float64]  # (N,) seconds, rising, the first frame at 0
    fps: float  # average frames a second

    def nearest(self, moments: NDArray[np.float64]) -> list[int]:
        """For each moment the number of the frame nearest in time; of two at equal distance the earlier one."""
        after = np.minimum(np.searchsorted(self.times, moments), len(self.times) - 1)
        before = np.maximum(after - 1, 0)
        indices: list[int] = np.where(
            moments - self.times[before] <= self.times[after] - moments, before, after
        ).tolist()
        return indices

    def part(self, start: float, end: float) -> NDArray[np.int64]:
        """Numbers of the frames shown from `start` seconds on and before `end`."""
        return np.flatnonzero((self.times >= start - 1e-3) & (self.times < end))


class Turn(NamedTuple):
    """How a stored picture is turned to be shown: first rows and columns are swapped, then it is mirrored."""

    swapped: bool = False
    left_right: bool = False
    upside_down: bool = False

    @classmethod
    def of(cls, picture: Any) -> Turn:
        """Of a picture of PyAV's."""
        # picture.side_data would refer to the picture that refers to it: its memory would wait for the next collection.
        matrix = SideDataContainer(picture).get("DISPLAYMATRIX")  # type: ignore[call-arg]
        return cls() if matrix is None else cls.of_matrix(bytes(matrix))

    @classmethod
    def of_matrix(cls, matrix: bytes) -> Turn:
        """Of a display matrix, the nearest turn by a multiple of 90 degrees.

        It has nine numbers of 32 bits, a b u c d v x y w: (x, y) is shown at (a x + c y, b x + d y).
        """
        a, b, _, c, d, *_ = np.frombuffer(matrix, np.int32).tolist()
        swapped = abs(b) > abs(a)
        return cls(swapped, (c if swapped else a) < 0, (b if swapped else d) < 0)

    @property
    def mirrored(self) -> bool:
        """Whether it is more than a rotation."""
        return self.swapped ^ self.left_right ^ self.upside_down

    @property
    def degrees(self) -> int:
        """The rotation in it, counter-clockwise, from -90 to 180."""
        if self.swapped:
            return 90 if self.upside_down else -90
        return 180 if self.left_right else 0

    def applied(self, frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(..., H, W, 3) as it is shown."""
        if not any(self):
            return frames
        frames = frames.swapaxes(-3, -2) if self.swapped else frames
        return np.ascontiguousarray(frames[..., :: -1 if self.upside_down else 1, :: -1 if self.left_right else 1, :])


@dataclass(frozen=True)
class Source:
    """One video stream of a file that is open.

    Attributes:
        container, stream: PyAV's, decoding in one thread.
        codec: FFmpeg's name.
        pixels: FFmpeg's name for how a picture is stored.
        full_range: black is 0 and white 255, not 16 and 235.
        unit: seconds, in which time stamps are counted.
        stamps: (N,) when each frame is shown, rising.
        keys: stamps of the frames that decoding can begin at, rising.
        counted: time stamps do not tell frames apart (H.264 in AVI): they are known by their order alone.
        unordered: frames are shown before a key frame that comes earlier in the file (open groups of pictures).
    """

    path: str
    container: Any
    stream: Any
    codec: str
    pixels: str
    full_range: bool
    unit: float
    stamps: NDArray[np.int64]
    keys: NDArray[np.int64]
    counted: bool
    unordered: bool
    timeline: Timeline

    def from_the_start(self) -> Iterator[Any]:
        """All pictures, of PyAV's, in the order in which they are shown."""
        with av.open(on_disk(self.path)) as container:
            stream = container.streams[self.stream.index]
            stream.codec_context.thread_count = 1
            yield from container.decode(stream)

    @cached_property
    def turn(self) -> Turn:
        """How pictures are turned to be shown; they alone tell, so the first is decoded."""
        try:
            return Turn.of(next(self.from_the_start()))
        except (StopIteration, OSError, ValueError, RuntimeError, av.FFmpegError):
            return Turn()  # it is damaged, as the others may not be

    def remarks(self) -> list[str]:
        """What to know of a file that can be read."""
        said, context = [], self.stream.codec_context
        if context.color_trc in HDR:
            said.append(f"HDR ({HDR[context.color_trc]}), which is not mapped to the range of a screen")
        aspect = self.stream.sample_aspect_ratio or Fraction(1)
        if aspect > 0 and aspect != 1:
            said.append(f"its pixels are {aspect.numerator}:{aspect.denominator}, and are taken as square")
        gaps = np.diff(self.timeline.times)
        if len(gaps) and gaps.max() > LONGEST_STILL:
            said.append(f"frame {int(gaps.argmax())} is shown for {gaps.max():.1f} s")
        return said

    def stretches(self, indices: NDArray[np.int64]) -> list[tuple[int, list[int]]]:
        """Frames, numbers rising, as (where to begin, their stamps): those that are best decoded in one go together."""
        keys = np.searchsorted(self.keys, self.stamps[indices], side="right") - 1
        found: list[tuple[int, list[int]]] = []
        last, last_key = -SEEK_PAYS, -2
        for index, key in zip(indices.tolist(), keys.tolist(), strict=True):
            begin = int(self.stamps[0] if key < 0 else self.keys[key])
            ahead = int(np.searchsorted(self.stamps, begin)) - last
            if not found or (key != last_key and ahead > SEEK_PAYS):
                found.append((begin, []))
            found[-1][1].append(int(self.stamps[index]))
            last, last_key = index, key
        return found


class _Packets:
    """What packets say, gathered in the file's order."""

    def __init__(self) -> None:
        self.shown: list[int | None] = []  # when each is shown
        self.decoded: list[int | None] = []  # when each is decoded
        self.keys: list[int] = []
        self.unordered = False

    def add(self, packet: Any) -> None:
        if not packet.size or packet.is_discard:  # the end; a picture that an edit list hides
            return
        self.shown.append(packet.pts)
        self.decoded.append(packet.dts)
        if packet.is_keyframe and packet.pts is not None:
            self.keys.append(packet.pts)
        self.unordered |= bool(self.keys) and packet.pts is not None and packet.pts < self.keys[-1]

    def stamps(self, path: str) -> tuple[NDArray[np.int64], bool]:
        """When each frame is shown, rising, and whether frames are known by their order alone."""
        if not self.shown:
            raise BadClip(path, "no frames")
        shown = np.unique(np.array([stamp for stamp in self.shown if stamp is not None], np.int64))
        if len(shown) == len(self.shown):
            return shown, False
        decoded = np.unique(np.array([stamp for stamp in self.decoded if stamp is not None], np.int64))
        if len(decoded) < len(self.shown):
            raise BadClip(path, f"{len(self.shown)} frames, with {max(len(shown), len(decoded))} times to show them at")
        return decoded, True


@contextmanager
def look(path: str | os.PathLike[str]) -> Iterator[Source]:
    """Opens a file and reads its packets, and decodes none of them.

    Raises:
        BadClip: no video, or none whose time stamps can be true.
    """
    name = os.fspath(path)
    # torchvision turns FFmpeg's log on when imported: a line for each damaged packet, where we give one a file.
    av.logging.set_level(None)
    with ExitStack() as stack:
        try:
            source = _looked_at(name, stack.enter_context(av.open(on_disk(name))))
        except (OSError, ValueError, RuntimeError, av.FFmpegError) as error:
            raise error if isinstance(error, BadClip) else BadClip(name, last_words(error)) from None
        yield source


def _looked_at(path: str, container: Any) -> Source:
    stream = _best_stream(container, path)
    context = stream.codec_context
    context.thread_count = 1
    packets = _Packets()
    for packet in container.demux(stream):
        packets.add(packet)
    stamps, counted = packets.stamps(path)
    unit = float(stream.time_base or 0)
    times = (stamps - stamps[0]).astype(np.float64) * unit
    _believable(path, times, container.duration / av.time_base if container.duration else None)
    return Source(
        path=path,
        container=container,
        stream=stream,
        codec=context.name,
        pixels=context.pix_fmt or "",
        full_range=context.color_range == FULL_RANGE,
        unit=unit,
        stamps=stamps,
        keys=np.unique(np.array(packets.keys, np.int64)),
        counted=counted,
        unordered=packets.unordered,
        timeline=Timeline(times, _rate(times, float(stream.average_rate or 0))),
    )


def _believable(path: str, times: NDArray[np.float64], stated: float | None) -> None:
    """Raises BadClip where damaged time stamps make a clip seem long. stated: the header's seconds, where it says any.

    A frame that is shown for long is believed where the header agrees (a recording of a screen, a slide show).
    """
    gaps, total = np.diff(times), float(times[-1])
    longest = float(gaps.max()) if len(gaps) else 0.0
    if stated is None:
        wrong = longest > LONGEST_STILL and longest > LONGEST_STILL * float(np.median(gaps))
    else:
        wrong = total > 2 * stated + LONGEST_STILL or (longest > LONGEST_STILL and total > stated + LONGEST_STILL)
    if wrong:
        said = "" if stated is None else f", though the file says that it lasts {stated:.1f} s"
        shown = f"frame {int(gaps.argmax())} is shown for {longest:.1f} s, and the last one begins at {total:.1f} s"
        raise BadClip(path, f"damaged time stamps: {shown}{said}")


def _rate(times: NDArray[np.float64], stated: float) -> float:
    """Frames a second: as the header says it, unless the frames' own times speak against it."""
    own = (len(times) - 1) / float(times[-1]) if len(times) > 1 else 0.0
    if not own:
        return stated if 1 <= stated <= 1000 else 1.0
    return stated if abs(stated - own) <= 0.02 * own else own


def _best_stream(container: Any, path: str) -> Any:
    """The video stream that players show: of several, the largest, as decord chooses too."""
    stream = container.streams.best("video")
    if stream is None:
        raise BadClip(path, "no video stream")
    context = stream.codec_context
    if context is None:
        raise BadClip(path, "its codec is not known")
    if context.width * context.height > MAX_MEGAPIXELS * 1e6:
        raise BadClip(path, f"{context.width}x{context.height} are over {MAX_MEGAPIXELS} megapixels")
    return stream


def last_words(error: Exception) -> str:
    """A library's message without times, source lines and C++ stack, cut to what a list of bad clips can bear."""
    said = getattr(error, "strerror", None) or str(error)
    first = next((line.strip() for line in said.splitlines() if line.strip()), type(error).__name__)
    return re.sub(r"\[[\d:]+\] \S+:\d+: ", "", first)[:160]
