"""A run that is killed and resumed equals one that never stopped, bit for bit; a run that is stopped politely saves."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer

from dit.engine import rng
from dit.engine.callbacks.checkpoint import Files, write
from tests import commands
from tests.engine import small

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.timeout(900)  # a minute on two free cores; a busy machine takes many times that


class Stop(Exception):
    pass


class Breaks(small.Callback):
    """Raises in the middle of training, as an error in the data would."""

    def __init__(self, micro_batch: int) -> None:
        self.micro_batch = micro_batch

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == self.micro_batch:
            raise Stop


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("broken_at", [7, 8, 11])  # within an accumulated step, at its start, before the second save
def test_resume_is_exact(tmp_path: Path, broken_at: int, optimizer: str) -> None:
    """10 clips in batches of 4, two to a step: every save lies within an epoch."""
    changes: dict[str, Any] = {"optimizer": small.muon_optimizer} if optimizer == "muon" else {}
    straight = small.Record()
    small.train(
        small.model(max_steps=8, **changes), tmp_path / "straight", small.video_data(), after=[straight], accumulate=2
    )
    broken, run = small.Record(), tmp_path / "broken"
    with pytest.raises(Stop):
        small.train(
            small.model(max_steps=8, **changes), run, small.video_data(), [Breaks(broken_at)], [broken], accumulate=2
        )
    done = small.load(run)["global_step"]
    assert done == 3
    resumed = small.Record()
    torch.manual_seed(99)  # nothing may depend on what the new process drew before
    small.train(small.model(max_steps=8, seed=1, **changes), run, small.video_data(), after=[resumed], accumulate=2)
    assert [
        w for k in small.EXACT for w in small.same(small.load(tmp_path / "straight")[k], small.load(run)[k], k)
    ] == []
    assert small.table(tmp_path / "straight") == small.table(run)
    assert [row["step"] for row in small.table(run)] == ["2", "3", "4", "6", "8"]
    assert straight.ids[2 * done :] == resumed.ids  # no clip twice, none missed


def test_the_comparison_notices(tmp_path: Path) -> None:
    """Another seed, or no random state put back, is not exact."""
    small.train(small.model(max_steps=4), tmp_path / "a", small.video_data())
    small.train(small.model(max_steps=4, seed=1), tmp_path / "b", small.video_data())
    a, b = small.load(tmp_path / "a"), small.load(tmp_path / "b")
    assert small.same(a["state_dict"], b["state_dict"]) and small.same(a["ema"], b["ema"])
    assert small.table(tmp_path / "a") != small.table(tmp_path / "b")


def test_training_longer_resumes(tmp_path: Path) -> None:
    small.train(small.model(max_steps=4), tmp_path, small.video_data())
    module = small.model(max_steps=7, seed=1)
    trainer = small.train(module, tmp_path, small.video_data())
    assert trainer.global_step == 7 and small.load(tmp_path)["global_step"] == 7
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["last.ckpt", "step-00000006.ckpt", "step-00000007.ckpt"]  # keep=2, and no '=' in any


def test_a_disk_that_fills_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line, the older checkpoint and nothing half there; once there is room the run goes on from it."""
    save = Trainer.save_checkpoint

    def full(trainer: Trainer, path: Path) -> None:
        if trainer.global_step == 3:
            return save(trainer, path)
        path.write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "save_checkpoint", full)
        with pytest.raises(ValueError, match=r"step-00000006.ckpt cannot be written: No space left on device\. "):
            small.train(small.model(max_steps=6), tmp_path, small.video_data())
    assert {file.name for file in (tmp_path / "checkpoints").iterdir()} == {"last.ckpt", "step-00000003.ckpt"}
    small.train(small.model(max_steps=6, seed=1), tmp_path, small.video_data())
    assert small.load(tmp_path)["global_step"] == 6


def test_a_disk_that_fills_up_where_last_is_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a file system without hard links."""

    def no_link(*_: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    def full(_: Path, target: Path) -> None:
        target.write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "link", no_link)
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "copyfile", full)
        with pytest.raises(ValueError, match=r"step-00000003.ckpt cannot be written: No space left on device\. "):
            small.train(small.model(max_steps=3), tmp_path, small.video_data())
    assert not (tmp_path / "checkpoints" / "last.ckpt").exists()
    small.train(small.model(max_steps=3), tmp_path, small.video_data())
    assert small.load(tmp_path)["global_step"] == 3
    assert {file.name for file in (tmp_path / "checkpoints").iterdir()} == {"last.ckpt", "step-00000003.ckpt"}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_only_the_disk_is_blamed_for_what_is_the_disks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for size in (1, 10**6):  # found out at the end, and on the way
        with pytest.raises(OSError, match="No space left on device"):
            write({"weights": torch.ones(size)}, Path("/dev/full"))

    def broken(*_: Any) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(torch, "save", broken)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        write({}, tmp_path / "none")


@pytest.mark.parametrize("other", [None, torch.zeros(1)], ids=["absent", "of another shape"])
def test_weights_beside_adapters_that_do_not_fit(tmp_path: Path, other: torch.Tensor | None) -> None:
    pytest.importorskip("peft")
    small.train(small.adapted(max_steps=3), tmp_path, small.video_data())
    beside = tmp_path / "checkpoints" / "frozen.pt"
    content = torch.load(beside, weights_only=True)
    key = sorted(content["state_dict"])[1]
    content["state_dict"][key] = other
    content["state_dict"] = {key: tensor for key, tensor in content["state_dict"].items() if tensor is not None}
    torch.save(content, beside)
    with pytest.raises(ValueError, match=rf"last.ckpt has no {re.escape(key)} of shape \(\d.*\); delete the run"):
        small.train(small.adapted(max_steps=6), tmp_path, small.video_data())


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="no /proc, which counts memory")
def test_checkpoints_are_not_held_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Saved straight to the run's folder, and mapped from there: what is not asked for is not read."""
    written: list[Any] = []
    save = torch.save
    monkeypatch.setattr(torch, "save", lambda content, file: (written.append(file.name), save(content, file)))
    small.train(small.model(max_steps=3), tmp_path, small.video_data())
    assert written == [str(tmp_path / "checkpoints" / "step-00000003.part")]

    before, large = memory(), tmp_path / "large.ckpt"
    save({"weights": torch.ones(2**25)}, large)  # 128 MiB
    found = Files().load_checkpoint(large, weights_only=True)["weights"]
    assert found.shape == (2**25,) and memory() - before < 2**25
    found.add_(1)  # mapped for this process alone
    assert memory() - before > 2**26 and Files().load_checkpoint(large)["weights"].max() == 1


def memory() -> int:
    """Bytes of this process that no file holds."""
    return 1024 * int(Path("/proc/self/status").read_text().partition("RssAnon:")[2].split()[0])


def test_random_state_round_trips() -> None:
    import random

    import numpy as np

    rng.seed(3, 1)
    state = rng.capture()
    first = (random.random(), np.random.rand(), torch.rand(3).tolist())
    with rng.untouched():
        torch.rand(5), random.random(), np.random.rand()
    after = (random.random(), torch.rand(1).item())
    rng.restore(state)
    assert (random.random(), np.random.rand(), torch.rand(3).tolist()) == first
    assert (random.random(), torch.rand(1).item()) == after
    rng.seed(1, 3)
    assert random.random() != first[0]


# -- the real command, killed


TINY = (
    "net=demo", "net.depth=1", "net.width=32", "net.heads=2", "net.text_width=16", "text.width=16", "text.depth=1",
    "text.heads=2", "data=demo", "data.batch_size=2", "data.train.num_clips=7", "data.val.num_clips=3", "preview=none",
    "logger=none", "trainer=default", "trainer.max_steps=6", "trainer.accumulate=2", "callbacks.checkpoints.every=2",
    "callbacks.validation.every=2", "callbacks.metrics.every=1", "callbacks.progress.seconds=0",
)  # fmt: skip


def command(folder: Path, *overrides: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`train.py` through a job that can kill itself, in `folder`."""
    return commands.run("tests/engine/killed_job.py", *TINY, *overrides, cwd=folder, **environment)


@pytest.mark.slow
def test_the_real_command_killed_and_resumed(tmp_path: Path) -> None:
    unbroken = command(tmp_path, "name=straight")
    assert unbroken.returncode == 0, unbroken.stderr[-3000:]
    killed = command(tmp_path, "name=killed", KILL_AT="5", KILL_WITH="KILL")  # mid-epoch, mid-step
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-3000:]
    assert small.load(tmp_path / "runs/killed")["global_step"] == 2
    stopped = command(tmp_path, "name=killed", KILL_AT="1", KILL_WITH="TERM")  # saves at the next step, off the cadence
    assert stopped.returncode == 128 + signal.SIGTERM, stopped.stderr[-3000:]
    assert "stopped by SIGTERM at step 3" in stopped.stdout
    resumed = command(tmp_path, "name=killed", "trainer.max_steps=6", "data.num_workers=1")
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    assert "resuming runs/killed at step 3 of 6" in resumed.stdout
    a, b = (small.load(tmp_path / "runs" / name) for name in ("straight", "killed"))
    assert [where for key in small.EXACT for where in small.same(a[key], b[key], key)] == []
    assert small.table(tmp_path / "runs/straight") == small.table(tmp_path / "runs/killed")
    assert not list(tmp_path.glob("outputs")) and not list(tmp_path.glob("multirun"))
    details = [(tmp_path / "runs" / name / "details.csv").read_bytes() for name in ("straight", "killed")]
    assert details[0] == details[1]
    left = {path.name for path in (tmp_path / "runs/straight").iterdir()}
    tables = {"details.csv", "metrics.csv", "data_card.json", "data_card.md"}
    assert left == {".lock", "checkpoints", "config.yaml", "history.jsonl", "train.log", *tables}
    shown = unbroken.stderr
    assert "steps/s" in shown and "MFU" in shown and "left" in shown
    assert "lr=0.0001" in unbroken.stdout and "parameters" in unbroken.stdout  # effective settings, sizes
