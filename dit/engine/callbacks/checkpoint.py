"""Writes checkpoints, each whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from lightning.fabric.plugins import TorchCheckpointIO

from dit.checkpoint.files import FOLDER, LAST, numbered, step_name
from dit.engine import finite
from dit.engine.interrupts import writing
from dit.engine.module import VideoDiffusion


class Checkpoints:
    """Saves `step-00000200.ckpt` and points `last.ckpt` at it. `AfterStep` says when.

    Args:
        every: optimizer steps between checkpoints.
        keep: how many numbered checkpoints stay, the newest; None keeps all.
    """

    def __init__(self, every: int, keep: int | None) -> None:
        if not isinstance(every, int) or every < 1:
            raise ValueError(f"callbacks.checkpoints.every={every} must be a whole number of steps, at least 1")
        if keep is not None and (not isinstance(keep, int) or keep < 1):
            raise ValueError(f"callbacks.checkpoints.keep={keep} must be a whole number, at least 1, or null for all")
        self.every = every
        self.keep = keep
        self.saved_step = -1
        self.failed = False  # the last one could not be written

    def start(self, trainer: Trainer) -> None:
        """Begins at step 0 or behind a checkpoint. Removes files that a killed process has left unfinished."""
        self.saved_step = trainer.global_step
        if trainer.is_global_zero:
            for unfinished in _folder(trainer).glob("*.part"):
                unfinished.unlink()

    def is_due(self, step: int) -> bool:
        return step % self.every == 0

    def save(self, trainer: Trainer, step: int, note: Callable[[Path], None] = lambda run: None) -> None:
        """Writes beside the target first: a run killed while saving leaves the older checkpoints as they were.

        `note(run)` is called on the first rank before the checkpoint is to be seen. Raises ValueError when the file
        cannot be written, as on a full disk, and NonFinite for weights or moments that are not finite: they never
        become the last checkpoint.
        """
        self.failed = True
        module = trainer.lightning_module
        assert isinstance(module, VideoDiffusion)
        spoilt = {**finite.weights(module), "the optimizer's moments": finite.moments(trainer.optimizers)}
        finite.check(spoilt, step, module.device)
        folder = _folder(trainer)
        target = folder / step_name(step)
        part = target.with_suffix(".part")
        with writing():
            try:
                if trainer.is_global_zero:
                    folder.mkdir(parents=True, exist_ok=True)
                trainer.save_checkpoint(part)  # all ranks: shards are assembled
                if trainer.is_global_zero:
                    note(Path(trainer.default_root_dir))
                    # In this order a run that is killed in between has lost nothing: it goes on from the last one.
                    point(folder / LAST, part)
                    os.replace(part, target)
            except OSError as error:
                raise _unwritable(target, part, error) from None
            self.failed = False
            self.saved_step = step
            if trainer.is_global_zero and self.keep is not None:
                for _, old in numbered(folder)[: -self.keep]:
                    old.unlink(missing_ok=True)
        trainer.strategy.barrier("checkpoint")


class Files(TorchCheckpointIO):
    """Writes a checkpoint straight to its file, and maps the file to read it. Lightning's own plugin takes the whole
    through memory and through the system's folder for temporary files, and each rank reads it into its own memory.

    The map is private: what a run changes in it is not in the file. A file that is removed or replaced meanwhile stays
    readable, and its room on the disk taken, until nothing is mapped from it. Nothing here overwrites one in place.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        write(checkpoint, Path(path))

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = None) -> dict[str, Any]:
        return torch.load(path, map_location="cpu", weights_only=weights_only, mmap=True)


def write_whole(content: Any, target: Path) -> None:
    """Writes a file of the run whole or not at all. Raises ValueError when it cannot be written."""
    part = target.with_suffix(".part")
    with writing():
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            write(content, part)
            os.replace(part, target)
        except OSError as error:
            raise _unwritable(target, part, error) from None


def write(content: Any, path: Path) -> None:
    """Writes a file, and sees it to the disk. OSError when it cannot."""
    with path.open("wb") as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:  # torch's writer raises one while it handles the file's
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise
        file.flush()
        os.fsync(file.fileno())


def _unwritable(target: Path, part: Path, error: OSError) -> ValueError:
    """What to raise when a file of the run cannot be written. What there is of it, `part`, is removed."""
    with suppress(OSError):
        part.unlink()
    reason = error.strerror or str(error)
    return ValueError(f"{target} cannot be written: {reason}. See to that and give the same command again")


def _folder(trainer: Trainer) -> Path:
    return Path(trainer.default_root_dir) / FOLDER


def point(last: Path, target: Path) -> None:
    """`last` becomes another name of `target` (a hard link; a copy where the file system has none)."""
    part = last.with_suffix(".part")
    part.unlink(missing_ok=True)
    try:
        os.link(target, part)
    except OSError:
        shutil.copyfile(target, part)
    os.replace(part, last)
