"""Commands of ours as a shell would start them, each in a process of its own, without the seconds that imports take.

The first command of a test process starts a warm one beside it: it imports what commands need, does nothing else, and
is forked for each command. So a command begins as fresh as Python itself would begin, with its own folder, environment,
streams and signals, and it ends as Python ends. What depends on how Python starts (its options, its standard streams,
variables that libraries read when they are imported) is tested with `subprocess`.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parents[1]
LARGEST = 2**20  # bytes of a request: arguments and environment
PATIENCE = 800.0  # seconds for a command, on a busy machine


class Command:
    """A command that runs. `pid` is its own: what is sent there reaches no shell in between."""

    def __init__(self, arguments: list[str], status: socket.socket, out: IO[bytes], err: IO[bytes]) -> None:
        self.arguments, self.status, self._streams = arguments, status, (out, err)
        self.pid = int.from_bytes(_exactly(status, 8), "little")
        self.returncode: int | None = None

    def wait(self, seconds: float = PATIENCE) -> int:
        """Its exit code; minus the number of the signal that killed it. Kills it when it takes longer."""
        if self.returncode is None:
            self.status.settimeout(seconds)
            try:
                self.returncode = int.from_bytes(_exactly(self.status, 8), "little", signed=True)
            except TimeoutError:
                self.kill()
                raise subprocess.TimeoutExpired(self.arguments, seconds, *self._said()) from None
            self.status.close()
        return self.returncode

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def finish(self, seconds: float = PATIENCE) -> subprocess.CompletedProcess[str]:
        """Waits for it: exit code, and what it said."""
        return subprocess.CompletedProcess(self.arguments, self.wait(seconds), *self._said())

    def _said(self) -> tuple[str, str]:
        texts = []
        for stream in self._streams:
            stream.seek(0)
            texts.append(stream.read().decode())
        return texts[0], texts[1]


def start(script: str, *arguments: str, cwd: Path, stdout: int | None = None, **environment: str) -> Command:
    """Starts a script.

    Args:
        script: relative to the project's folder. It runs as `__main__`.
        arguments: of its command line.
        cwd: its working directory.
        stdout: a file descriptor in the place of one that is read when the command has ended.
        environment: variables beside this process's own. One thread is used unless it says otherwise.
    """
    out, err = (tempfile.TemporaryFile() for _ in range(2))  # noqa: SIM115 - they end with the command
    here, there = socket.socketpair()
    asked = {
        "script": str(ROOT / script), "arguments": list(arguments), "cwd": str(cwd),
        "environment": {**os.environ, "OMP_NUM_THREADS": "1", **environment},
    }  # fmt: skip
    streams = [out.fileno() if stdout is None else stdout, err.fileno()]
    with there:
        socket.send_fds(_warm(), [json.dumps(asked).encode()], [*streams, there.fileno()])
    return Command([script, *arguments], here, out, err)


def run(script: str, *arguments: str, cwd: Path, **more: Any) -> subprocess.CompletedProcess[str]:
    """The same, waited for."""
    return start(script, *arguments, cwd=cwd, **more).finish()


def ranks(script: str, *arguments: str, cwd: Path, count: int = 2) -> list[subprocess.CompletedProcess[str]]:
    """A script in processes that find one another, with the variables that torchrun gives them. Where one of them
    fails, the others are killed, as torchrun does."""
    from torch.distributed import TCPStore

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    shared = {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RUN_ID": "tests", "TORCHELASTIC_RESTART_COUNT": "0", "TORCHELASTIC_MAX_RESTARTS": "0",
        "GROUP_RANK": "0", "GROUP_WORLD_SIZE": "1", "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count),
    }  # fmt: skip
    started = [
        start(script, *arguments, cwd=cwd, RANK=str(rank), LOCAL_RANK=str(rank), ROLE_RANK=str(rank), **shared)
        for rank in range(count)
    ]
    running = list(started)
    while running:
        ready, _, _ = select.select([each.status for each in running], [], [], PATIENCE)
        ended = [each for each in running if each.status in ready]
        running = [each for each in running if each not in ended]
        if not ended or any(each.wait() != 0 for each in ended):
            for each in running:
                each.kill()
    return [each.finish() for each in started]


_connection: socket.socket | None = None


def _warm() -> socket.socket:
    """The socket of the warm process, which ends when nobody holds it any more."""
    global _connection
    if _connection is None:
        _connection, there = socket.socketpair(type=socket.SOCK_SEQPACKET)
        with there:
            warm = subprocess.Popen(
                [sys.executable, __file__, str(there.fileno())],
                cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
                pass_fds=[there.fileno()], stdin=subprocess.DEVNULL,
            )  # fmt: skip
        atexit.register(warm.wait)
        atexit.register(_connection.close)  # first: the last that is registered is the first that is called
    return _connection


def _exactly(status: socket.socket, count: int) -> bytes:
    read = b""
    while len(read) < count:
        part = status.recv(count - len(read))
        if not part:
            raise EOFError("the process that starts commands is gone")
        read += part
    return read


# -- the warm process


def serve(requests: socket.socket) -> dict[str, Any] | None:
    """Forks a process for each request. Returns in these processes, with what they are asked to do; None in the warm
    process itself, when nobody asks any more."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that attend
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        message, handed_over, *_ = socket.recv_fds(requests, LARGEST, 3)
        if not message:
            return None
        if os.fork() == 0:
            requests.close()
            attend(*handed_over)
            return json.loads(message)  # type: ignore[no-any-return]
        for each in handed_over:
            os.close(each)


def attend(out: int, err: int, status: int) -> None:
    """Forks once more, and returns in the new process alone, which is a command's; the one that attends to it says how
    it ended, and leaves."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.dup2(out, 1), os.dup2(err, 2)
    for each in (out, err):
        os.close(each)
    with socket.socket(fileno=status) as asker:
        if pid == 0:
            return
        with contextlib.suppress(OSError):  # who asked may have left
            asker.sendall(pid.to_bytes(8, "little"))
            _, ended = os.waitpid(pid, 0)
            asker.sendall(os.waitstatus_to_exitcode(ended).to_bytes(8, "little", signed=True))
    os._exit(0)


def become(asked: dict[str, Any]) -> None:
    """Runs a script in this process, as `python script arguments` would."""
    import random

    import numpy as np

    os.environ.clear()
    os.environ.update(asked["environment"])
    os.chdir(asked["cwd"])
    sys.argv = [asked["script"], *asked["arguments"]]
    sys.path[0] = os.path.dirname(asked["script"])
    random.seed(), np.random.seed()
    for name, number, errors in (("stdout", 1, "strict"), ("stderr", 2, "backslashreplace")):
        setattr(sys, name, open(number, "w", closefd=False, errors=errors))  # noqa: SIM115 - buffered as such a file is
    runpy.run_path(asked["script"], run_name="__main__")


def main() -> None:
    requests = socket.socket(fileno=int(sys.argv[1]))
    import torch

    import dit.evaluation.world
    import dit.interop
    import dit.sampling.session
    from dit.engine import run

    assert dit and torch
    run.reference_rate = lambda *_: (1e12, "not measured")  # seconds for each run
    asked = serve(requests)
    if asked is not None:
        become(asked)


if __name__ == "__main__":
    main()
