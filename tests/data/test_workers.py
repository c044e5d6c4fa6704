"""Loader workers that are killed, stopped, sent the group's signals, or left behind by a trainer that is killed."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Container
from multiprocessing import resource_sharer
from pathlib import Path
from typing import Any

import pytest
import torch

from data import processes, workers
from data.module import VideoData
from tests.engine import small

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc to see processes in")


class Faulty(small.Clips):
    """Does something to the process that loads one of `clips`, a certain number of times."""

    def __init__(
        self, fault: Callable[[], None], folder: Path, times: int = 10**9, clips: Container[int] = (5,)
    ) -> None:
        super().__init__(12)
        self.fault, self.folder, self.times, self.clips = fault, folder, times, clips

    def __getitem__(self, index: int) -> Any:
        if index in self.clips and len(list(self.folder.iterdir())) < self.times:
            (self.folder / str(time.monotonic_ns())).touch()
            self.fault()
        return super().__getitem__(index)


def kill_this_process(number: int) -> Callable[[], None]:
    def kill() -> None:
        os.kill(os.getpid(), number)
        time.sleep(60)

    return kill


def loading(**changes: Any) -> VideoData:
    return small.video_data(num_clips=12, batch_size=2, **{"num_workers": 2, "timeout": 60, **changes})


def take(data: VideoData, count: int) -> list[tuple[list[str], int]]:
    batches = iter(data.train_dataloader())
    return [(batch.ids, batch.position) for batch, _ in zip(batches, range(count), strict=False)]


def children() -> list[int]:
    return [process.pid for process in multiprocessing.active_children() if process.pid is not None]


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_worker_that_is_killed_is_replaced_at_the_same_place(caplog: pytest.LogCaptureFixture) -> None:
    wanted = take(loading(num_workers=0), 12)
    batches = iter(loading().train_dataloader())
    found = [next(batches) for _ in range(3)]
    for victim in children():
        os.kill(victim, signal.SIGKILL)
    time.sleep(0.3)  # torch would raise here, in the middle of a step
    torch.ones(10).sum()
    with caplog.at_level(logging.WARNING):
        found += [next(batches) for _ in range(9)]
    assert [(batch.ids, batch.position) for batch in found] == wanted
    assert [record.message for record in caplog.records] == [
        "a loader worker was killed by SIGKILL; going on at the same batch with new ones"
    ]
    batches.close()  # type: ignore[attr-defined]
    assert children() == []


def test_a_worker_that_dies_while_the_trainer_waits(tmp_path: Path) -> None:
    data = loading(train=Faulty(kill_this_process(signal.SIGKILL), tmp_path, times=2))
    assert take(data, 12) == take(loading(num_workers=0), 12)


def die_with_the_lock_of_the_end() -> None:
    """As a worker that is killed while it asks whether it is to end."""
    frame = sys._getframe()
    while "done_event" not in frame.f_locals:
        assert frame.f_back is not None
        frame = frame.f_back
    frame.f_locals["done_event"]._cond.acquire()
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.timeout(60)
def test_a_worker_that_dies_with_a_lock_keeps_nobody_waiting(tmp_path: Path) -> None:
    data = loading(train=Faulty(die_with_the_lock_of_the_end, tmp_path, times=1))
    assert take(data, 12) == take(loading(num_workers=0), 12)
    gc.collect()
    assert children() == []


def test_workers_that_keep_dying_end_the_run(tmp_path: Path) -> None:
    data = loading(train=Faulty(kill_this_process(signal.SIGSEGV), tmp_path))
    said = r"workers keep dying \(a loader worker was killed by SIGSEGV\), 4 times within 100 batches: .*num_workers=0"
    with pytest.raises(ValueError, match=said):
        take(data, 12)
    assert children() == []


def test_a_worker_that_is_stopped_cannot_keep_the_trainer(tmp_path: Path) -> None:
    data = loading(train=Faulty(kill_this_process(signal.SIGSTOP), tmp_path), timeout=1)
    with pytest.raises(ValueError, match="no batch within data.timeout=1 s"):
        take(data, 12)
    assert children() == []


def hand_nothing_over() -> None:
    resource_sharer._ResourceSharer._serve = lambda _: time.sleep(600)  # type: ignore[attr-defined]


def test_a_worker_that_announces_a_batch_and_hangs_cannot_keep_the_trainer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "HANDING_OVER", 1.0)
    data = loading(train=Faulty(hand_nothing_over, tmp_path, clips=range(12)), timeout=1)
    with pytest.raises(ValueError, match="no batch within data.timeout=1 s"):
        take(data, 12)
    assert children() == []


def test_signals_are_the_trainers() -> None:
    batches = iter(loading().train_dataloader())
    first = next(batches)
    crew = children()
    for number in workers.TRAINERS:
        for pid in crew:
            os.kill(pid, number)
    found = [first.ids, *(next(batches).ids for _ in range(11))]
    assert children() == crew and len(crew) == 2
    assert found == [ids for ids, _ in take(loading(num_workers=0), 12)]


def trainer_of_its_own(pipe: Any) -> None:
    batches = iter(loading().train_dataloader())
    for _ in range(2):  # one from each worker: by then both have done what a worker does first
        next(batches)
    pipe.send(children())
    time.sleep(600)


def test_no_worker_outlives_a_killed_trainer() -> None:
    here, there = multiprocessing.Pipe()
    trainer = multiprocessing.get_context("fork").Process(target=trainer_of_its_own, args=(there,))
    trainer.start()
    crew = here.recv()
    assert len(crew) == 2 and all(map(is_running, crew))
    os.kill(crew[0], signal.SIGSTOP)  # a stopped one as well
    trainer.kill()
    trainer.join()
    for _ in range(600):
        if not any(map(is_running, crew)):
            return
        time.sleep(0.1)
    pytest.fail("a worker is left")


def no_room() -> None:
    raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1_2>: No space left on device (28)")


@pytest.mark.parametrize("fault", [no_room, kill_this_process(signal.SIGBUS)], ids=["refused", "bus error"])
def test_shared_memory_that_is_too_small_is_named(tmp_path: Path, fault: Callable[[], None]) -> None:
    data = loading(train=Faulty(fault, tmp_path))
    said = r"/dev/shm, through which loader workers .* is [\d,]+ MiB with [\d,]+ MiB free, .*--shm-size=8g.*num_workers"
    with pytest.raises(ValueError, match=said):
        take(data, 12)


def test_shared_memory_is_looked_at_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    data = loading(height=4096, width=4096, num_frames=1000)
    with caplog.at_level(logging.WARNING):
        data.setup("fit")
    assert "the batches take up to 3,840,000 MiB" in caplog.text  # 5 batches of 4 clips in float32
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        loading().setup("fit")
        loading(height=4096, width=4096, num_frames=1000, num_workers=0).setup("fit")
    assert not caplog.records


def test_as_many_loading_processes_as_the_machine_has_cores_to_spare(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "QUOTA", tmp_path / "cpu.max")
    for name in ("SLURM_PROCID", "SLURM_CPUS_PER_TASK"):
        monkeypatch.delenv(name, raising=False)
    for cores, wanted in ((1, 1), (2, 1), (4, 3), (64, 8)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, cores=cores: set(range(cores)))
        assert workers.fitting(1) == wanted
    assert workers.fitting(16) == 3
    for quota, wanted in (("max 100000", 8), ("300000 100000", 2), ("50000 100000", 1)):
        (tmp_path / "cpu.max").write_text(quota + "\n")
        assert workers.fitting(1) == wanted
    (tmp_path / "cpu.max").unlink()
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "6")
    assert workers.fitting(16) == 3, "a job of SLURM's without srun shares the machine"
    monkeypatch.setenv("SLURM_PROCID", "0")
    assert workers.fitting(16) == 5, "each task has cores of its own"


def test_the_training_processes_of_a_machine_share_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "fitting", lambda trainers: 16 // trainers)
    data, own = small.video_data(num_workers=None), small.video_data(num_workers=3)
    assert data.loader.num_workers == 16
    for each in (data, own):
        each.share_machine(8)
    assert (data.loader.num_workers, own.loader.num_workers) == (2, 3)
