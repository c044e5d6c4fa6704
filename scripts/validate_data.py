"""Checks clips before a run: which can be read, by what, what they show, and what a run will make of them.

    python scripts/validate_data.py manifest=clips.csv out=checked.csv           # a list; paths are relative to it
    python scripts/validate_data.py root=clips out=checked.csv                   # a folder
    python scripts/validate_data.py experiment=real_clips data.root=clips        # as the run that one means to start

Writes the list with what was found out, a row for each row (`out`: .csv, .jsonl or .parquet), and a report beside it.
Each clip is read in a process of its own, which is killed after `timeout` seconds; every decoder of this machine reads
the same frames, and they must agree. A check that was killed goes on with the same command. The exit code is 0 if all
clips are fine, 1 if some are not, 2 for a mistake in the command. Settings, beside overrides of train.py:
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data import scores
from data.checklist import Checklist, Settings
from data.checks import Checks, Wanted
from data.decode import Decord, Ladder, PyAV, TorchCodec
from data.filter import Filter
from data.report import lines
from data.validate import Limits, check_clips
from dit.entry import CONFIGS, one_line_errors
from dit.entry.command import INTERRUPTED
from dit.entry.literal import check_braces, literal
from scripts import arguments


@dataclass(frozen=True)
class Asked:
    """`name=value` on the command line; null is none."""

    manifest: str | None = None  # a .csv, .jsonl or .parquet file, or shards: train-{000..031}.tar
    root: str | None = None  # folder that paths are relative to; null: that of the manifest. Without one, all its clips
    shard_cache: str | None = None  # a folder for shards that are fetched, or the indices of streamed ones
    out: str = "checked.csv"  # what is written: .csv, .jsonl or .parquet
    timeout: float = 60.0  # seconds for one clip
    memory_gb: float | None = 4.0  # that the check of one clip may take (Linux)
    jobs: int = os.cpu_count() or 1  # clips checked at a time
    every_frame: bool = False  # decode all frames, not a few spread over the clip
    min_seconds: float = 0.0  # shorter clips are not good enough
    cuts: bool = False  # look for cuts between scenes (pip install -r requirements-data.txt)
    duplicates: bool = False  # leave out clips that look as an earlier one does
    licences: str | None = None  # those that are allowed, with commas between them; unknown for clips that state none
    filter: str | None = None  # rows to take, over any column: "duration > 2 and motion > 1"
    num_frames: int | None = None  # what a run will ask of each clip: frames,
    fps: float | None = None  # frames a second,
    height: int | None = None  # height and width
    width: int | None = None  # of each
    max_bytes: int | None = None  # the longest caption that it reads (text.max_bytes)


def main() -> int:
    if {"-h", "--help"} & set(sys.argv):
        print(arguments.usage(__file__, str(__doc__)))
        return 0
    asked, run = parse(sys.argv[1:])
    if asked.timeout <= 0 or asked.jobs < 1 or (asked.memory_gb is not None and asked.memory_gb <= 0):
        raise ValueError(
            f"timeout={asked.timeout:g} and memory_gb={asked.memory_gb} must be above 0, jobs={asked.jobs} at least 1"
        )
    if asked.cuts and (why := scores.missing_detector()) is not None:
        raise ValueError(f"cuts=true needs PySceneDetect ({why}): pip install -r requirements-data.txt")
    checks = Checks(asked.min_seconds, asked.every_frame, asked.cuts, wanted_by(asked))
    licences = None if asked.licences is None else [each.strip() for each in asked.licences.split(",")]
    settings = Settings(
        manifest=asked.manifest,
        root=None if asked.root is None else Path(asked.root),
        out=Path(asked.out),
        shard_cache=asked.shard_cache,
        columns=(*(run.get("columns") or ()), *(run.get("frame_columns") or ())),
        checks=checks,
        duplicates=asked.duplicates,
        licences=licences,
        filter=None if asked.filter is None else Filter(asked.filter, "filter"),
        max_bytes=asked.max_bytes,
    )
    ladder = Ladder(decoders=[PyAV(), TorchCodec(), Decord()])
    listed = Checklist(settings, [each.name for each in ladder.decoders])
    with listed, tqdm(total=listed.total, initial=listed.ready, unit="clip", file=sys.stderr) as bar:
        bad = listed.bad
        limits = Limits(asked.timeout, asked.memory_gb, asked.jobs)
        for row, finding in check_clips(listed.waiting(), ladder, checks, limits):
            listed.add(row, finding)
            bad += not finding.ok
            bar.set_postfix(bad=bad)
            bar.update()
    report = listed.finish()
    print("\n".join(lines(report)))
    return 0 if report["rows"] == report["good"] else 1


OF_SHAPE = ("num_frames", "height", "width", "fps")
OF_DATA = ("root", "manifest", "shard_cache", *OF_SHAPE, "filter", "licences", "columns", "frame_columns")


def parse(typed: Sequence[str]) -> tuple[Asked, dict[str, Any]]:
    """What is asked for, and what a run asks for with the overrides of train.py among the arguments (`of_run`)."""
    check_braces(typed)
    given, overrides = arguments.parse(Asked, typed, "manifest=clips.csv out=checked.csv")
    run = of_run(overrides) if overrides else {}
    if run.get("licences") is not None:
        run["licences"] = ",".join(run["licences"])
    names = {field.name for field in fields(Asked)}
    return Asked(**{name: value for name, value in run.items() if name in names and value is not None} | given), run


def of_run(overrides: Sequence[str]) -> dict[str, Any]:
    """What `train.py` would ask for with these overrides: `OF_DATA`, and `max_bytes` of its captions."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("train", literal(overrides))
    if "root" not in config.data:
        raise ValueError("these overrides train on no files; add experiment=real_clips or data=real_clips")
    several = config.data.get("shapes") is not None  # which shape a clip gets follows from what is found out here
    found: dict[str, Any] = {
        key: config.data[key] for key in OF_DATA if key in config.data and not (several and key in OF_SHAPE)
    }
    return found | {"max_bytes": None if config.text is None else config.text.get("max_bytes")}


def wanted_by(asked: Asked) -> Wanted | None:
    """The shape of the run's clips; None where it is not told."""
    told = [asked.num_frames, asked.fps]
    if all(value is None for value in told):
        return None
    if asked.num_frames is None or asked.fps is None:
        raise ValueError("give both num_frames and fps, or neither")
    wanted = Wanted(asked.num_frames, asked.height or 1, asked.width or 1, asked.fps)
    for key, value in asdict(wanted).items():
        if not value > 0 or value != value or value == float("inf"):
            raise ValueError(f"{key}={value} must be above 0")
    return wanted


if __name__ == "__main__":
    with one_line_errors():
        try:
            sys.exit(main())
        except KeyboardInterrupt:
            print("interrupted; the same command goes on from here", file=sys.stderr)
            sys.exit(INTERRUPTED)
