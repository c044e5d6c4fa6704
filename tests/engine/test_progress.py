"""The time left counts what comes between the steps; metrics.csv what a run has seen, over every resume."""

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dit import rates
from dit.engine.callbacks.after_step import AfterStep, duration, to_come
from dit.engine.callbacks.checkpoint import Checkpoints
from dit.engine.callbacks.metrics import Metrics
from dit.engine.callbacks.progress import Progress
from dit.engine.interrupts import Interrupts
from dit.engine.writers import Writers
from tests.engine.small import FRAMES, SIZE, model, table, train, video_data


@pytest.mark.parametrize("max_steps", [1, 10, 12])
@pytest.mark.parametrize("every", [1, 3, 4, 50])
def test_what_is_to_come_is_counted_as_it_will_be_made(max_steps: int, every: int) -> None:
    for step in range(max_steps + 1):
        made = [s for s in range(step + 1, max_steps + 1) if s % every == 0 or s == max_steps]
        assert to_come(step, max_steps, every) == len(made)


class Task:
    def __init__(self, name: str, every: int | None) -> None:
        self.name, self.every = name, every


def progress(tasks: list[Task], took: dict[str, float], steps_per_second: float) -> Progress:
    metrics = Metrics(Writers([]), None, every=10)  # type: ignore[arg-type]
    metrics.speed._seconds, metrics.speed._tokens = [1 / steps_per_second], [1]
    shown = Progress(metrics, seconds=10)
    after_step = AfterStep(Interrupts(), Checkpoints(every=50, keep=1), tasks)  # type: ignore[arg-type]
    after_step._took = took
    shown.trainer = SimpleNamespace(global_step=100, max_steps=220, callbacks=[after_step])  # type: ignore[attr-defined]
    return shown


def test_the_time_left_counts_validation_previews_and_checkpoints() -> None:
    tasks = [Task("validation", 40), Task("preview", 100), Task("never", None)]
    took = {"validation": 10.0, "preview": 100.0, "checkpoint": 1.0}
    shown = progress(tasks, took, steps_per_second=2.0)
    # 120 steps; validation at 120, 160, 200, 220; previews at 200, 220; checkpoints at 150, 200, 220.
    assert shown.left(shown.trainer) == duration(60 + 4 * 10 + 2 * 100 + 3)


def test_before_the_first_of_its_kind_it_is_a_lower_bound() -> None:
    shown = progress([Task("validation", 40), Task("preview", 100)], {"validation": 10.0}, steps_per_second=2.0)
    assert shown.left(shown.trainer) == f"at least {duration(60 + 40)}"
    shown.trainer.global_step = 220
    assert shown.left(shown.trainer) == duration(0)


def test_without_a_speed_nothing_is_known() -> None:
    shown = progress([], {}, 2.0)
    shown.metrics.speed._seconds = []
    assert shown.left(shown.trainer) == "?"


def test_a_line_says_when_a_task_runs_and_what_it_took(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "dit"):
        train(model(max_steps=3), tmp_path, video_data())
    said = [record.message for record in caplog.records if "validation" in record.message]
    assert said == ["step 3: validation begins", "step 3: validation took 0:00"]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_what_was_seen_is_exact_over_a_resume(tmp_path: Path, accumulate: int) -> None:
    train(model(max_steps=6), tmp_path / "straight", video_data(), accumulate=accumulate)
    for steps in (3, 6):
        train(model(max_steps=steps), tmp_path / "broken", video_data(), accumulate=accumulate)
    straight, broken = table(tmp_path / "straight"), table(tmp_path / "broken")
    seen = [(row["seen/clips"], row["seen/tokens"]) for row in straight if row["seen/clips"]]
    assert seen == [(row["seen/clips"], row["seen/tokens"]) for row in broken if row["seen/clips"]] and len(seen) == 3
    clips = [4 * accumulate * step for step in (2, 4, 6)]  # batches of 4, a row every 2 steps
    assert [float(each) for each, _ in seen] == clips
    assert [float(each) for _, each in seen] == [each * FRAMES * SIZE * SIZE for each in clips]


def test_time_goes_on_where_it_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([50.0, 53.0, 57.0])
    monkeypatch.setattr("dit.engine.callbacks.metrics.time", SimpleNamespace(perf_counter=lambda: next(now)))
    metrics = Metrics(Writers([]), None, every=10)  # type: ignore[arg-type]
    metrics.on_load_checkpoint(None, None, {"running_losses": [], "seconds": 1000.0})  # type: ignore[arg-type]
    assert metrics.seconds == 1003.0
    metrics.on_load_checkpoint(None, None, {"running_losses": []})  # type: ignore[arg-type]
    assert metrics.seconds == 7.0  # files of before do not say


def test_mfu_says_what_it_is_a_share_of() -> None:
    metrics = Metrics(Writers([]), None, every=10)  # type: ignore[arg-type]
    metrics.speed._seconds, metrics.speed._flops, metrics.reference_rate = [2.0], [1e11], 2e11
    assert metrics.flops_per_second == 5e10 and metrics.mfu == 0.25


@pytest.mark.parametrize(
    ("dtype", "matmul", "name", "expected"),
    [
        (torch.bfloat16, "highest", "NVIDIA H100 80GB HBM3", (989.4e12, "data sheet")),
        (torch.float32, "high", "NVIDIA A100-SXM4-80GB", (156e12, "data sheet")),
        (torch.float32, "highest", "NVIDIA A100-SXM4-80GB", (1.0, "measured")),
        (torch.bfloat16, "high", "NVIDIA Unheard 9000", (1.0, "measured")),
    ],
)
def test_a_gpu_of_the_table_is_held_against_its_data_sheet(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, matmul: str, name: str, expected: Any
) -> None:
    monkeypatch.setattr(rates.torch.cuda, "get_device_name", lambda _: name)
    monkeypatch.setattr(rates.torch, "get_float32_matmul_precision", lambda: matmul)
    monkeypatch.setattr(rates, "measured_matmul_rate", lambda *_: 1.0)
    assert rates.reference_rate("cuda", dtype) == expected
    assert rates.reference_rate("cpu", dtype) == (1.0, "measured")
