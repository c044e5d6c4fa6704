"""Standard output and error that are closed, full, or without a reader: a run goes on."""

from __future__ import annotations

import io
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dit.streams import drop_unheard_lines

ROOT = Path(__file__).resolve().parents[1]
RUN = """
import logging, sys
from tqdm import tqdm
from dit.streams import reopen, steady

reopen()
logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(message)s")
with steady():
    for step in tqdm(range(3), mininterval=0):
        print("x" * 100_000)
        logging.info("y" * 100_000)
        print("step", step, file=sys.stderr, flush=True)
    tqdm.write("isatty %s" % sys.stderr.isatty())
with open(sys.argv[1], "w") as file:  # never under the number of a closed stream
    file.write(str(file.fileno()))
print("at the end")
"""


def run(done: Path, shell: str) -> subprocess.CompletedProcess[str]:
    """The script above with its streams led as `shell` says after the command."""
    return subprocess.run(
        ["bash", "-c", f'set -o pipefail; exec 3<&-; "$0" -c "$1" "$2" {shell}', sys.executable, RUN, str(done)],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip


@pytest.mark.parametrize("shell", ["2>&1 | head -c 10", ">&-", "2>&-", ">&- 2>&- <&-", ">/dev/full", "2>/dev/full"])
def test_what_is_printed_does_not_end_a_run(tmp_path: Path, shell: str) -> None:
    if "/dev/full" in shell and not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    done = run(tmp_path / "done", shell)
    assert int((tmp_path / "done").read_text()) > 2
    assert "Traceback" not in done.stdout + done.stderr and "Logging error" not in done.stderr
    if "/dev/full" not in shell:
        assert done.returncode == 0, done.stderr


def test_what_can_be_written_is(tmp_path: Path) -> None:
    done = run(tmp_path / "done", "")
    assert done.returncode == 0
    assert done.stdout.count("x" * 100_000) == 3 and done.stdout.count("y" * 100_000) == 3
    assert done.stdout.endswith("isatty False\nat the end\n") and "step 2" in done.stderr


def test_a_terminal_that_has_vanished(tmp_path: Path) -> None:
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", RUN.replace("100_000", "1"), str(tmp_path / "done")],
        cwd=ROOT, stdout=theirs, stderr=theirs, stdin=theirs,
    )  # fmt: skip
    os.close(theirs)
    os.close(ours)
    process.wait()
    assert (tmp_path / "done").exists()


@pytest.mark.parametrize("error, heard", [(BrokenPipeError(), False), (RuntimeError("a bug"), True)])
def test_log_lines_without_a_reader_are_dropped(error: Exception, heard: bool, capsys: pytest.CaptureFixture) -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise error

    handler = logging.StreamHandler(Gone())
    logging.getLogger().addHandler(handler)
    try:
        drop_unheard_lines()
        handler.handle(logging.LogRecord("dit", logging.INFO, "", 0, "a line", None, None))
    finally:
        logging.getLogger().removeHandler(handler)
    assert ("Traceback" in capsys.readouterr().err) == heard


@pytest.mark.parametrize(("command", "code", "said"), [("train.py --help", 141, ""), ("sample.py", 2, "error: ckpt")])
def test_a_command_whose_reader_has_left(command: str, code: int, said: str) -> None:
    """`| head` that has read enough: no traceback, and the exit code that shells know. Mistakes are still said."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, *command.split()], cwd=ROOT, stdout=write, stderr=subprocess.PIPE, text=True
    )  # fmt: skip
    os.close(write)
    assert done.returncode == code
    assert done.stderr.startswith(said) and done.stderr.count("\n") == bool(said)
