"""A set of clips that is made of nothing, in no time: for tests of how sets are made."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data.sets.base import ClipSet, Made, rng, split
from data.sets.make import make

COMMAND = "python scripts/make_dataset.py numbers"


class Numbers:
    """Clips of noise; a file holds the bytes of its frames."""

    name, fps, lossless, captions_beside, manifest = "numbers", 8.0, True, False, "manifest.jsonl"
    packages = ("numpy",)

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def settings(self) -> Mapping[str, Any]:
        return {"seed": self.seed}

    def clip(self, index: int) -> Made:
        frames = rng(self.seed, index).integers(0, 256, (2, 4, 4, 3), dtype=np.uint8)
        return Made(frames, f"clip {index}", {"split": split(index), "licence": "generated", "actions": [index, 1]})

    def about(self) -> str:
        return "# Numbers"


def write(file: Path, made: Made, clips: ClipSet) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(made.frames.tobytes())


def contents(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


if __name__ == "__main__":  # python -m tests.data.fake_set FOLDER COUNT: says each clip, and waits to be killed
    for there in make(Numbers(), Path(sys.argv[1]), int(sys.argv[2]), write, COMMAND):
        print(there, flush=True)
        if there == 5:
            sys.stdin.read()
