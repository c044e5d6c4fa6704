"""What follows a step: saved first, then validated and previewed; told to stop, or broken, in the middle of it."""

from __future__ import annotations

import json
import logging
import signal
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dit.engine.callbacks.after_step import DUE, owed
from dit.engine.interrupts import Interrupts
from tests.engine import small

EVERY = {"every": 4, "validate_every": 3, "preview_every": 3}


def train(run: Path, told: Callable[[Any, Interrupts], None] | None = None, seed: int = 0, **data: Any) -> Any:
    """Six steps; validation and previews after 3 and 6, checkpoints after 4 and at the end."""
    module, interrupts = small.model(max_steps=6, seed=seed), Interrupts()
    if told is not None:
        told(module, interrupts)
    return small.train(module, run, small.video_data(**data), callbacks={**EVERY, "interrupts": interrupts})


def files(run: Path) -> dict[str, bytes]:
    return {str(file.relative_to(run)): file.read_bytes() for file in (run / "samples").rglob("*") if file.is_file()}


def differences(run: Path, straight: Path) -> list[str]:
    a, b = small.load(straight), small.load(run)
    different = [where for key in small.EXACT for where in small.same(a[key], b[key], key)]
    return different + small.same(small.table(straight), small.table(run), "metrics") + small.same(
        files(straight), files(run), "samples"
    )  # fmt: skip


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("straight")
    train(run)
    assert [row["step"] for row in small.table(run) if row["val/loss"]] == ["3", "6"]
    assert len(files(run)) == 4
    return run


def in_validation(call: int) -> Callable[[Any, Interrupts], None]:
    """SIGTERM in a batch of validation: the first or second of step 3, the first or second of step 6."""

    def told(module: Any, interrupts: Interrupts) -> None:
        real, calls = module.validation_step, iter(range(1000))

        def validation_step(*args: Any) -> Any:
            if next(calls) == call:
                interrupts.received = signal.SIGTERM
            return real(*args)

        module.validation_step = validation_step

    return told


def in_preview(call: int) -> Callable[[Any, Interrupts], None]:
    """SIGTERM in a solver step of a preview: two steps each."""

    def told(module: Any, interrupts: Interrupts) -> None:
        calls = iter(range(1000))

        def forward(net: Any, args: Any) -> None:
            solving = any(frame.name == "_denoise" for frame in traceback.extract_stack())
            if solving and next(calls) == call:
                interrupts.received = signal.SIGTERM

        module.net.register_forward_pre_hook(forward)

    return told


@pytest.mark.parametrize(
    ("told", "step", "due"),
    [
        (in_validation(0), 3, ["validation", "preview"]),
        (in_validation(1), 3, ["preview"]),
        (in_validation(2), 6, ["validation", "preview"]),
        (in_preview(0), 3, ["preview"]),
        (in_preview(3), 6, ["preview"]),
    ],
    ids=["validation", "last batch of it", "validation of the last step", "preview", "preview of the last step"],
)
def test_told_to_stop_in_a_task(tmp_path: Path, straight: Path, told: Any, step: int, due: list[str]) -> None:
    """It leaves from within, saved with what it owes; the same command makes that first, and nothing is different."""
    train(tmp_path, told)
    assert small.load(tmp_path)["global_step"] == step
    assert owed(tmp_path, step) == due and owed(tmp_path, step + 1) == []
    train(tmp_path, seed=1)
    assert differences(tmp_path, straight) == []
    assert not (tmp_path / "checkpoints" / DUE).exists()


def test_told_to_stop_before_what_is_owed_is_made(tmp_path: Path, straight: Path) -> None:
    def at_once(module: Any, interrupts: Interrupts) -> None:
        interrupts.received = signal.SIGTERM

    train(tmp_path, in_validation(0))
    trainer = train(tmp_path, at_once, seed=1)
    assert trainer.global_step == 3 and owed(tmp_path, 3) == ["validation", "preview"]
    train(tmp_path, seed=1)
    assert differences(tmp_path, straight) == []


def test_a_kill_while_a_preview_is_written(tmp_path: Path, straight: Path) -> None:
    """The unfinished file goes when the preview is made once more."""
    train(tmp_path, in_preview(0))
    unfinished = tmp_path / "samples" / "step-00000003" / ".a-seed-0.mp4.1283.part"
    unfinished.parent.mkdir(parents=True, exist_ok=True)
    unfinished.write_bytes(b"half")
    train(tmp_path, seed=1)
    assert differences(tmp_path, straight) == []


def test_a_kill_between_checkpoint_and_tasks(tmp_path: Path, straight: Path) -> None:
    """Whatever a note says of another step than the checkpoint's is of no concern."""
    train(tmp_path, in_preview(0))
    note = tmp_path / "checkpoints" / DUE
    assert json.loads(note.read_text()) == {"step": 3, "tasks": ["preview"]}
    note.write_text(json.dumps({"step": 4, "tasks": ["validation"]}))
    train(tmp_path, seed=1)
    assert small.load(tmp_path)["global_step"] == 6
    note.write_text("half a li")
    assert owed(tmp_path, 6) == []


def test_a_preview_that_fails_is_a_warning(tmp_path: Path, straight: Path, caplog: pytest.LogCaptureFixture) -> None:
    def broken(module: Any, interrupts: Interrupts) -> None:
        real = module.codec.decode
        calls = iter(range(1000))

        def decode(latents: Any) -> Any:
            if next(calls) == 0:
                raise RuntimeError("CUDA out of memory\nand more lines")
            return real(latents)

        module.codec.decode = decode

    with caplog.at_level(logging.WARNING):
        train(tmp_path, broken)
    said = [record.message for record in caplog.records if "preview" in record.message]
    assert said == ["no preview at step 3 (RuntimeError: CUDA out of memory); training goes on"]
    assert [where for where in differences(tmp_path, straight) if not where.startswith("samples")] == []
    assert len(files(tmp_path)) == 2  # those of the last step


class Unreadable(small.Clips):
    bad = -1

    def __getitem__(self, index: int) -> Any:
        if index == self.bad:
            raise OSError("stale file handle")
        return super().__getitem__(index)


def test_data_that_cannot_be_read_costs_no_step(tmp_path: Path, straight: Path) -> None:
    ids = small.Record()
    small.train(small.model(max_steps=6), tmp_path / "ids", small.video_data(), after=[ids])
    clips = Unreadable(10)
    clips.bad = next(int(name[2:]) for name in ids.ids[2] if name not in ids.ids[0] + ids.ids[1])
    with pytest.raises(OSError, match="stale file handle"):
        train(tmp_path / "run", train=clips)
    done = small.load(tmp_path / "run")["global_step"]
    assert done >= 1  # no checkpoint was due before step 4
    train(tmp_path / "run", seed=1)
    assert differences(tmp_path / "run", straight) == []
