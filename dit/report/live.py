"""A page that follows runs while they go on: a small server on this machine, of Python's own library."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Callable
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from dit.media.web import LADDER, TYPE, as_webm
from dit.report.assemble import Report
from dit.report.page import data, page, shown_clips, stamp
from dit.report.sections import sections

LOCAL = ("127.0.0.1", "localhost", "[::1]")
KEPT = 256  # videos that are kept as they are sent


class Live:
    """What the server answers: a report that is made anew while somebody looks, at most every `every` seconds.

    assemble: makes a report. Raises ValueError while there is nothing to report on, and the page waits.
    """

    def __init__(self, assemble: Callable[[], Report], every: float, now: Callable[[], float]) -> None:
        self.assemble = assemble
        self.every = every
        self.now = now
        self._lock = threading.Lock()
        self._report: Report | None = None
        self._looked = -every
        self._why = ""
        self._clips: dict[str, Path] = {}
        self._made: OrderedDict[str, bytes] = OrderedDict()

    def report(self) -> Report | None:
        """The report as it is now; None while there is none, for the reason `why`."""
        with self._lock:
            if self.now() - self._looked >= self.every:
                try:
                    self._report = self.assemble()
                    self._clips |= {name: clip.file for name, clip in shown_clips(self._report).items()}
                except (ValueError, OSError) as error:  # files come and go while a run writes
                    self._why = " ".join(str(error).split())
                self._looked = self.now()
            return self._report

    def document(self) -> str:
        report = self.report()
        return WAITING.format(why=escape(self._why)) if report is None else page(report, {}, live=True)

    def state(self, seen: str) -> dict[str, Any]:
        """What has changed on a page that has `seen` a state; its stamp alone where nothing has."""
        report = self.report()
        if report is None:
            return {"stamp": ""}
        content = {"sections": sections(report), "data": data(report)}
        mark = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
        return {"stamp": mark} if mark == seen else {"stamp": mark, "made": stamp(report), **content}

    def clip(self, name: str) -> bytes | None:
        """A video that some report has shown; None for any other name."""
        with self._lock:
            if name in self._made:
                self._made.move_to_end(name)
                return self._made[name]
            source = self._clips.get(name)
        if source is None:
            return None
        try:
            made = as_webm(source, LADDER[0])
        except ValueError:
            return None
        with self._lock:
            self._made[name] = made
            while len(self._made) > KEPT:
                self._made.popitem(last=False)
        return made


# Until there is something to see it asks again by itself.
WAITING = """<!doctype html><html lang="en"><meta charset="utf-8"><meta http-equiv="refresh" content="2">
<title>waiting for a run</title><p>There is no run yet; this page looks again every two seconds.</p>
<p>{why}</p></html>"""


def server(live: Live, host: str, port: int) -> ThreadingHTTPServer:
    """A server, not yet serving. Port 0 takes any that is free.

    Raises:
        ValueError: it cannot listen there.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            # A page of another site that has its name point here is not to read what the runs say.
            asked = (self.headers.get("Host") or "").rpartition(":")[0] or self.headers.get("Host") or ""
            if host in ("127.0.0.1", "localhost") and asked not in LOCAL:
                return self._answer(403, "text/plain", b"this server answers on this machine alone\n")
            address = urlsplit(self.path)
            if address.path == "/":
                return self._answer(200, "text/html; charset=utf-8", live.document().encode())
            if address.path == "/state":
                state = live.state(parse_qs(address.query).get("seen", [""])[0])
                return self._answer(200, "application/json", json.dumps(state, allow_nan=False).encode())
            if address.path.startswith("/clip/"):
                made = live.clip(address.path.removeprefix("/clip/"))
                if made is not None:
                    return self._bytes(made)
            return self._answer(404, "text/plain", b"there is no such page\n")

        def _bytes(self, made: bytes) -> None:
            """A video, or the part of it that a browser asks for when it jumps to another frame."""
            wanted = (self.headers.get("Range") or "").removeprefix("bytes=").partition("-")
            if not wanted[0].isdecimal() or int(wanted[0]) >= len(made):
                return self._answer(200, TYPE, made, {"Accept-Ranges": "bytes"})
            first = int(wanted[0])
            last = min(int(wanted[2]), len(made) - 1) if wanted[2].isdecimal() else len(made) - 1
            about = {"Accept-Ranges": "bytes", "Content-Range": f"bytes {first}-{last}/{len(made)}"}
            return self._answer(206, TYPE, made[first : last + 1], about)

        def _answer(self, status: int, kind: str, body: bytes, more: dict[str, str] | None = None) -> None:
            try:
                self.send_response(status)
                # Kept open, a connection would be answered after the server has ended.
                about = {
                    "Content-Type": kind,
                    "Content-Length": str(len(body)),
                    "Cache-Control": "max-age=3600" if kind == TYPE else "no-store",
                    "Connection": "close",
                    "X-Content-Type-Options": "nosniff",
                    **(more or {}),
                }
                for name, value in about.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True  # the browser has left

        def log_message(self, format: str, *args: Any) -> None:
            pass  # a line for each question would fill the terminal

    try:
        made = ThreadingHTTPServer((host, port), Handler)
    except OSError as error:
        raise ValueError(
            f"host={host} port={port} cannot be listened on: {error.strerror}; choose another port, 0 for any"
        ) from None
    made.daemon_threads = True
    return made
