"""Checks clips before a run: which can be read, by what, and what a run will make of them.

    python scripts/validate_data.py experiment=real_clips data.root=clips        # as the run that one means to start
    python scripts/validate_data.py --root clips --num-frames 16 --fps 8         # or clip by clip

Overrides are those of train.py: folder, manifest, frames, size, rate and length of captions are the run's. Each clip
is read in a process of its own, which is killed after `--timeout` seconds. Every decoder that runs on this machine
reads the same frames, and they must agree. The report has a line for each clip; the exit code is 0 if all are fine, 1
if some are not, 2 for a mistake in the command.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.decode import Decord, Ladder, PyAV, TorchCodec
from data.manifest import Manifest, read_manifest
from data.validate import Finding, Wanted, check_clips
from dit.entry import CONFIGS, one_line_errors
from dit.entry.literal import literal

SHOWN = 5  # clips that are named with each kind of note


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("overrides", nargs="*", help="as for train.py: experiment=real_clips data.root=DIR ...")
    parser.add_argument("--root", help="folder that the manifest's paths are relative to")
    parser.add_argument("--manifest", help=".csv, .jsonl or .parquet; without it, all clips in the root folder")
    parser.add_argument("--num-frames", type=int, help="frames of a clip in the run")
    parser.add_argument("--fps", type=float, help="frames a second in the run")
    parser.add_argument("--height", type=int, help="height of a clip in the run")
    parser.add_argument("--width", type=int, help="width of a clip in the run")
    parser.add_argument("--max-bytes", type=int, help="the longest caption that the run reads (text.max_bytes)")
    parser.add_argument("--report", default="report.csv", help="where to write a line for each clip")
    parser.add_argument("--min-seconds", type=float, default=0.0, help="shorter clips are not good enough")
    parser.add_argument("--every-frame", action="store_true", help="decode all frames, not a few spread over the clip")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds for one clip")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="clips checked at a time")
    asked = parser.parse_args()
    if asked.timeout <= 0 or asked.jobs < 1:
        raise ValueError(f"--timeout {asked.timeout:g} must be above 0 and --jobs {asked.jobs} at least 1")
    run = of_run(asked.overrides) if asked.overrides else {}
    given = {key: value for key, value in vars(asked).items() if key in KEYS and value is not None}
    run |= given
    if not run.get("root"):
        raise ValueError("no folder: give --root DIR, or what train.py is given: experiment=real_clips data.root=DIR")

    manifest = read_manifest(run["root"], run.get("manifest"), run.get("columns") or ())
    ladder = Ladder(decoders=[Decord(), TorchCodec(), PyAV()])
    bad: list[Finding] = []
    noted: dict[str, list[str]] = {}
    with (
        open(asked.report, "w", newline="", encoding="utf-8") as report,
        tqdm(total=len(manifest), unit="clip", file=sys.stderr) as bar,
    ):
        table = csv.DictWriter(report, [field.name for field in fields(Finding)])
        table.writeheader()
        for finding in check_clips(
            manifest, ladder, asked.min_seconds, asked.every_frame, asked.timeout, asked.jobs, wanted_by(run)
        ):
            table.writerow(asdict(finding))
            report.flush()  # an interrupted check keeps what it has found
            bad += [] if finding.ok else [finding]
            for note in filter(None, finding.notes.split("; ")):
                noted.setdefault(note, []).append(finding.id)
            bar.set_postfix(bad=len(bad))
            bar.update()
    for finding in sorted(bad, key=lambda finding: finding.id):
        print(f"bad: {finding.id}: {finding.why}")
    for note, ids in sorted(noted.items()):
        print(f"note: {note}: {', '.join(sorted(ids)[:SHOWN])}{f' and {len(ids) - SHOWN} more' * (len(ids) > SHOWN)}")
    for line in about_captions(manifest, run.get("max_bytes")):
        print(f"note: {line}")
    print(f"{len(manifest) - len(bad)} of {len(manifest)} clips are good; report: {asked.report}")
    return 1 if bad else 0


KEYS = ("root", "manifest", "num_frames", "height", "width", "fps", "max_bytes")


def of_run(overrides: Sequence[str]) -> dict[str, Any]:
    """What `train.py` would ask for with these overrides, by `KEYS`."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("train", literal(overrides))
    if "root" not in config.data:
        raise ValueError("these overrides train on no files; add experiment=real_clips or data=real_clips")
    found: dict[str, Any] = {key: config.data[key] for key in KEYS[:-1]}
    return found | {"max_bytes": None if config.text is None else config.text.get("max_bytes")}


def wanted_by(run: dict[str, Any]) -> Wanted | None:
    """The shape of the run's clips; None where it is not told."""
    keys = ("num_frames", "fps")
    told = [run.get(key) for key in keys]
    if all(value is None for value in told):
        return None
    if any(value is None for value in told):
        raise ValueError("give both --num-frames and --fps, or neither")
    wanted = Wanted(run["num_frames"], run.get("height") or 1, run.get("width") or 1, run["fps"])
    for key, value in asdict(wanted).items():
        if not value > 0 or value != value or value == float("inf"):
            raise ValueError(f"{key}={value} must be above 0")
    return wanted


def about_captions(manifest: Manifest, max_bytes: int | None) -> list[str]:
    """What to know of the captions before a run reads them."""
    captions = list(manifest.captions())
    empty = captions.count("")
    said = [f"{empty} clips have no caption"] if empty else []
    lengths = [len(caption.encode("utf-8", errors="replace")) for caption in captions]
    if max_bytes is not None and (long := sum(length > max_bytes for length in lengths)):
        said.append(
            f"{long} captions are longer than text.max_bytes={max_bytes}, and only their beginning is read; the "
            f"longest has {max(lengths)} bytes"
        )
    return said


if __name__ == "__main__":
    with one_line_errors():
        sys.exit(main())
