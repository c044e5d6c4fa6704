"""Chromium without a window, driven through its debugging pipe: no driver, no package, no port."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions",
    "--mute-audio", "--hide-scrollbars", "--remote-debugging-pipe", "--window-size=1400,1000",
)  # fmt: skip
SECONDS = 120.0  # for any answer: the machine may be slow, and busy


def program() -> str | None:
    """The Chromium of this machine; None where there is none."""
    return next((found for name in PROGRAMS if (found := shutil.which(name))), None)


class Chromium:
    """One browser with one page. `wrong` holds what its console, its scripts and its network complained of, `asked` the
    addresses that it asked for."""

    def __init__(self, profile: Path) -> None:
        found = program()
        assert found is not None
        self.wrong: list[str] = []
        self.asked: list[str] = []
        self._answers: dict[int, dict[str, Any]] = {}
        self._events: list[str] = []
        self._buffer = b""
        self._count = 0
        # The browser reads its number 3 and writes its number 4.
        reads, self._write = os.pipe()
        self._read, writes = os.pipe()
        high = [fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, 10) for number in (reads, writes)]

        def numbered() -> None:
            os.dup2(high[0], 3)
            os.dup2(high[1], 4)

        self._process = subprocess.Popen(
            [found, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            preexec_fn=numbered, pass_fds=(3, 4), start_new_session=True,
        )  # fmt: skip
        for number in (reads, writes, *high):
            os.close(number)
        target = self._call("Target.createTarget", {"url": "about:blank"}, "")["targetId"]
        self._session = self._call("Target.attachToTarget", {"targetId": target, "flatten": True}, "")["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")

    def __enter__(self) -> Chromium:
        return self

    def __exit__(self, *error: object) -> None:
        for number in (self._write, self._read):
            os.close(number)
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def open(self, address: str) -> None:
        """Goes to an address, and waits until its scripts have run."""
        self.wrong, self.asked, self._events = [], [], []
        self._call("Page.navigate", {"url": address})
        self._until(lambda: "Page.loadEventFired" in self._events)

    def run(self, script: str) -> Any:
        """The value of a script, awaited. What it throws is an AssertionError."""
        asked = {"expression": script, "awaitPromise": True, "returnByValue": True, "userGesture": True}
        made = self._call("Runtime.evaluate", asked)
        assert "exceptionDetails" not in made, made["exceptionDetails"]
        return made["result"].get("value")

    def wait(self, condition: str) -> None:
        """Until a script's value is true."""
        self._until(lambda: bool(self.run(condition)), condition)

    def move(self, x: float, y: float) -> None:
        """Moves the pointer."""
        self._call("Input.dispatchMouseEvent", {"type": "mouseMoved", "x": x, "y": y})

    def size(self, width: int, height: int, dark: bool = False) -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._call("Emulation.setDeviceMetricsOverride", metrics)
        feature = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", {"features": [feature]})

    def picture(self, path: Path) -> None:
        """What the page shows now, as a PNG."""
        made = self._call("Page.captureScreenshot", {"format": "png"})
        path.write_bytes(base64.b64decode(made["data"]))

    def _call(self, method: str, parameters: Mapping[str, Any] | None = None, session: str | None = None) -> Any:
        self._count += 1
        number = self._count
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters or {}}
        if session is None:
            message["sessionId"] = self._session
        left = json.dumps(message).encode() + b"\0"
        while left:
            left = left[os.write(self._write, left) :]
        self._until(lambda: number in self._answers, method)
        answer = self._answers.pop(number)
        assert "error" not in answer, (method, answer["error"])
        return answer["result"]

    def _until(self, done: Any, what: str = "the page") -> None:
        end = time.monotonic() + SECONDS
        while not done():
            assert time.monotonic() < end, f"no answer in {SECONDS:g} s: {what}"
            self._take(0.2)

    def _take(self, seconds: float) -> None:
        """Reads what the browser has said."""
        ready, _, _ = select.select([self._read], [], [], seconds)
        if not ready:
            assert self._process.poll() is None, "the browser has ended"
            return
        self._buffer += os.read(self._read, 2**20)
        *messages, self._buffer = self._buffer.split(b"\0")
        for message in map(json.loads, messages):
            if "id" in message:
                self._answers[message["id"]] = message
            else:
                self._hear(message["method"], message.get("params", {}))

    def _hear(self, event: str, about: dict[str, Any]) -> None:
        self._events.append(event)
        if event == "Runtime.exceptionThrown":
            details = about["exceptionDetails"]
            self.wrong.append(details.get("exception", {}).get("description", details["text"]))
        elif event == "Runtime.consoleAPICalled" and about["type"] in ("error", "warning", "assert"):
            self.wrong.append(f"console.{about['type']}: {about['args']}")
        elif event == "Log.entryAdded" and about["entry"]["level"] in ("error", "warning"):
            self.wrong.append(f"{about['entry']['text']} {about['entry'].get('url', '')}")
        elif event == "Network.requestWillBeSent":
            self.asked.append(about["request"]["url"])
