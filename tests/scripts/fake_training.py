"""A stand-in for train.py and scripts/evaluate.py that trains nothing and starts at once, and ablations of it.

`python -m tests.scripts.fake_training FOLDER AT_ONCE` does what is left of `plan()` in the present folder, as
scripts/ablate.py does with real runs. FOLDER is the root with the stand-ins.
"""

from __future__ import annotations

import sys
from pathlib import Path

from dit.scores import Measure
from scripts.ablation.local import Local, Stopped
from scripts.ablation.plan import Plan, PlannedVariant

STEPS = 4
# It goes on where it was, writes a row a step, stands still at step 2 while `wait-LABEL` is there, and fails at step 3
# where `fail-LABEL` is there. Told to stop, it saves, as training does.
TRAIN = """
import os, signal, sys, time
from pathlib import Path

told = dict(each.split("=", 1) for each in sys.argv[1:] if "=" in each)
run, label, steps = Path("runs", told["name"]), told["name"].split("/")[-1], int(told["trainer.max_steps"])
(run / "checkpoints").mkdir(parents=True, exist_ok=True)
table, seed = run / "metrics.csv", int(told["seed"])
done = max([int(file.stem[5:]) for file in (run / "checkpoints").glob("step-*.ckpt")], default=0)
with open(run / "starts", "a") as file:
    print(done, os.environ.get("OMP_NUM_THREADS", "free"), file=file)
stopped = []
signal.signal(signal.SIGTERM, lambda number, frame: stopped.append(number))
config = f"name: {told['name']}\\nseed: {seed}\\nnet: {{width: {told.get('net.width', 8)}}}\\n"
(run / "config.yaml").write_text(config)
head = "step,val/x0_error,seen/tokens,seen/flops,speed/seconds"
rows = table.read_text().splitlines()[: done + 1] if table.exists() else [head]
for step in range(done + 1, steps + 1):
    better = 0.05 * (told.get("net.width") == "16") * step
    error = 1 / step + 0.01 * seed - better + 0.001 * seed * better
    rows.append(f"{step},{error},{10.0 * step},{100.0 * step},{float(step)}")
    table.write_text("\\n".join(rows) + "\\n")
    (run / "checkpoints" / f"step-{step:08d}.ckpt").touch()
    if step == 2 and Path(f"wait-{label}").exists():
        Path(f"waits-{label}").write_text(str(os.getpid()))
        while Path(f"wait-{label}").exists() and not stopped:
            time.sleep(0.02)
    if stopped:
        sys.exit(143)
    if step == 3 and Path(f"fail-{label}").exists():
        print("Traceback (most recent call last):\\n  somewhere")
        print("error: it failed at step 3", file=sys.stderr)
        sys.exit(2)
"""
EVALUATE = """
import json, sys
from pathlib import Path

told = dict(each.split("=", 1) for each in sys.argv[1:] if "=" in each)
folder = Path(told["ckpt"], "samples", "001")
folder.mkdir(parents=True)
step = max(int(file.stem[5:]) for file in Path(told["ckpt"], "checkpoints").glob("step-*.ckpt"))
share = 0.5 + 0.25 * ("wide" in told["ckpt"])
about = {"shape": {"title": "shape", "unit": "share", "larger_is_better": True}}
metrics = {"samples (ema)": {"shape": share}}
content = {"suite": "world", "checkpoint": {"step": step}, "metrics": metrics, "measures": about}
(folder / "report.json").write_text(json.dumps(content))
"""


def make_root(folder: Path) -> Path:
    """The stand-ins, where real commands lie in the project."""
    (folder / "scripts").mkdir(parents=True)
    (folder / "train.py").write_text(TRAIN)
    (folder / "scripts" / "evaluate.py").write_text(EVALUATE)
    return folder


def plan(seeds: int = 2, evaluate: bool = False, launcher: str = "local") -> Plan:
    """Two variants of 4 steps of 100 FLOPs; `wide` is better."""
    given = (f"trainer.max_steps={STEPS}",)
    return Plan(
        name="compared",
        command="python scripts/ablate.py ...",
        shared=("experiment=demo",),
        variants=(
            PlannedVariant("base", (), given, STEPS, 10.0, 100.0),
            PlannedVariant("wide", ("net.width=16",), given, STEPS, 10.0, 100.0),
        ),
        seeds=tuple(range(seeds)),
        baseline="base",
        budget_in="flops",
        each=400.0,
        metrics={"val/x0_error": Measure("val/x0_error", "", False)},
        evaluate=() if evaluate else None,
        all_measures=evaluate,
        devices=0,
        gpus=0,
        versions={"commit": "0123456789abcdef", "python": "3", "packages": {"torch": "2"}, "device": "any"},
        launcher=launcher,
    )


def main(root: str, at_once: str) -> int:
    local = Local(int(at_once), Path(root), lambda line: print(line, flush=True))
    try:
        return 1 if local.run(plan().cells) else 0
    except Stopped as stopped:
        return 128 + stopped.number


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
