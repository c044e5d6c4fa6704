"""Frames out of video files: three decoders with one face, and a ladder that goes down until one can read the file.

What a file holds is known from its packets before any decoder is asked (`source.py`), and each decoder refuses what it
is known to read wrongly (docs/data.md has the table), so whatever decodes a file, its frames are the same.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import av
import numpy as np
import torch  # noqa: F401  # before decord: the other order crashes (decord#293)
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from data.on_disk import on_disk
from data.processes import give_memory_back
from data.source import BadClip, Source, Timeline, Turn, last_words, look

log = logging.getLogger(__name__)

TRIM_EVERY = 32  # files; it takes some milliseconds

Frames = NDArray[np.uint8]  # (F, H, W, 3), RGB, upright


class BadClips(ValueError):
    """Too many files cannot be used to go on; one line that lists them."""


def listing(reasons: Mapping[str, str]) -> str:
    """Clips and why they cannot be used, in one line."""
    return "; ".join(f"{id} ({why})" for id, why in reasons.items())


Pick = Callable[[Timeline], Sequence[int]]
"""Which frames to decode, chosen once the timeline is known: in any order, also several times over."""


class Decoder(Protocol):
    """Opens a file, reads frames of it, and closes it again: readers are never kept.

    A kept reader grows in memory, cannot be pickled, and one that was opened before a fork kills the worker.
    """

    name: str

    def missing(self) -> str | None:
        """Why this decoder cannot run on this machine, or None."""
        ...

    def read(self, source: Source, indices: Sequence[int]) -> Frames:
        """The frames with these numbers. Raises `BadClip`, or whatever its library raises, if it cannot."""
        ...


class Decord:
    """decord2 or decord, for what they read rightly.

    They keep the places of key frames in the file where they mean places in time. The two differ where a frame is
    shown before a key frame that comes earlier in the file (usual in H.265, MPEG-2 and MPEG-4), and behind a seek they
    then hand out other frames than those asked for, without an error. They count frames that an edit list hides, and
    turn mirrored pictures as if they were rotated.
    """

    name = "decord"

    def missing(self) -> str | None:
        return _import_error("decord")

    def read(self, source: Source, indices: Sequence[int]) -> Frames:
        if source.unordered:
            raise BadClip(source.path, "open groups of pictures, where its frame numbers are wrong")
        if source.counted:
            raise BadClip(source.path, "no time stamps of their own, which it goes by")
        if source.turn.mirrored:
            raise BadClip(source.path, "mirrored, which it does not do")
        decord = import_module("decord")
        decord.logging.set_level(decord.logging.QUIET)
        try:
            reader = decord.VideoReader(on_disk(source.path), ctx=decord.cpu(0), num_threads=1)
            _same_count(source, len(reader))
            frames: Frames = reader.get_batch(indices).asnumpy()
        except decord.DECORDError as error:  # derives from Exception only
            raise BadClip(source.path, last_words(error)) from None
        return frames


class TorchCodec:
    """torchcodec, the version that fits the installed torch (0.10 for torch 2.10). Optional."""

    name = "torchcodec"

    def missing(self) -> str | None:
        return _import_error("torchcodec.decoders")

    def read(self, source: Source, indices: Sequence[int]) -> Frames:
        if source.counted:
            raise BadClip(source.path, "no time stamps of their own, which it goes by")
        if source.full_range and not source.pixels.startswith("yuvj"):
            raise BadClip(source.path, f"full range in {source.pixels}, which it takes to be limited")
        decoder = import_module("torchcodec.decoders").VideoDecoder(
            on_disk(source.path),
            stream_index=source.stream.index,
            dimension_order="NHWC",
            num_ffmpeg_threads=1,
            seek_mode="exact",
        )
        _same_count(source, decoder.metadata.num_frames)
        batch = decoder.get_frames_at(indices=list(indices))
        late = np.abs(batch.pts_seconds.numpy() - source.stamps[list(indices)] * source.unit)
        if late.max() > 0.5 / source.timeline.fps:  # MPEG-2 and MPEG-4 in AVI
            raise BadClip(source.path, "it gives other frames than those asked for")
        frames: Frames = batch.data.numpy()
        turned = getattr(decoder.metadata, "rotation", None) is not None  # by itself, from 0.11 on
        return frames if turned else source.turn.applied(frames)


class PyAV:
    """PyAV, FFmpeg in a wheel. Each frame is known by its time stamp, or counted; matrix and range of its colours are
    those of its tags, BT.601 and limited where it has none, as everywhere in FFmpeg."""

    name = "pyav"

    def missing(self) -> str | None:
        return None

    def read(self, source: Source, indices: Sequence[int]) -> Frames:
        pictures = _Pictures(source, indices)
        wanted = pictures.wanted
        if not source.counted:
            for begin, stamps in source.stretches(wanted):
                source.container.seek(begin, stream=source.stream)
                pictures.take(source.container.decode(source.stream), until=stamps[-1])
        if pictures.waiting:  # some containers seek to a later place: then from the beginning
            pictures.take(source.from_the_start(), until=int(source.stamps[wanted[-1]]))
        if pictures.waiting or pictures.frames is None:
            raise BadClip(source.path, f"{len(pictures.waiting)} of {len(wanted)} frames are not in the stream")
        return pictures.frames


class _Pictures:
    """The wanted ones among decoded pictures, in one array: each is turned into RGB and put into its places at once."""

    def __init__(self, source: Source, indices: Sequence[int]) -> None:
        self.source = source
        self.indices = np.asarray(indices, np.int64)
        self.wanted = np.unique(self.indices)
        self.waiting = dict(zip(source.stamps[self.wanted].tolist(), self.wanted.tolist(), strict=True))
        self.frames: Frames | None = None
        self.reformatter = VideoReformatter()

    def take(self, pictures: Iterator[Any], until: int) -> None:
        """Those among `pictures` that are still wanted, up to that time stamp."""
        counted = zip(self.source.stamps.tolist(), pictures, strict=False)
        for stamp, picture in counted if self.source.counted else ((each.pts, each) for each in pictures):
            if (number := self.waiting.pop(stamp, None)) is not None:
                # One thread: swscale's own begin a pool for each file, which costs more than it gains.
                rgb: Any = self.reformatter.reformat(picture, format="rgb24", threads=1).to_ndarray()
                upright = Turn.of(picture).applied(rgb)
                if self.frames is None:
                    self.frames = np.empty((len(self.indices), *upright.shape), np.uint8)
                if upright.shape != self.frames.shape[1:]:
                    raise BadClip(self.source.path, "pictures of several sizes")
                self.frames[self.indices == number] = upright
            if not self.waiting or (stamp is not None and stamp >= until):
                return


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
        self.reads = 0
        log.info("decoding with %s%s", " -> ".join(d.name for d in self.decoders), f" ({absent})" if absent else "")

    def read(self, path: str | os.PathLike[str], pick: Pick) -> Frames:
        """Decodes the frames that `pick` names: uint8 (F, H, W, 3), RGB, upright.

        Raises:
            BadClip: it is no video, or no decoder can read it, with the reason of each.
        """
        if not Path(path).is_file():
            raise BadClip(path, "no such file")
        self.reads += 1
        try:
            with look(path) as source:
                return self.decode(source, pick(source.timeline))
        finally:
            if self.reads % TRIM_EVERY == 0:
                give_memory_back()

    def decode(self, source: Source, indices: Sequence[int]) -> Frames:
        """The frames with these numbers of a file that was looked at, as `read` gives them."""
        checked = _checked(source, indices)
        reasons: dict[str, str] = {}
        for decoder in self.decoders:
            try:
                return decoder.read(source, checked)
            # decord raises plain RuntimeError for bad files, PyAV subclasses of OSError or ValueError.
            except (RuntimeError, OSError, ValueError, av.FFmpegError) as error:
                why = error.why if isinstance(error, BadClip) else last_words(error)
                reasons[why] = f"{reasons[why]}, {decoder.name}" if why in reasons else decoder.name
        raise BadClip(source.path, "; ".join(f"{names}: {why}" for why, names in reasons.items()))

    def frames(self, path: str | os.PathLike[str], indices: Sequence[int]) -> Frames:
        """The frames with these numbers, as `read` gives them."""
        return self.read(path, lambda _: indices)


def _same_count(source: Source, count: int | None) -> None:
    if count != len(source.stamps):
        raise BadClip(source.path, f"it counts {count} frames of {len(source.stamps)}")


def _checked(source: Source, indices: Sequence[int]) -> list[int]:
    checked, count = [int(index) for index in indices], len(source.stamps)
    if not checked or min(checked) < 0 or max(checked) >= count:
        raise BadClip(source.path, f"frames {checked} asked of a file with {count}, numbered 0 to {count - 1}")
    return checked


def _import_error(module: str) -> str | None:
    try:
        import_module(module)
    # A wheel that does not fit its torch or FFmpeg fails with OSError or RuntimeError, not only ImportError.
    except (ImportError, OSError, RuntimeError) as error:
        return str(error).strip().split("\n")[0][:120] or type(error).__name__
    return None
