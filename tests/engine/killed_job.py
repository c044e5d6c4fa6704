"""`train.py` with a callback that kills the process: `KILL_AT` is the micro-batch (counted from this process's start),
`KILL_WITH` the signal. Run by test_resume.py."""

from __future__ import annotations

import os
import signal
from typing import Any

from lightning import Callback

import train
from dit.engine import run


class Kill(Callback):
    def __init__(self) -> None:
        self.left = int(os.environ.get("KILL_AT", "-1"))

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.left -= 1
        if self.left == -1:
            os.kill(os.getpid(), getattr(signal, f"SIG{os.environ['KILL_WITH']}"))


def main() -> None:
    callbacks = run.callbacks
    run.callbacks = lambda parts: [*callbacks(parts), *([Kill()] if "KILL_AT" in os.environ else [])]
    train.main()


if __name__ == "__main__":
    main()
