"""The round on a GPU: its commands are ones that the scripts take, and each job is held to its limit."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import hydra
import pytest
import torch

from dit.entry import CONFIGS
from scripts import on_gpu
from scripts.on_gpu import ENDED, FAILED, KILLED, LEFT_OUT, Job
from scripts.settings import compose, parse, parse_whole


def test_every_benchmark_is_one_that_bench_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("diffusers")
    from scripts.twins.published import EXAMPLES

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    listed = [job.arguments for job in on_gpu.jobs() if job.arguments[0].endswith("bench.py")]
    whole = [arguments for _, *arguments in listed if any(each.startswith("pipeline=") for each in arguments)]
    for _, *arguments in listed:
        if arguments not in whole:
            settings, overrides = parse(arguments)
            assert settings.device == "cuda"
            compose(settings, overrides)
    assert [(each.pipeline, each.device) for each in map(parse_whole, whole)] == [("all", "cuda")]
    assert set(on_gpu.TWINS) == set(EXAMPLES)
    assert len(listed) == 1 + 3 + 1 + len(EXAMPLES)


def test_every_training_is_one_that_train_takes() -> None:
    listed = [job.arguments for job in on_gpu.jobs() if job.arguments[0].endswith("train.py")]
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        for _, *arguments in listed:
            assert hydra.compose("train", arguments).trainer.accelerator == "gpu"
    assert len(listed) == 4


def test_a_job_is_held_to_its_limit_with_all_that_it_started(tmp_path: Path) -> None:
    hangs = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "print('started', child.pid, flush=True); time.sleep(600)"
    )
    chosen = [
        Job("tests", "good", ("-c", "print('fine')"), 60),
        Job("tests", "bad", ("-c", "raise SystemExit(3)"), 60),
        Job("tests", "slow", ("-c", hangs), 2),
        Job("tests", "never", ("-c", "print('no')"), 60),
    ]
    found = []
    for job, state, _ in on_gpu.do(chosen[:3], tmp_path, 100):
        found.append((job.name, state))
    found += [(job.name, state) for job, state, _ in on_gpu.do(chosen[3:], tmp_path, 0)]
    assert found == [("good", ENDED), ("bad", FAILED), ("slow", KILLED), ("never", LEFT_OUT)]
    assert (tmp_path / "good.log").read_text().splitlines()[-1] == "fine"
    (child,) = re.findall(r"^started (\d+)$", (tmp_path / "slow.log").read_text(), re.M)
    for _ in range(600):
        if not is_running(int(child)):
            break
        time.sleep(0.1)
    else:
        pytest.fail("what the job started is left")
    assert not (tmp_path / "never.log").exists()


def is_running(pid: int) -> bool:
    """Whether a process is there and does something."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except ProcessLookupError:
        return False
    except FileNotFoundError:  # no /proc here, or it has just ended
        return not Path("/proc").is_dir()


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("onyl=tests", "unknown setting 'onyl'"),
        ("only=test", "only=test is no part; there are tests, twins, nets, training, pipelines, compiled"),
        ("seconds=0", "at least 1"),
        ("out={full}", "has files in it"),
    ],
)
def test_mistakes_are_named(argument: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    with pytest.raises(ValueError, match=words):
        on_gpu.parse([argument.format(full=tmp_path)])
