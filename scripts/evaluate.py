"""Measures checkpoints by suites of measures: `python scripts/evaluate.py ckpt=runs/demo`.

    python scripts/evaluate.py ckpt=runs/demo                                # suite=world: held-out prompts
    python scripts/evaluate.py ckpt=[runs/a,runs/b] suite=[world,surprise]   # several; or a sweep's folder
    python scripts/evaluate.py ckpt=runs/demo suite=all weights=ema@0.10     # with an average of another width

Each suite writes `report.json` beside what it makes (in the run directory, or `out=`), and the command a summary of
all, `evaluation.json` and `evaluation.md`. Killed and given again it goes on, with the same result. What a checkpoint
cannot do is one line, and the rest is done; the exit code is then 1. docs/evaluation.md describes suites and files.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dit import entry
from dit.config.build import build
from dit.evaluation.harness.config import Config
from dit.evaluation.harness.run import evaluate
from dit.sampling.ranks import together


@entry.main("evaluate")
def main(config: Config) -> None:
    with together() as ranks:
        outcome = evaluate(build(config), ranks, entry.explain, print, entry.note)
    if outcome.written:
        print("\nsummary:", *outcome.written)
    if outcome.failed:
        raise entry.Incomplete(f"{len(outcome.failed)} not measured, {outcome.measured} measured", outcome.measured > 0)


if __name__ == "__main__":
    main()
