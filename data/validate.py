"""Checks clips before a run, each in a process of its own that can be killed: a damaged file may hang its decoder for
ever, crash it, or eat the memory, and none of that may stop the check.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from typing import Any

import numpy as np

from data.clips import pick_frames
from data.decode import BadClip, Ladder, Timeline
from data.images import open_image
from data.manifest import Manifest, Row

PROBES = 16  # frames decoded of each clip, spread evenly, first and last included
DISAGREE = 8.0  # mean grey levels between two decoders; 10-bit clips reach 4, a wrong frame is far above


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
class Finding:
    """What was found out about one clip; one line of the report."""

    id: str
    ok: bool
    why: str = ""  # what is wrong, or what to know about a clip that is fine
    decoder: str = ""  # those that can read it, best first
    frames: int = 0
    fps: float = 0.0
    seconds: float = 0.0
    height: int = 0
    width: int = 0
    notes: str = ""  # what a run makes of it


def check_clip(
    row: Row, decoder: Ladder, min_seconds: float, every_frame: bool, wanted: Wanted | None = None
) -> Finding:
    """Reads a clip with each decoder of the ladder and compares what they see. Runs in this process.

    `wanted` is what a run will ask of it, if that is known. An image is one frame, which is shown for any time.
    """
    if row.is_image:
        return _check_image(row, wanted)
    reasons: list[str] = []
    found: dict[str, np.ndarray] = {}
    timeline_of: dict[str, Timeline] = {}
    finding = Finding(row.id, ok=False)
    for rung in decoder.decoders:
        timelines: list[Timeline] = []

        def pick(timeline: Timeline, timelines: list[Timeline] = timelines) -> list[int]:
            part = np.flatnonzero((timeline.times >= row.start - 1e-3) & (timeline.times < row.end))
            if len(part) == 0:
                raise BadClip(row.path, f"no frames between {row.start:g} and {row.end:g} s")
            timelines.append(timeline)
            probes: list[int] = part[np.linspace(0, len(part) - 1, min(PROBES, len(part))).round().astype(int)].tolist()
            return probes

        try:
            frames = Ladder(decoders=[rung]).read(row.path, pick)
            count = len(timelines[0].times)
            if every_frame:
                for begin in range(0, count, PROBES):
                    Ladder(decoders=[rung]).frames(row.path, range(begin, min(begin + PROBES, count)))
        except BadClip as error:
            reasons.append(error.why)
            continue
        if not found:
            last = min(float(timelines[0].times[-1]) + 1 / timelines[0].fps, row.end)
            finding = replace(
                finding,
                frames=count,
                fps=round(timelines[0].fps, 3),
                seconds=round(last - row.start, 3),
                height=frames.shape[1],
                width=frames.shape[2],
            )
        found[rung.name], timeline_of[rung.name] = frames, timelines[0]
    if not found:
        return replace(finding, why="; ".join(reasons))
    finding = replace(finding, decoder=" ".join(found))
    if finding.seconds < min_seconds:
        return replace(finding, why=f"{finding.seconds:g} s are shorter than {min_seconds:g} s")
    best, *others = found
    for other in others:
        if found[best].shape != found[other].shape:
            return replace(
                finding, why=f"{best} and {other} see different frames: {found[best].shape} {found[other].shape}"
            )
        apart = np.abs(found[best].astype(np.int16) - found[other]).mean()
        if apart > DISAGREE:
            return replace(finding, why=f"{best} and {other} give frames {apart:.0f} grey levels apart")
    notes: list[str] = []
    if wanted is not None:
        try:
            picked = pick_frames(timeline_of[best], row, wanted.num_frames, wanted.fps, 0.5)
        except BadClip as error:
            return replace(finding, why=error.why)
        notes = wanted.notes(finding.height, finding.width, wanted.num_frames - len(set(picked)))
    return replace(finding, ok=True, why="; ".join(reasons), notes="; ".join(notes))


def _check_image(row: Row, wanted: Wanted | None) -> Finding:
    try:
        width, height = open_image(row.path).size
    except BadClip as error:
        return Finding(row.id, ok=False, why=error.why)
    notes = [] if wanted is None else wanted.notes(height, width, repeated=0)
    return Finding(row.id, True, decoder="pillow", frames=1, height=height, width=width, notes="; ".join(notes))


@dataclass
class _Job:
    process: Any  # a multiprocessing.Process; contexts have their own classes
    row: Row
    answer: Connection
    deadline: float = field(default=0.0)


def check_clips(
    manifest: Manifest,
    decoder: Ladder,
    min_seconds: float,
    every_frame: bool,
    timeout: float,
    jobs: int,
    wanted: Wanted | None = None,
) -> Iterator[Finding]:
    """Findings as they are made, in any order: `jobs` clips at a time, each at most `timeout` seconds."""
    # fork starts in milliseconds and is safe here: this process opens no file with a decoder.
    forks = "fork" in multiprocessing.get_all_start_methods()
    context: Any = multiprocessing.get_context("fork" if forks else "spawn")
    rows = (manifest[index] for index in range(len(manifest)))
    running: list[_Job] = []
    try:
        while True:
            while len(running) < jobs and (row := next(rows, None)) is not None:
                receive, send = context.Pipe(duplex=False)
                process = context.Process(
                    target=_check_and_send, args=(send, row, decoder, min_seconds, every_frame, wanted), daemon=True
                )
                process.start()
                send.close()
                running.append(_Job(process, row, receive, time.monotonic() + timeout))
            if not running:
                return
            wait([job.answer for job in running], max(0.0, min(job.deadline for job in running) - time.monotonic()))
            for job in list(running):
                if job.answer.poll():
                    yield _received(job)
                elif time.monotonic() >= job.deadline:
                    yield Finding(job.row.id, ok=False, why=f"no answer within {timeout:g} s: its decoder hangs")
                else:
                    continue
                _end(job)
                running.remove(job)
    finally:
        for job in running:
            _end(job)


def _check_and_send(
    send: Connection, row: Row, decoder: Ladder, min_seconds: float, every_frame: bool, wanted: Wanted | None
) -> None:
    send.send(check_clip(row, decoder, min_seconds, every_frame, wanted))


def _received(job: _Job) -> Finding:
    try:
        finding: Finding = job.answer.recv()
        return finding
    except EOFError:  # the pipe was closed by a process that died
        job.process.join()
        return Finding(job.row.id, ok=False, why=f"its decoder crashed (exit code {job.process.exitcode})")


def _end(job: _Job) -> None:
    job.process.kill()
    job.process.join()
    job.answer.close()
