"""What is found out about one clip: whether and by what it can be read, what it is, and what a run will make of it."""

from __future__ import annotations

import hashlib
import math
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import av
import numpy as np

from data import scores
from data.columns import OK
from data.decode import Frames, Ladder
from data.excerpts import pick_frames
from data.images import format_of, open_image
from data.manifest import Row
from data.source import BadClip, Source, Timeline, look

PROBES = 16  # frames decoded of each clip, spread evenly, first and last included
DISAGREE = 8.0  # mean grey levels between two decoders; 10-bit clips reach 4, a wrong frame is far above
NOT_FILES = {
    stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device", stat.S_IFBLK: "a device",
}  # fmt: skip


@dataclass(frozen=True)
class Wanted:
    """What a run will ask of each clip; a run that asks for less takes every clip that passes."""

    num_frames: int
    height: int
    width: int
    fps: float

    def notes(self, height: int, width: int, repeated: int) -> list[str]:
        """What becomes of a clip that is fine."""
        said = []
        if repeated:
            said.append(f"{repeated} of {self.num_frames} frames at {self.fps:g} fps are shown again")
        if height < self.height or width < self.width:
            said.append(f"enlarged to {self.height}x{self.width}")
        aspect = height * self.width / (width * self.height)
        if (cut := 1 - min(aspect, 1 / aspect)) >= 0.01:
            said.append(f"{cut:.0%} of each frame is cut off")
        return said


@dataclass(frozen=True)
class Checks:
    """What is looked at.

    Attributes:
        min_seconds: shorter clips are not good enough.
        every_frame: decode all frames, not a few spread over the clip.
        cuts: look for cuts, for which every frame is decoded (PySceneDetect).
        wanted: what a run will ask of each clip, if that is known.
    """

    min_seconds: float = 0.0
    every_frame: bool = False
    cuts: bool = False
    wanted: Wanted | None = None


@dataclass(frozen=True)
class Finding:
    """What was found out about one clip: the columns `FOUND` of a manifest (`columns.py`), but for duplicates. None
    where it is not known."""

    status: str = OK
    reason: str = ""  # what is wrong, or what to know about a clip that is fine
    decoders: str = ""
    frames: int | None = None
    fps: float | None = None
    duration: float | None = None
    height: int | None = None
    width: int | None = None
    rotation: int | None = None
    codec: str = ""
    hash: str = ""
    brightness: float | None = None
    motion: float | None = None
    looks: str = ""
    scenes: int | None = None
    cuts: tuple[float, ...] | None = None
    notes: str = ""

    @property
    def ok(self) -> bool:
        return self.status == OK


class Fault(Exception):
    """A fault of a clip: a status, and the reason in words."""

    def __init__(self, status: str, reason: str) -> None:
        self.status, self.reason = status, " ".join(reason.split())
        super().__init__(reason)


def check_clip(row: Row, decoder: Ladder, checks: Checks) -> Finding:
    """Reads a clip with each decoder of the ladder and compares what they see. Runs in this process.

    An image is one frame, which is shown for any time.
    """
    found = Finding()
    try:
        with _opened(row) as path:
            _check_file(path)
            found = replace(found, hash=_hash(path))
            if row.end <= row.start or not row.start >= 0:
                raise Fault("no_frames", f"start={row.start:g} and end={row.end:g} name no part of a file")
            if row.is_image:
                return _check_image(found, path, checks)
            return _Video(replace(row, path=path), decoder, checks).check(found)
    except Fault as fault:
        return replace(found, status=fault.status, reason=fault.reason)
    except _Half as half:
        return replace(half.found, status=half.fault.status, reason=half.fault.reason)
    except MemoryError:
        return replace(found, status="too_much_memory", reason="there is not enough memory to read it")


class _Half(Exception):
    """A fault that shows when some is known of the clip already."""

    def __init__(self, found: Finding, fault: Fault) -> None:
        self.found, self.fault = found, fault
        super().__init__(fault.reason)


@contextmanager
def _opened(row: Row) -> Iterator[Path]:
    """The clip as a file of its own, also if it is in a shard."""
    with ExitStack() as stack:
        try:
            path = stack.enter_context(row.opened())
        except BadClip as error:
            raise Fault("missing", error.why) from None
        except OSError as error:
            raise Fault("unreadable", error.strerror or str(error)) from None
        yield path


def _check_file(path: Path) -> None:
    try:
        status = path.stat()  # of what a link leads to
    except FileNotFoundError:
        raise Fault("missing", "no such file") from None
    except OSError as error:
        kind = "no_permission" if isinstance(error, PermissionError) else "missing"
        raise Fault(kind, error.strerror or str(error)) from None
    except ValueError as error:  # a zero byte in the name
        raise Fault("missing", str(error)) from None
    if not stat.S_ISREG(status.st_mode):  # before it is opened: a named pipe would wait for ever
        raise Fault("not_a_file", f"it is {NOT_FILES.get(stat.S_IFMT(status.st_mode), 'something else')}, no file")
    if not os.access(path, os.R_OK):
        raise Fault("no_permission", "Permission denied")
    if status.st_size == 0:
        raise Fault("unreadable", "the file is empty")


def _hash(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise Fault("unreadable", error.strerror or str(error)) from None


def _check_image(found: Finding, path: Path, checks: Checks) -> Finding:
    try:
        image, codec = open_image(path), format_of(path)
    except BadClip as error:
        raise Fault("unreadable", error.why) from None
    width, height = image.size
    pixels = np.array(image)[None]
    notes = [] if checks.wanted is None else checks.wanted.notes(height, width, repeated=0)
    return replace(
        found,
        decoders="pillow",
        frames=1,
        height=height,
        width=width,
        codec=codec,
        brightness=scores.brightness(pixels),
        looks=scores.looks(pixels),
        notes="; ".join(notes),
    )


class _Video:
    """The check of one video file."""

    def __init__(self, row: Row, decoder: Ladder, checks: Checks) -> None:
        self.row, self.decoder, self.checks = row, decoder, checks
        self.reasons: list[str] = []
        self.seen: dict[str, Frames] = {}  # by decoder: the probes

    def check(self, found: Finding) -> Finding:
        with ExitStack() as stack:
            try:
                source = stack.enter_context(look(self.row.path))
            except BadClip as error:
                raise Fault(_status(error.why), error.why) from None
            return self._check(found, source)

    def _check(self, found: Finding, source: Source) -> Finding:
        timeline = source.timeline
        part = timeline.part(self.row.start, self.row.end)
        if len(part) == 0:
            raise Fault("no_frames", f"no frames between {self.row.start:g} and {self.row.end:g} s")
        probes: list[int] = part[np.linspace(0, len(part) - 1, min(PROBES, len(part))).round().astype(int)].tolist()
        partners = scores.partners(timeline, probes[::2], part)
        moved: Frames | None = None  # what motion is measured by, of the first decoder that can read it
        for rung in self.decoder.decoders:
            frames = self._read(Ladder(decoders=[rung]), source, probes if self.seen else probes + partners)
            if frames is not None:
                moved = frames[len(probes) :] if moved is None else moved
                self.seen[rung.name] = frames[: len(probes)]
        if moved is None:
            raise Fault(_status(*self.reasons), "; ".join(dict.fromkeys(self.reasons)))
        best, *others = self.seen
        found = self._described(found, source, self.seen[best])
        if len(part) > 1:
            found = replace(found, motion=scores.motion(self.seen[best][::2], moved))
        try:
            self._compare(best, others)
            if (found.duration or 0) < self.checks.min_seconds:
                raise Fault("too_short", f"{found.duration:g} s are shorter than {self.checks.min_seconds:g} s")
            notes = source.remarks() + self._notes(timeline, self.seen[best])
            if self.checks.cuts:
                found = self._cut(found)
        except Fault as fault:
            raise _Half(found, fault) from None
        return replace(found, reason="; ".join(dict.fromkeys(self.reasons)), notes="; ".join(notes))

    def _read(self, ladder: Ladder, source: Source, indices: list[int]) -> Frames | None:
        """What one decoder makes of these frames, or None: it cannot read them, or others; the reason is kept."""
        total = len(source.stamps) if self.checks.every_frame else 0
        try:
            frames = ladder.decode(source, indices)
            for begin in range(0, total, PROBES):
                ladder.decode(source, range(begin, min(begin + PROBES, total)))
        except BadClip as error:
            self.reasons.append(error.why)
            return None
        return frames

    def _described(self, found: Finding, source: Source, frames: Frames) -> Finding:
        timeline = source.timeline
        last = min(float(timeline.times[-1]) + 1 / timeline.fps, self.row.end)
        return replace(
            found,
            decoders=" ".join(self.seen),
            frames=len(timeline.times),
            fps=round(timeline.fps, 3),
            duration=round(last - self.row.start, 3),
            height=frames.shape[1],
            width=frames.shape[2],
            codec=source.codec,
            rotation=source.turn.degrees,
            brightness=scores.brightness(frames),
            looks=scores.looks(frames),
        )

    def _compare(self, best: str, others: Sequence[str]) -> None:
        for other in others:
            mine, theirs = self.seen[best], self.seen[other]
            if mine.shape != theirs.shape:
                raise Fault("decoders_differ", f"{best} and {other} see different frames: {mine.shape} {theirs.shape}")
            apart = np.abs(mine.astype(np.int16) - theirs).mean()
            if apart > DISAGREE:
                raise Fault("decoders_differ", f"{best} and {other} give frames {apart:.0f} grey levels apart")

    def _notes(self, timeline: Timeline, frames: Frames) -> list[str]:
        wanted = self.checks.wanted
        if wanted is None:
            return []
        try:
            picked = pick_frames(timeline, self.row, wanted.num_frames, wanted.fps, 0.5)
        except BadClip as error:
            raise Fault("too_short", error.why) from None
        height, width = frames.shape[1:3]
        return wanted.notes(height, width, wanted.num_frames - len(set(picked)))

    def _cut(self, found: Finding) -> Finding:
        try:
            at = scores.cuts(self.row.path, self.row.start, self.row.end)
        except (BadClip, OSError, ValueError, av.FFmpegError) as error:
            why = error.why if isinstance(error, BadClip) else str(error)
            raise Fault("unreadable", f"while cuts were looked for: {why}") from None
        return replace(found, scenes=len(at) + 1, cuts=tuple(at))


def _status(*reasons: str) -> str:
    return "too_much_memory" if any("allocate memory" in reason for reason in reasons) else "unreadable"


def by_name(finding: Finding) -> Mapping[str, object]:
    """The columns of a finding. Infinities and nan, which a damaged header may hold, are None."""
    cells = {**vars(finding), "cuts": None if finding.cuts is None else list(finding.cuts)}
    return {name: None if isinstance(each, float) and not math.isfinite(each) else each for name, each in cells.items()}
