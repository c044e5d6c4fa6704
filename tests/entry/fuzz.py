"""Random overrides of every key: a command either works or answers in one line. Used by test_fuzz.py in a short form.

    python tests/entry/fuzz.py train 300 --seed 0      # of `train.py experiment=demo`, each in a process of its own
    python tests/entry/fuzz.py sample 100 --seed 0     # of `sample.py ckpt=...`, of a run that is made first

Prints a line for each override that ended in a traceback or did not end, and the counts.
"""

from __future__ import annotations

import argparse
import collections
import os
import random
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

VALUES = (
    *("null", "true", "false", "0", "-1", "1", "2", "3", "7", "64", "0.5", "3.7", "-0.5", "1e-30", "1e4", "1e20"),
    *("1000000007", "99999999999999999999999", "nan", "inf", "-inf", "x", "auto", "''", "' '", "tanh", "größer"),
    *("'größer, b'", "~", "${seed}", "${nothing}", "[]", "[null]", "[1]", "[[1]]", "[1,2]", "[1,4,4]", "[0,0,0]"),
    *(
        "[x,y]",
        "{}",
        "{a: 1}",
        "{f: 1, h: 1, w: 1}",
        "{_target_: dit.diffusion.path.Linear}",
        "{_target_: dit.nothing.Here}",
    ),
    *("a,b", "'", '"', "(", "=", "3 4", "\\", "a" * 300),
)
# A demo in which a step takes a moment; what is drawn comes behind it.
SMALL = (
    *("net.depth=2", "net.width=48", "net.heads=2", "text.depth=1", "data.batch_size=2", "data.val.num_clips=4"),
    *("data.val_batch_size=4", "sampling.num_steps=2", "preview.prompts=[a red circle moves right]"),
    *(
        "trainer.max_steps=2",
        "callbacks.validation.every=1",
        "callbacks.checkpoints.every=1",
        "callbacks.metrics.every=1",
    ),
    "callbacks.progress.seconds=0",
)


def overrides(config: dict[str, Any], choices: dict[str, list[str]], draw: random.Random) -> Iterator[str]:
    """Endless random overrides of a composed config, and of its groups (name -> options)."""
    keys = [key for key, _ in _paths(config)]
    while True:
        key, kind = draw.choice(keys), draw.random()
        if kind < 0.08:
            group = draw.choice(list(choices))
            yield f"{group}={draw.choice([*choices[group], 'null', 'nothing', '[null]'])}"
        elif kind < 0.13:
            yield f"~{key}"
        elif kind < 0.18:
            yield f"+{key}.more={draw.choice(VALUES)}"
        else:
            yield f"{key}={draw.choice(VALUES)}"


def _paths(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict):
        for name, value in node.items():
            yield f"{prefix}{name}", value
            yield from _paths(value, f"{prefix}{name}.")


def groups(names: dict[str, Any]) -> dict[str, list[str]]:
    """Options of the groups that a config was composed of, as Hydra's runtime names them."""
    found = {}
    for name in names:
        options = sorted(file.stem for file in (ROOT / "configs" / name.split("@")[0]).glob("*.yaml"))
        if options and not name.startswith("hydra/"):
            found[name] = options
    return found


def compose(command: str, *arguments: str) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """The config and the groups of a command."""
    import hydra
    from omegaconf import OmegaConf

    with hydra.initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        config = hydra.compose(command, list(arguments), return_hydra_config=True)
    chosen = OmegaConf.to_container(config.hydra.runtime.choices)
    plain: Any = OmegaConf.to_container(config, resolve=False)
    return {key: value for key, value in plain.items() if key != "hydra"}, groups(chosen)  # type: ignore[arg-type]


def judge(command: str, arguments: list[str], folder: Path, seconds: float) -> tuple[str, str]:
    """(what became of a command in a child process, the end of what it said)."""
    said = folder / "said"
    with said.open("w") as file:
        child = os.fork()
        if child == 0:
            _child(command, arguments, folder, file.fileno())
    status = _wait(child, time.monotonic() + seconds)
    text = said.read_text(errors="replace")
    lines = text.strip().splitlines()
    if status is None:
        return ("slow" if "step 1/" in text or "sampling" in text else "hang"), "\n".join(lines[-3:])
    if "Traceback (most recent call last)" in text or os.WIFSIGNALED(status):
        return "traceback", "\n".join(lines[-3:])
    code = os.waitstatus_to_exitcode(status)
    if code == 0:
        return "worked", ""
    errors = [line for line in lines if line.startswith("error: ")]
    return ("one line" if code == 2 and len(errors) == 1 else f"exit {code}"), "\n".join(errors or lines[-3:])


def _child(command: str, arguments: list[str], folder: Path, output: int) -> None:
    code = 1
    try:
        os.setpgid(0, 0)
        os.chdir(folder)
        os.dup2(output, 1)
        os.dup2(output, 2)
        resource.setrlimit(resource.RLIMIT_AS, (24 * 2**30, 24 * 2**30))
        sys.argv = [f"{command}.py", *arguments]
        sys.modules[command].main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _wait(child: int, until: float) -> int | None:
    """The child's status; None for one that had to be ended at `until`."""
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status
        time.sleep(0.05)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("command", choices=("train", "sample"))
    parser.add_argument("count", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=120, help="for one command")
    parser.add_argument("--all", action="store_true", help="print every override and what was said")
    parser.add_argument("--only", nargs="*", help="these overrides instead")
    asked = parser.parse_args()
    import torch

    import dit.evaluation.world  # noqa: F401
    import sample
    import train

    assert sample and train
    torch.set_num_threads(1)
    base = ["experiment=demo", *SMALL]
    with tempfile.TemporaryDirectory() as top:
        if asked.command == "sample":
            (made := Path(top) / "made").mkdir()
            outcome, said = judge("train", [*base, "name=run"], made, 600)
            assert outcome == "worked", said
            base = [f"ckpt={made / 'runs' / 'run'}", "num_steps=2", "prompt=a red circle moves right"]
        drawn = overrides(*compose(asked.command, *base[:1]), random.Random(asked.seed))
        counts: collections.Counter[str] = collections.Counter()
        for number in range(asked.count):
            override = asked.only[number] if asked.only else next(drawn)
            (folder := Path(top) / f"{number}").mkdir()
            began = time.monotonic()
            outcome, said = judge(asked.command, [*base, override], folder, asked.seconds)
            counts[outcome] += 1
            if asked.all or outcome not in ("worked", "one line"):
                print(f"{outcome:9} {time.monotonic() - began:5.1f} s  {override[:100]}\n    {said}", flush=True)
    print(dict(counts))


if __name__ == "__main__":
    main()
