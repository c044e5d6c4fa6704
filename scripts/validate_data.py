"""Checks the clips of a manifest or folder before a run: which can be read, by what, and what is wrong with the others.

    python scripts/validate_data.py --root clips --manifest clips/manifest.csv --report report.csv

Each clip is read in a process of its own, which is killed after `--timeout` seconds. Every decoder that runs on this
machine reads the same frames, and they must agree. The report has a line for each clip; the exit code is 0 if all are
fine, 1 if some are not, 2 for a mistake in the command.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
from dataclasses import asdict, fields
from pathlib import Path

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.decode import Decord, Ladder, PyAV, TorchCodec
from data.manifest import read_manifest
from data.validate import Finding, check_clips
from dit.entry import one_line_errors


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--root", required=True, help="folder that the manifest's paths are relative to")
    parser.add_argument("--manifest", help=".csv, .jsonl or .parquet; without it, all videos in the root folder")
    parser.add_argument("--report", default="report.csv", help="where to write a line for each clip")
    parser.add_argument("--min-seconds", type=float, default=0.0, help="shorter clips are not good enough")
    parser.add_argument("--every-frame", action="store_true", help="decode all frames, not a few spread over the clip")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds for one clip")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="clips checked at a time")
    asked = parser.parse_args()
    if asked.timeout <= 0 or asked.jobs < 1:
        raise ValueError(f"--timeout {asked.timeout:g} must be above 0 and --jobs {asked.jobs} at least 1")

    manifest = read_manifest(asked.root, asked.manifest)
    ladder = Ladder(decoders=[Decord(), TorchCodec(), PyAV()])
    bad: list[Finding] = []
    with (
        open(asked.report, "w", newline="", encoding="utf-8") as report,
        tqdm(total=len(manifest), unit="clip", file=sys.stderr) as bar,
    ):
        table = csv.DictWriter(report, [field.name for field in fields(Finding)])
        table.writeheader()
        for finding in check_clips(manifest, ladder, asked.min_seconds, asked.every_frame, asked.timeout, asked.jobs):
            table.writerow(asdict(finding))
            report.flush()  # an interrupted check keeps what it has found
            bad += [] if finding.ok else [finding]
            bar.set_postfix(bad=len(bad))
            bar.update()
    for finding in sorted(bad, key=lambda finding: finding.id):
        print(f"bad: {finding.id}: {finding.why}")
    print(f"{len(manifest) - len(bad)} of {len(manifest)} clips are good; report: {asked.report}")
    return 1 if bad else 0


if __name__ == "__main__":
    with one_line_errors():
        sys.exit(main())
