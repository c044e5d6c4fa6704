"""The names of a run's checkpoints: `checkpoints/step-00000200.ckpt`, `last.ckpt`, and `frozen.pt` beside them."""

from __future__ import annotations

from pathlib import Path

FOLDER = "checkpoints"  # in the run directory
LAST = "last.ckpt"
STEP = "step-"  # in front of a number, in names of files
FROZEN = "frozen.pt"  # weights that stand still, once for all checkpoints of the run


def step_name(step: int) -> str:
    """The file of a step's checkpoint."""
    return f"{STEP}{step:08d}.ckpt"


def numbered(folder: Path) -> list[tuple[int, Path]]:
    """(step, file) of the checkpoints in a folder, the newest last; whatever else has such a name is left out."""
    found = [(file.stem.removeprefix(STEP), file) for file in folder.glob(f"{STEP}*.ckpt") if file.is_file()]
    return sorted((int(digits), file) for digits, file in found if digits.isascii() and digits.isdigit())


def run_of(file: Path) -> Path:
    """The run directory that a checkpoint lies in; the file itself where it lies in none."""
    return file.parent.parent if file.parent.name == FOLDER else file
