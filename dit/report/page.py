"""The page: one HTML file that holds all it shows, and opens anywhere without a network or a server."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Mapping
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from dit.media.files import atomic
from dit.media.provenance import versions
from dit.media.web import TYPE, Quality, as_webm, fitting
from dit.report.assemble import Report
from dit.report.clips import ClipFile
from dit.report.curves import AXES, Curve, along
from dit.report.sections import sections, when
from dit.statistics import Floats

GENERATOR = "scripts/report.py"  # a page names this as its generator; a file that does not is never overwritten
DIGITS = 5  # of a number in a curve


def shown_clips(report: Report) -> dict[str, ClipFile]:
    """Name on the page -> video, each once."""
    cells = (cell for wall in report.walls for *_, row in wall.rows for cell in row if cell is not None)
    return {cell.clip.key: cell.clip for cell in cells}


def write(
    path: Path, report: Report, most_bytes: int, say: Callable[[str], None], done: Callable[[], None] = lambda: None
) -> int:
    """Writes the page and returns its size. done: is called behind each video.

    Raises:
        ValueError: the path is that of something else, or its curves alone are larger than `most_bytes`.
    """
    check(path)
    bare = page(report, {}, live=False)
    room = (most_bytes - len(bare.encode())) * 3 // 4 - 1024  # base64 writes 3 bytes as 4
    if room < 0:
        raise ValueError(
            f"the page has {len(bare.encode()) / 2**20:.1f} MiB without a video, more than max_mb={most_bytes / 1e6:g};"
            " name fewer runs, or allow more"
        )
    text = page(report, encoded(report, room, say, done), live=False)
    with atomic(path) as part:
        part.write_text(text, encoding="utf-8", newline="\n")
    return path.stat().st_size


def check(path: Path) -> None:
    """Raises ValueError where a page at `path` would overwrite something else, or a folder is in its way."""
    if path.is_dir():
        raise ValueError(f"out={path} is a folder; name a file in it, as {path / 'report.html'}")
    if path.is_file():
        with path.open("rb") as file:
            head = file.read(2000).decode("utf-8", errors="replace")
        if f'content="{GENERATOR}"' not in head:
            raise ValueError(f"out={path} is there and no page of {GENERATOR}; move it away, or name another file")


def encoded(
    report: Report, most_bytes: int, say: Callable[[str], None], done: Callable[[], None] = lambda: None
) -> dict[str, bytes]:
    """The videos that are shown, as WebM. One that cannot be decoded, or has no room, is said and left out."""
    clips = shown_clips(report)
    broken: set[Path] = set()

    def encode(source: Path, quality: Quality) -> bytes:
        if source in broken:
            return b""
        try:
            return as_webm(source, quality)
        except ValueError as error:
            broken.add(source)
            say(f"{source} cannot be shown: {error}")
            return b""

    made = fitting([clip.file for clip in clips.values()], most_bytes, encode, done)
    crowded = sum(not each and clip.file not in broken for each, clip in zip(made, clips.values(), strict=True))
    if crowded:
        say(f"{crowded} of {len(made)} videos have no room on the page, and their places are empty")
    return {name: each for name, each in zip(clips, made, strict=True) if each}


def page(report: Report, videos: Mapping[str, bytes], live: bool) -> str:
    """The page as text. live: it asks the server that it comes from for changes and videos (`dit.report.live`)."""
    parts = sections(report)
    style, script = _asset("page.css"), _asset("page.js")
    connect = "connect-src 'self'; media-src 'self' blob:" if live else "media-src blob:"
    policy = (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; {connect}; img-src data:;"
        " base-uri 'none'; form-action 'none'"
    )
    names = [run.name for run in report.runs]
    title = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    text = _asset("page.html")
    slots = {
        "generator": GENERATOR,
        "policy": policy,
        "title": escape(f"{title} – report"),
        "heading": escape(title),
        "live": "live" if live else "file",
        "made": escape(stamp(report)),
        "commit": escape(versions()["commit"][:8]),
        "style": style,
        **{f"section-{name}": html for name, html in parts.items()},
        "data": embedded(data(report)),
        "videos": embedded({name: base64.b64encode(each).decode() for name, each in videos.items()}),
        "type": TYPE,
        "script": script,
    }
    # From the front to the back, once: what a run says cannot open a slot of its own.
    pieces = text.split("{{")
    made = [pieces[0]]
    for piece in pieces[1:]:
        slot, _, rest = piece.partition("}}")
        made += [slots[slot], rest]
    return "".join(made)


def stamp(report: Report) -> str:
    return when(report.made)


def data(report: Report) -> dict[str, Any]:
    """What the curves are drawn from: plain values."""
    return {
        "groups": [group.label for group in report.groups],
        "runs": [run.name for run in report.runs],
        "axes": [axis for axis in AXES if any(axis in run.metrics for run in report.runs)],
        "along": [
            {axis: [_rounded(step), _rounded(value)] for axis, (step, value) in own.items()}
            for own in along(report.runs)
        ],
        "members": [list(group.runs) for group in report.groups],
        "open": report.opened,
        "curves": [_curve(curve) for curve in report.curves],
    }


def _curve(curve: Curve) -> dict[str, Any]:
    lines = []
    for line in curve.lines:
        made: dict[str, Any] = {"group": line.group, "run": line.run}
        made |= {"step": _rounded(line.step), "value": _rounded(line.value)}
        if line.low is not None and line.high is not None and line.count is not None:
            made |= {"low": _rounded(line.low), "high": _rounded(line.high), "count": int(line.count[0])}
        lines.append(made)
    return {"metric": curve.metric, "averaged": curve.averaged, "lines": lines}


def _rounded(values: Floats) -> list[float]:
    return [int(value) if value == int(value) else float(f"{value:.{DIGITS}g}") for value in values.tolist()]


def embedded(value: Any) -> str:
    """JSON that may stand inside a script element: nothing in it ends one."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _hash(text: str) -> str:
    """The source in a content security policy that allows this text alone."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _asset(name: str) -> str:
    return (files("dit.report") / "assets" / name).read_text(encoding="utf-8")
