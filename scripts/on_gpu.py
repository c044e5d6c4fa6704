"""What only a GPU can tell, most worth first, within a time that is given: `make gpu`.

    python scripts/on_gpu.py                            # everything, about an hour
    python scripts/on_gpu.py seconds=540                # as much as fits
    python scripts/on_gpu.py only=nets,training out=/tmp/gpu

tests: those that are skipped elsewhere. twins: every published model beside diffusers' class, weights in bf16. nets:
DiT in three sizes, with its MFU. training: the demo in four ways, then its held-out prompts. pipelines: every published
pipeline, whole, beside diffusers' class. compiled: twins, compiled.
Each command has a log in `out` and a limit of its own; one that does not end in time is killed with all that it
started, and the next one begins. Nothing else may run on the card while its benchmarks do. Exit code 1 if one failed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from dit.entry import one_line_errors  # noqa: E402

TWINS = (
    *("wan", "dit", "hunyuan_video", "ltx_video", "latte", "cogvideox", "cosmos", "mochi", "allegro", "skyreels_v2"),
    *("hunyuan_video15", "kandinsky5"),
)
SIZE = ("frames=8", "height=64", "width=64")  # latents
WAYS = {
    "fp32": (),
    "bf16": ("trainer.precision=bf16-mixed",),
    "fp32-compiled": ("trainer.compile_mode=default",),
    "bf16-compiled": ("trainer.precision=bf16-mixed", "trainer.compile_mode=default"),
}
# Of whole pipelines: the smallest clips with so many video tokens, in bf16, so that the network is most of the work.
WHOLE = ("precision=bf16", "tokens=4096", "depth=4", "steps=8")
SHOWN = 20  # last lines of a log that are printed
ENDED, FAILED, KILLED, LEFT_OUT = "ended", "FAILED", "killed at its limit", "left out"


@dataclass(frozen=True)
class Job:
    """One command. part: of `PARTS`; arguments: of python; limit: in seconds."""

    part: str
    name: str
    arguments: tuple[str, ...]
    limit: float


def jobs() -> list[Job]:
    """All of them, in order. Tests compile much and the card waits for that, so several processes share it."""
    workers = max(1, min(8, (os.cpu_count() or 1) // 2))
    tests = ("-m", "pytest", str(ROOT / "tests"), "-m", "gpu", "-n", str(workers), "-p", "no:cacheprovider")
    listed = [Job("tests", "tests", tests, 900)]
    # In one process: to start it and to import diffusers takes longer than most of them.
    listed.append(Job("twins", "twins", bench("twin=all", *SIZE, "precision=bf16-true"), 600))
    for net in ("dit_s_2", "dit_b_2", "dit_xl_2"):
        listed.append(Job("nets", f"net-{net}", bench(f"net={net}", "batch=32", "precision=bf16"), 120))
    for way, overrides in WAYS.items():
        train = ("experiment=demo", f"name={way}", "trainer.accelerator=gpu", *overrides)
        listed.append(Job("training", f"train-{way}", (str(ROOT / "train.py"), *train), 400))
        measure = (str(ROOT / "scripts/evaluate.py"), f"ckpt=runs/{way}", "device=cuda")
        listed.append(Job("training", f"evaluate-{way}", measure, 120))
    # In one process, too; the log has the table of each as soon as it is measured.
    listed.append(Job("pipelines", "pipelines", bench("pipeline=all", *WHOLE, repeats=5), 1200))
    for name in TWINS:
        compiled = bench(f"twin={name}", *size(name), "precision=bf16", "compile=true")
        listed.append(Job("compiled", f"compiled-{name}", compiled, 400))
    return listed


def bench(*settings: str, repeats: int = 20) -> tuple[str, ...]:
    return (str(ROOT / "scripts/bench.py"), "device=cuda", f"repeats={repeats}", *settings)


def size(twin: str) -> Sequence[str]:
    """DiT knows single images alone."""
    return SIZE[1:] if twin == "dit" else SIZE


PARTS = tuple(dict.fromkeys(job.part for job in jobs()))


def do(chosen: Sequence[Job], out: Path, seconds: float) -> Iterator[tuple[Job, str, float]]:
    """Each job with what became of it, and the seconds that it took. Its directory is `out`, its log `out`/name.log."""
    out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + seconds
    for job in chosen:
        began = time.monotonic()
        left = end - began
        state = LEFT_OUT if left <= 0 else run(job, out, min(job.limit, left))
        yield job, state, time.monotonic() - began


def run(job: Job, out: Path, limit: float) -> str:
    """Runs one job to its end or its limit."""
    with open(out / f"{job.name}.log", "w") as log:
        log.write(f"python {' '.join(job.arguments)}\n")
        log.flush()
        process = subprocess.Popen(
            [sys.executable, *job.arguments], cwd=out, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            start_new_session=True, env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
        try:
            return ENDED if process.wait(limit) == 0 else FAILED
        except subprocess.TimeoutExpired:
            return KILLED
        finally:  # whatever it has started, also when this process is told to stop
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def parse(arguments: Sequence[str]) -> tuple[list[Job], Path, float]:
    """`out=`, `seconds=` and `only=`: what to do, where, and for how long."""
    given = dict(argument.partition("=")[::2] for argument in arguments)
    unknown = [name for name in given if name not in ("out", "seconds", "only")]
    if unknown:
        raise ValueError(f"unknown setting '{unknown[0]}'; there are out, seconds and only")
    parts = given.get("only", ",".join(PARTS)).split(",")
    wrong = [part for part in parts if part not in PARTS]
    if wrong:
        raise ValueError(f"only={wrong[0]} is no part; there are {', '.join(PARTS)}")
    seconds = given.get("seconds", "7200")
    if not seconds.isdecimal() or int(seconds) < 1:
        raise ValueError(f"seconds={seconds} must be a whole number of at least 1")
    out = Path(given.get("out", "runs/on_gpu")).absolute()
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"out={out} has files in it, and runs of before would go on there; give an empty folder")
    return [job for job in jobs() if job.part in parts], out, float(seconds)


def main(arguments: Sequence[str]) -> int:
    chosen, out, seconds = parse(arguments)
    rows = []
    for job, state, took in do(chosen, out, seconds):
        rows.append(f"| {job.name} | {state} | {took:.0f} |")
        print(f"== {job.name}: {state} after {took:.0f} s", flush=True)
        if state != LEFT_OUT:
            print("\n".join((out / f"{job.name}.log").read_text(errors="replace").splitlines()[-SHOWN:]), flush=True)
    print("\n".join(["", f"logs: {out}", "| job | | s |", "| --- | --- | --- |", *rows]), flush=True)
    return 1 if any(f"| {FAILED} |" in row for row in rows) else 0


if __name__ == "__main__":
    if {"-h", "--help"} & set(sys.argv):
        print(__doc__)
        raise SystemExit(0)
    with one_line_errors():
        import torch

        if not torch.cuda.is_available():
            raise ValueError("torch sees no GPU here, and nothing of this can be done without one; make test can")
        code = main(sys.argv[1:])
    raise SystemExit(code)
