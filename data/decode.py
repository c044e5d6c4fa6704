"""Frames out of video files. Three decoders with one face, and a ladder that goes down until one can read the file.

What is known about them (measured on real clips with the pinned versions): for 8-bit clips all three give the same
bytes; 10-bit clips differ by a few grey levels. decord does not read AV1 and can hang for ever on a file whose frame
count is wrong, holding the GIL, so only killing its process helps (`scripts/validate_data.py` does; the loader has a
timeout). decord applies the rotation in the metadata, the others leave it to us. torchcodec needs FFmpeg's libraries
from the system. PyAV always works.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import av
import numpy as np
import torch  # noqa: F401  # before decord: the other order crashes (decord#293)
from numpy.typing import NDArray

log = logging.getLogger(__name__)

MAX_MEGAPIXELS = 64  # a frame; a damaged header may claim any size, and 8K has 33

Frames = NDArray[np.uint8]  # (F, H, W, 3), RGB, upright


class BadClip(ValueError):
    """One file that cannot be used; `why` is one line."""

    def __init__(self, path: str | os.PathLike[str], why: str) -> None:
        self.path = os.fspath(path)
        self.why = " ".join(why.split())
        super().__init__(f"{self.path}: {self.why}")


class BadClips(ValueError):
    """Too many files cannot be used to go on; one line that lists them."""


def listing(reasons: Mapping[str, str]) -> str:
    """Clips and why they cannot be used, in one line."""
    return "; ".join(f"{id} ({why})" for id, why in reasons.items())


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


Pick = Callable[[Timeline], Sequence[int]]
"""Which frames to decode, chosen once the timeline is known: in any order, also several times over."""


class Decoder(Protocol):
    """Opens a file, reads the frames that `pick` names, and closes it again: readers are never kept.

    A kept reader grows in memory, cannot be pickled, and one that was opened before a fork kills the worker.
    """

    name: str

    def missing(self) -> str | None:
        """Why this decoder cannot run on this machine, or None."""
        ...

    def read(self, path: str | os.PathLike[str], pick: Pick) -> Frames:
        """Raises `BadClip`, or whatever its library raises, if the file cannot be read."""
        ...


class Decord:
    """decord 0.6.0, for all but H.265.

    H.265 is usually encoded with open groups of pictures; decord then counts frames wrongly behind a seek (measured:
    frame 3 of `h265_video.mp4` comes back as frame 4), without an error. Asking FFmpeg for the codec takes 1 to 12 ms.
    """

    name = "decord"

    def missing(self) -> str | None:
        return _import_error("decord")

    def read(self, path: str | os.PathLike[str], pick: Pick) -> Frames:
        decord = import_module("decord")
        decord.logging.set_level(decord.logging.QUIET)
        with av.open(os.fspath(path)) as container:
            if _best_stream(container, path).codec_context.name == "hevc":
                raise BadClip(path, "H.265, where its frame numbers are wrong")
        try:
            return self._read(decord, path, pick)
        except decord.DECORDError as error:  # derives from Exception only
            raise BadClip(path, _last_words(error)) from None

    @staticmethod
    def _read(decord: Any, path: str | os.PathLike[str], pick: Pick) -> Frames:
        reader = decord.VideoReader(os.fspath(path), ctx=decord.cpu(0), num_threads=1)
        count = len(reader)
        if count == 0:
            raise BadClip(path, "no frames")
        begins = np.asarray(reader.get_frame_timestamp(range(count)), np.float64)[:, 0]
        indices = _checked(pick(Timeline(begins - begins[0], float(reader.get_avg_fps()))), count)
        frames: Frames = reader.get_batch(indices).asnumpy()
        return frames


class TorchCodec:
    """torchcodec, the version that fits the installed torch (0.10 for torch 2.10). Optional."""

    name = "torchcodec"

    def missing(self) -> str | None:
        return _import_error("torchcodec.decoders")

    def read(self, path: str | os.PathLike[str], pick: Pick) -> Frames:
        decoder = import_module("torchcodec.decoders").VideoDecoder(
            os.fspath(path), dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact"
        )
        count, fps = decoder.metadata.num_frames, decoder.metadata.average_fps
        if not count or not fps:
            raise BadClip(path, "no frames")
        indices = _checked(pick(Timeline(np.arange(count) / fps, float(fps))), count)
        batch = decoder.get_frames_at(indices=indices).data.numpy()
        with av.open(os.fspath(path)) as container:
            stream = container.streams.best("video")
            assert isinstance(stream, av.VideoStream)
            return _upright(batch, next(container.decode(stream)).rotation)


class PyAV:
    """PyAV, FFmpeg in a wheel."""

    name = "pyav"

    def missing(self) -> str | None:
        return None

    def read(self, path: str | os.PathLike[str], pick: Pick) -> Frames:
        with av.open(os.fspath(path)) as container:
            stream = _best_stream(container, path)
            # Packets tell when frames are shown without decoding any; a container's own count is 0 in MKV.
            packets = (packet for packet in container.demux(stream) if packet.size and not packet.is_discard)
            stamps = sorted(packet.pts for packet in packets if packet.pts is not None)
            if not stamps or stream.time_base is None:
                raise BadClip(path, "no frames")
            times = (np.array(stamps, np.float64) - stamps[0]) * float(stream.time_base)
            fps = stream.average_rate or (len(stamps) - 1) / times[-1] if len(stamps) > 1 else stream.average_rate or 1
            indices = _checked(pick(Timeline(times, float(fps))), len(stamps))
        wanted = {stamps[index] for index in indices}
        found = self._decode(path, wanted, seek=True)
        if wanted - found.keys():  # some containers seek to a later place: then from the beginning
            found = self._decode(path, wanted, seek=False)
        if lost := wanted - found.keys():
            raise BadClip(path, f"{len(lost)} of {len(wanted)} frames are not in the stream")
        return np.stack([found[stamps[index]] for index in indices])

    @staticmethod
    def _decode(path: str | os.PathLike[str], wanted: set[int], seek: bool) -> dict[int, Frames]:
        """Frames by time stamp."""
        found: dict[int, Frames] = {}
        with av.open(os.fspath(path)) as container:
            stream = _best_stream(container, path)
            stream.codec_context.thread_count = 1
            if seek:
                container.seek(min(wanted), stream=stream)
            for frame in container.decode(stream):
                if frame.pts in wanted:
                    found[frame.pts] = _upright(frame.to_ndarray(format="rgb24"), frame.rotation)
                    if len(found) == len(wanted):
                        break
        return found


class Ladder:
    """Tries decoders from the top down; those that this machine lacks are left out, with a line in the log.

    Args:
        decoders: best first.

    Raises:
        ValueError: none of the decoders can run here.
    """

    def __init__(self, *, decoders: Sequence[Decoder]) -> None:
        reasons = {decoder.name: decoder.missing() for decoder in decoders}
        self.decoders = [decoder for decoder in decoders if reasons[decoder.name] is None]
        absent = "; ".join(f"{name} cannot run: {why}" for name, why in reasons.items() if why)
        if not self.decoders:
            raise ValueError(f"no decoder can run ({absent or 'none is listed'}); choose data/decoder=pyav")
        log.info("decoding with %s%s", " -> ".join(d.name for d in self.decoders), f" ({absent})" if absent else "")

    def read(self, path: str | os.PathLike[str], pick: Pick) -> Frames:
        """Decodes the frames that `pick` names: uint8 (F, H, W, 3), RGB, upright.

        Raises:
            BadClip: no decoder could, with the reason of each.
        """
        if not Path(path).is_file():
            raise BadClip(path, "no such file")
        # torchvision turns FFmpeg's log on when imported: a line for each damaged packet, where we give one a file.
        av.logging.set_level(None)
        reasons: dict[str, str] = {}
        for decoder in self.decoders:
            try:
                return decoder.read(path, pick)
            # decord raises plain RuntimeError for bad files, PyAV subclasses of OSError or ValueError.
            except (RuntimeError, OSError, ValueError, av.FFmpegError) as error:
                why = error.why if isinstance(error, BadClip) else _last_words(error)
                reasons[why] = f"{reasons[why]}, {decoder.name}" if why in reasons else decoder.name
        raise BadClip(path, "; ".join(f"{names}: {why}" for why, names in reasons.items()))

    def frames(self, path: str | os.PathLike[str], indices: Sequence[int]) -> Frames:
        """The frames with these numbers, as `read` gives them."""
        return self.read(path, lambda _: indices)


def _best_stream(container: Any, path: str | os.PathLike[str]) -> Any:
    """The video stream that players show: of several, the largest, as decord chooses too."""
    stream = container.streams.best("video")
    if stream is None:
        raise BadClip(path, "no video stream")
    if stream.codec_context is None:
        raise BadClip(path, "its codec is not known")
    if stream.codec_context.width * stream.codec_context.height > MAX_MEGAPIXELS * 1e6:
        raise BadClip(
            path, f"{stream.codec_context.width}x{stream.codec_context.height} are over {MAX_MEGAPIXELS} megapixels"
        )
    return stream


def _upright(frames: Frames, degrees: int) -> Frames:
    """Turns (..., H, W, 3) as the metadata asks: `degrees` counter-clockwise, a multiple of 90."""
    return np.rot90(frames, round(degrees / 90) % 4, axes=(-3, -2)).copy() if degrees else frames


def _checked(indices: Sequence[int], count: int) -> list[int]:
    checked = [int(index) for index in indices]
    if not checked or min(checked) < 0 or max(checked) >= count:
        raise ValueError(f"frames {checked} asked of a file with {count}, numbered 0 to {count - 1}")
    return checked


def _import_error(module: str) -> str | None:
    try:
        import_module(module)
    # A wheel that does not fit its torch or FFmpeg fails with OSError or RuntimeError, not only ImportError.
    except (ImportError, OSError, RuntimeError) as error:
        return str(error).strip().split("\n")[0][:120] or type(error).__name__
    return None


def _last_words(error: Exception) -> str:
    """A library's message without times, source lines and C++ stack, cut to what a list of bad clips can bear."""
    said = getattr(error, "strerror", None) or str(error)
    first = next((line.strip() for line in said.splitlines() if line.strip()), type(error).__name__)
    return re.sub(r"\[[\d:]+\] \S+:\d+: ", "", first)[:160]
