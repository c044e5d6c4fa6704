"""Processes that do not outlive the one that started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dit.entry import ROOT

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc to see processes in")

STARTER = """
import subprocess, sys
from data.processes import Guard, children
engine = subprocess.Popen(["sleep", "10000"], stdin=subprocess.DEVNULL, stdout=sys.stdout)
assert engine.pid in children()
guard = Guard()
guard.watch("sleep")
print(engine.pid, flush=True)
sys.stdin.read()
"""


def test_a_program_is_ended_with_the_process_that_started_it_and_was_killed() -> None:
    command = [sys.executable, "-c", STARTER]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        engine = int(starter.stdout.readline())
        os.kill(engine, 0)
        starter.send_signal(signal.SIGKILL)
        starter.stdout.read()  # ends when the last process that can write there is about to go: the engine
    while is_there(engine):  # or the test's time limit
        time.sleep(0.01)


def is_there(pid: int) -> bool:
    """Whether a process runs, and does not only wait to be buried."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
