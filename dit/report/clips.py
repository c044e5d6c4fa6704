"""The videos of runs: what lies in their folders of samples, and which are shown side by side."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import av

from data.on_disk import on_disk
from dit.report.measures import Measured

VIDEO = ".mp4"
PREVIEW = "step-"  # folders of previews: step-00000200


@dataclass(frozen=True)
class ClipFile:
    """A video of a run, and what its own file says of it.

    key: another one when the file is written anew. preview: whether training made it. width, height: pixels. fps:
    frames a second. wrong: what a measure found wrong with it; None where it was not measured.
    """

    file: Path
    key: str
    prompt: str
    seed: str
    step: int | None
    weights: str
    preview: bool
    width: int
    height: int
    fps: float
    wrong: tuple[str, ...] | None = None

    @property
    def asked(self) -> tuple[str, str]:
        return self.prompt, self.seed


@dataclass(frozen=True)
class Cell:
    """A place on a wall. run: by its place in the report."""

    run: int
    clip: ClipFile


@dataclass(frozen=True)
class Wall:
    """Videos side by side. A row is a prompt with a seed; a column a run, or a step of one run.

    rows: (prompt, seed, a cell or None for each column). left_out: rows for which there was no room.
    """

    title: str
    columns: list[str]
    rows: list[tuple[str, str, list[Cell | None]]]
    left_out: int = 0


def clips_in(samples: Path, measured: Sequence[Measured], say: Callable[[str], None]) -> tuple[ClipFile, ...]:
    """The videos in a run's folder of samples, by step, then as they were made: `step-00000200/` are previews, the
    others were asked for."""
    wrong = {each.file.parent / name: reasons for each in measured for name, reasons in each.wrong.items()}
    found = []
    for file in samples.glob(f"*/*{VIDEO}"):
        try:
            now = file.stat()
            clip, problem = _clip(file.absolute(), now.st_mtime_ns, now.st_size)
        except OSError as error:  # it was moved away in between
            clip, problem = None, str(error.strerror)
        if clip is None:
            say(f"{file} is no video that can be read ({problem})")
            continue
        found.append((clip.step or 0, now.st_mtime_ns, file.name, replace(clip, file=file, wrong=wrong.get(file))))
    return tuple(clip for *_, clip in sorted(found, key=lambda each: each[:3]))


@lru_cache(maxsize=4096)  # a page that follows a run looks at the same files again and again
def _clip(file: Path, written: int, size: int) -> tuple[ClipFile | None, str]:
    """What a file says of itself, where it was `written` (nanoseconds) with so many bytes; or why it says nothing."""
    try:
        with av.open(on_disk(file)) as container:
            pictures = container.streams.best("video")
            if pictures is None or not pictures.width or not pictures.height:
                return None, "it has no pictures"
            about = {key.lower(): value for key, value in container.metadata.items()}
            width, height, fps = pictures.width, pictures.height, float(pictures.average_rate or 8)
    except (av.FFmpegError, OSError, ValueError) as error:
        return None, " ".join(str(error).split())[:80]
    preview = file.parent.name.startswith(PREVIEW)
    clip = ClipFile(
        file=file,
        key=hashlib.sha256(f"{file}|{written}|{size}".encode()).hexdigest()[:20],
        prompt=about.get("prompt", file.stem),
        seed=about.get("seed", ""),
        step=_step(about, file),
        weights=about.get("weights", ""),
        preview=preview,
        width=width,
        height=height,
        fps=fps,
    )
    return clip, ""


def _step(about: Mapping[str, str], file: Path) -> int | None:
    """The step that made a video: of previews an entry of their own, of other samples one of the facts, as JSON."""
    said = about.get("step", "")
    if not said and about.get("checkpoint", "").startswith("{"):
        try:
            said = str(json.loads(about["checkpoint"]).get("step", ""))
        except ValueError:
            said = ""
    if not said and file.parent.name.startswith(PREVIEW):
        said = file.parent.name.removeprefix(PREVIEW)
    return int(said) if said.isascii() and said.isdecimal() else None


def walls(names: Sequence[str], clips: Sequence[Sequence[ClipFile]], most: int) -> list[Wall]:
    """What is shown: samples with one column a run, then what the previews of each run became over training.

    Rows that more runs have come first, then those that were measured. Of a prompt and seed each run shows the video
    made last.

    Args:
        names: of the runs. clips: of each run, as `clips_in` gives them.
        most: videos in all. A quarter is for those over training, where there are any.
    """
    several = [run for run, own in enumerate(clips) if len({clip.step for clip in own if clip.preview}) > 1]
    samples = _samples(names, clips, most - most // 4 if several else most)
    shown = [samples] if samples is not None else []
    left = most - sum(_count(wall) for wall in shown)
    shown += [_over_training(names[run], run, clips[run], left // len(several)) for run in several]
    return [wall for wall in shown if wall.rows]


def _samples(names: Sequence[str], clips: Sequence[Sequence[ClipFile]], most: int) -> Wall | None:
    rows: dict[tuple[str, str], list[Cell | None]] = {}
    for run, own in enumerate(clips):
        for clip in own:
            rows.setdefault(clip.asked, [None] * len(clips))[run] = Cell(run, clip)
    if not rows:
        return None
    columns = [run for run in range(len(clips)) if any(row[run] is not None for row in rows.values())]
    order = sorted(rows, key=lambda asked: _rank(rows[asked]), reverse=True)  # keeps the order of equal ones
    whole = [(*asked, [rows[asked][run] for run in columns]) for asked in order]
    kept = _fitting(whole, most)
    return Wall("Samples", [names[run] for run in columns], kept, len(whole) - len(kept))


def _rank(row: Sequence[Cell | None]) -> tuple[int, bool]:
    """Of a row that is to come first the largest."""
    there = [cell for cell in row if cell is not None]
    return len(there), any(cell.clip.wrong is not None for cell in there)


STEPS = 6  # of a run's previews that are shown, the first and the last among them


def _over_training(name: str, run: int, clips: Iterable[ClipFile], most: int) -> Wall:
    previews = [clip for clip in clips if clip.preview and clip.step is not None]
    steps = sorted({clip.step for clip in previews if clip.step is not None})
    if len(steps) > STEPS:
        steps = [steps[round(i * (len(steps) - 1) / (STEPS - 1))] for i in range(STEPS)]
    rows: dict[tuple[str, str], list[Cell | None]] = {}
    for clip in previews:
        if clip.step in steps:
            rows.setdefault(clip.asked, [None] * len(steps))[steps.index(clip.step)] = Cell(run, clip)
    whole = [(*asked, row) for asked, row in rows.items()]
    kept = _fitting(whole, most)
    columns = [f"step {step:,}" for step in steps]
    return Wall(f"Over training: {name}", columns, kept, len(whole) - len(kept))


Rows = list[tuple[str, str, list[Cell | None]]]


def _fitting(rows: Rows, most: int) -> Rows:
    """The first rows that hold at most so many videos."""
    kept: Rows = []
    left = most
    for row in rows:
        left -= sum(cell is not None for cell in row[2])
        if left < 0:
            break
        kept.append(row)
    return kept


def _count(wall: Wall) -> int:
    return sum(cell is not None for *_, row in wall.rows for cell in row)
