"""Puts runs side by side on one HTML page: curves, what differs in their configs, measures and videos.

    python scripts/report.py runs/mine                             # writes runs/mine/report.html
    python scripts/report.py runs/a runs/b --out compared.html     # runs side by side
    python scripts/report.py runs --figures figures                # all runs in a folder, as of a sweep; SVG and PDF
    python scripts/report.py runs/mine --watch                     # a page that follows the run while it goes on

The page holds all that it shows and opens in any browser, without a network. Runs whose configs differ by the seed only
are one group: its curves and measures are means with 95 % intervals. Videos of one prompt and seed stand beside one
another, and play in step; they are written anew as WebM, which every browser plays, so small that the page has at most
--max-mb. What was asked for and is not there is said in a line, and all else is made; the exit code is then 1. --watch
answers on this machine alone (of another machine: ssh -L 8020:localhost:8020 HOST); Ctrl-C ends it and writes the page.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tqdm import tqdm

from dit.entry import one_line_errors
from dit.entry.command import INTERRUPTED
from dit.report import live, page
from dit.report.assemble import Report, assemble
from dit.report.figures import AXES, write_figures
from scripts.arguments import Parser

PAGE = "report.html"


def parser() -> Parser:
    made = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("runs", nargs="+", type=Path, help="run directories, and folders that hold some")
    made.add_argument("--out", type=Path, help=f"the page (default: {PAGE} in the folder of the runs)")
    made.add_argument("--figures", type=Path, metavar="DIR", help="also draw the curves and measures for a paper")
    made.add_argument("--metrics", default="", help="curves to show first, and to draw: val/x0_error,train/loss")
    made.add_argument("--along", default="step", choices=list(AXES), help="what figures are drawn along (step)")
    made.add_argument("--videos", type=int, default=96, help="videos at most (96)")
    made.add_argument("--max-mb", type=float, default=20.0, help="size of the page at most, in MB (20)")
    made.add_argument("--watch", action="store_true", help="serve a page that follows the runs, until Ctrl-C")
    made.add_argument("--port", type=int, default=8020, help="of --watch; 0: any that is free (8020)")
    made.add_argument("--host", default="127.0.0.1", help="of --watch: who may look (127.0.0.1: this machine alone)")
    made.add_argument("--every", type=float, default=5.0, help="of --watch: seconds between two looks (5)")
    return made


def main(arguments: Sequence[str]) -> int:
    asked = parser().parse_intermixed_args(arguments)
    for name, value, least in (("videos", asked.videos, 0), ("every", asked.every, 0.1), ("port", asked.port, 0)):
        if not value >= least:
            raise ValueError(f"--{name} {value} must be at least {least}")
    if not 0.5 <= asked.max_mb <= 1000:
        raise ValueError(f"--max-mb {asked.max_mb:g} must be from 0.5 to 1000")
    if asked.port > 65535:
        raise ValueError(f"--port {asked.port} is none; the largest is 65535")
    out = asked.out or default_out(asked.runs)
    page.check(out)
    said: list[str] = []

    def say(line: str) -> None:
        if line not in said:
            said.append(line)
            print(f"note: {line}", file=sys.stderr)

    metrics = [each.strip() for each in asked.metrics.split(",") if each.strip()]

    def report() -> Report:
        return assemble(asked.runs, metrics=metrics, videos=asked.videos, say=say)

    if asked.watch:
        watch(live.Live(report, asked.every, time.monotonic), asked.host, asked.port)
        said.clear()  # what was not there yet at first may be there now
    made = report()
    write(out, made, asked.max_mb, say)
    if asked.figures is not None:
        print("\n".join(map(str, write_figures(asked.figures, made, asked.along))))
    return 1 if said else 0


def default_out(runs: Sequence[Path]) -> Path:
    """In the one folder that is named, or in that in which all lie; else here."""
    if len(runs) == 1:
        return (runs[0] if runs[0].is_dir() else runs[0].parent) / PAGE
    parents = {run.resolve().parent for run in runs}
    return (runs[0].parent if len(parents) == 1 else Path()) / PAGE


def write(out: Path, report: Report, max_mb: float, say: Callable[[str], None]) -> None:
    clips = page.shown_clips(report)
    with tqdm(total=len(clips), unit="video", desc="videos", leave=False, disable=None, file=sys.stderr) as bar:
        size = page.write(out, report, int(max_mb * 1e6), say, bar.update)
    groups = "" if len(report.groups) == len(report.runs) else f" in {len(report.groups)} groups"
    print(f"{out}: {len(report.runs)} runs{groups}, {len(clips)} videos, {size / 1e6:.1f} MB")


def watch(page: live.Live, host: str, port: int) -> None:
    """Serves until Ctrl-C."""
    with live.server(page, host, port) as server:
        where, number = server.server_address[:2]
        print(f"http://{where!s}:{number}/ follows the runs; Ctrl-C ends it and writes the page", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print(file=sys.stderr)


if __name__ == "__main__":
    with one_line_errors():
        try:
            sys.exit(main(sys.argv[1:]))
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            sys.exit(INTERRUPTED)
