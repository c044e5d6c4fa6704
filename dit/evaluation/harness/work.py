"""Work that takes long, kept as it comes: samples and findings, found again by whoever starts it once more.

What is asked for (checkpoint, prompts, seeds, settings) is hashed; a folder in which the same was begun is gone on
with. A finding is written before its sample, and the sample's JSON last: a sample that is there has been looked at.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from torch import Tensor

from dit.evaluation.harness.subject import Subject
from dit.media.samples import SampleSet
from dit.runfiles import FINDINGS, SAMPLES
from dit.sampling.pipeline import Pipeline
from dit.sampling.ranks import Ranks
from dit.sampling.record import fingerprint
from dit.sampling.request import Request, kept_if_used, take_folder
from dit.sampling.runtime import Progress, progress_bar
from dit.sampling.session import Session
from dit.sampling.tasks import Task

OWN = ("prompt", "negative_prompt", "label", "signals", "batch", "seed", "checkpoint")  # facts of single samples


@dataclass(frozen=True)
class Made:
    """Samples on the disk, and what was found of each, in their order.

    settings: what they share of how they were made, for a protocol.
    """

    folder: Path
    samples: SampleSet
    found: list[Any]
    settings: dict[str, Any]


@dataclass(frozen=True)
class Found:
    """What was found of each thing, in their order."""

    folder: Path
    found: list[Any]


@dataclass(frozen=True)
class Work:
    """Where a suite works on one checkpoint.

    Attributes:
        subject: the checkpoint.
        suite: name of the suite. version: of what it finds.
        out: folder for all that it makes; None: the next one in the run directory, `samples/NNN` of samples,
            `evaluation/NNN` of others.
        ranks: who shares the work.
    """

    subject: Subject
    suite: str
    version: int
    out: Path | None
    ranks: Ranks

    def samples(
        self,
        wanted: Sequence[Request],
        look: Callable[[int, Tensor], Any],
        *,
        task: Task | None = None,
        pipeline: Pipeline | None = None,
        part: str = "",
    ) -> Made:
        """Samples of a checkpoint, an MP4 and a JSON each, and what `look` finds of each.

        Args:
            wanted: what is asked for.
            look: (its number, pixels (3, F, H, W) float32 in [-1, 1]) -> plain values that JSON holds. It sees the
                samples as they were made; MP4s have lost something.
            task: what is given; None: nothing.
            pipeline: None: the subject's own.
            part: one of several sets of samples of one suite, each with a folder of its own.
        """
        pipeline = pipeline or self.subject.pipeline
        job = pipeline.prepare(wanted, task)
        todo = Session(pipeline, job, pipeline.facts(job))
        folder = self._take(todo.facts, SAMPLES, part)
        samples = SampleSet(folder, todo.facts)
        with kept_if_used(folder), Findings(folder, self.ranks) as findings, self._progress() as progress:

            def has(index: int) -> bool:
                return index in findings and samples.has(index)

            for index, clip in todo.clips(has, self.ranks, progress):
                findings.add(index, look(index, clip))
                samples.write(index, clip)
        settings = {key: value for key, value in todo.facts[0].items() if key not in OWN}
        return Made(folder, samples, self._all(folder, len(wanted)), settings)

    def each(
        self,
        about: Mapping[str, Any],
        count: int,
        batch_size: int,
        find: Callable[[Sequence[int]], Iterable[Any]],
        *,
        part: str = "",
    ) -> Found:
        """What `find` finds of `count` things, `batch_size` of them at a time.

        Args:
            about: plain values that decide what is found, beside the checkpoint and which of its weights.
            find: numbers of things -> what it finds of each, plain values that JSON holds.
            part: as in `samples`.
        """
        origin = self.subject.pipeline.origin
        about = {**about, "batch_size": batch_size, "weights": origin.weights}
        about["checkpoint"] = {"sha256": fingerprint(self.subject.checkpoint.file)}
        folder = self._take([dict(about)] * count, FINDINGS, part)
        with kept_if_used(folder), Findings(folder, self.ranks) as findings, self._progress() as progress:
            batches = [range(start, min(start + batch_size, count)) for start in range(0, count, batch_size)]
            share = self.ranks.share(batches)
            for done, batch in enumerate(share):
                progress(done, len(share))
                if not all(index in findings for index in batch):
                    for index, found in zip(batch, find(batch), strict=True):
                        findings.add(index, found)
            progress(len(share), len(share))
        return Found(folder, self._all(folder, count))

    def _take(self, facts: Sequence[Mapping[str, Any]], under: str, part: str) -> Path:
        out = None if self.out is None else str(self.out / part)
        mark = f"{self.suite} {self.version} {part}"
        return self.ranks.first(lambda: take_folder(out, str(self.subject.path), facts, mark=mark, under=under))

    def _all(self, folder: Path, count: int) -> list[Any]:
        self.ranks.wait()  # for the findings of the others
        found = read(folder)
        return [found[index] for index in range(count)]

    def _progress(self) -> AbstractContextManager[Progress]:
        return progress_bar(f"{self.subject.name}: {self.suite}")


class Findings:
    """What one rank has found, a line each, in a file that a kill leaves readable."""

    def __init__(self, folder: Path, ranks: Ranks) -> None:
        self.folder = folder
        self.file = folder / ("found.jsonl" if ranks.rank == 0 else f"found-{ranks.rank}.jsonl")
        self._there: dict[int, Any] = {}
        self._opened: IO[str] | None = None

    def __enter__(self) -> Findings:
        self._there = read(self.folder)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._opened is not None:
            self._opened.close()

    def __contains__(self, index: int) -> bool:
        return index in self._there

    def add(self, index: int, found: Any) -> None:
        """Writes one down. What was found before of the same thing counts no more."""
        if self._opened is None:
            _cut_off_half_a_line(self.file)
            self._opened = self.file.open("a", encoding="utf-8")
        self._opened.write(json.dumps([index, found], ensure_ascii=False, allow_nan=False) + "\n")
        self._opened.flush()
        self._there[index] = found


def read(folder: Path) -> dict[int, Any]:
    """What all ranks have found, by number. Half a line, which a kill leaves at the end, is none; ValueError for any
    other damage."""
    found = {}
    for file in sorted(folder.glob("found*.jsonl")):
        for line in _lines(file):
            try:
                index, value = json.loads(line)
            except (ValueError, TypeError):
                raise ValueError(
                    f"{file} is damaged at {line[:40]!r}: delete it, and it is all looked at anew"
                ) from None
            found[index] = value
    return found


def _lines(file: Path) -> Iterator[str]:
    with file.open(encoding="utf-8") as opened:
        yield from (line for line in opened if line.endswith("\n"))


def _cut_off_half_a_line(file: Path) -> None:
    if file.is_file():
        content = file.read_bytes()
        file.write_bytes(content[: content.rfind(b"\n") + 1])
