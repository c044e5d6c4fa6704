"""A run as a folder to pass on: its weights in one file that is a checkpoint (`dit/checkpoint/exported.py`), its
config, metrics and data card as they lie in the run, and a card (README.md) that says what it is.

Commands take such a folder in the place of a run.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml  # type: ignore[import-untyped]
from torch import Tensor

from dit import runfiles
from dit.checkpoint import entries, exported
from dit.folders import sha256
from dit.interop import files

CARD = "README.md"
COPIED = (runfiles.METRICS, "data_card.json", "data_card.md")  # from the run, where they are there
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def write(
    out: Path,
    weights: Mapping[str, Tensor],
    config: Mapping[str, Any],
    label: str,
    run: Path | None,
    *,
    step: int | None,
    classes: list[str] | None,
    data_cards: list[str],
    dtype: str,
) -> None:
    """Writes the folder, whole or not at all.

    Args:
        weights: of all parts, averaged where an average is passed on.
        config: resolved, of the training. label: which weights they are, `ema:narrow` or `raw`.
        run: the directory of the run; None: the checkpoint lies alone.
        dtype: of the floats, one of `DTYPES`.

    Raises as `files.whole`, and ValueError for weights that `dtype` cannot hold.
    """
    said = {
        entries.ONLY.name: label,
        entries.STEP.name: step,
        entries.CLASSES.name: classes,
        entries.DATA_CARDS.name: data_cards,
        entries.CONFIG.name: dict(config),
    }
    with files.whole(out) as part:
        file = part / exported.FILE
        exported.write(file, weights, said, DTYPES[dtype])
        text = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
        (part / runfiles.CONFIG).write_text(text, encoding="utf-8")
        for name in COPIED:
            if run is not None and (run / name).is_file():
                shutil.copyfile(run / name, part / name)
        (part / CARD).write_text(_card(out, part, weights, config, label, step, dtype), encoding="utf-8")


def _card(
    out: Path,
    part: Path,
    weights: Mapping[str, Tensor],
    config: Mapping[str, Any],
    label: str,
    step: int | None,
    dtype: str,
) -> str:
    file = part / exported.FILE
    counts: Counter[str] = Counter()
    for key, value in weights.items():
        counts[key.split(".")[0]] += value.numel()
    of_parts = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    lines = [
        f"# {out.name}",
        "",
        f"Weights `{label}` of the run `{config.get('name')}` after {step} steps, in {dtype}.",
        "",
        "```",
        f'python sample.py ckpt={out} prompt="..."',
        f"python scripts/evaluate.py ckpt={out} suite=all",
        "```",
        "",
        "| | |",
        "| --- | --- |",
        f"| `{exported.FILE}` | {file.stat().st_size:,} bytes, SHA-256 `{sha256(file)}` |",
        f"| values | {sum(counts.values()):,}: {of_parts} |",
        *_of_data(part, config),
        *_of_training(part / runfiles.METRICS, step),
    ]
    if needs := _elsewhere(config):
        lines += ["", f"It needs what is not in this folder: {', '.join(needs)}. `folders.` names other places."]
    return "\n".join(lines) + "\n"


def _of_data(part: Path, config: Mapping[str, Any]) -> list[str]:
    data = config.get("data")
    if not isinstance(data, Mapping):
        return []
    frames, height, width, fps = (data.get(name) for name in ("num_frames", "height", "width", "fps"))
    card = part / "data_card.json"
    mark = f"; `{card.name}`, SHA-256 `{sha256(card)}`" if card.is_file() else ""
    return [f"| clips | {frames} frames of {height}x{width} at {fps} a second{mark} |"]


def _of_training(metrics: Path, step: int | None) -> list[str]:
    """What training cost, by the last row of the run's metrics up to the weights' step."""
    rows = runfiles.read_rows(metrics.read_bytes()).rows if metrics.is_file() else []
    rows = [row for row in rows if step is None or row["step"] <= step]
    if not rows:
        return []
    last, said = rows[-1], []
    if seconds := last.get("speed/seconds"):
        said.append(f"{float(seconds) / 60:.1f} minutes by the clock until step {last['step']}")
    if clips := last.get("seen/clips"):
        said.append(f"{float(clips):,.0f} clips")
    if flops := last.get("seen/flops"):
        said.append(f"{float(flops):.3g} FLOPs of the network")
    return [f"| training | {', '.join(said)} (`{metrics.name}`) |"] if said else []


def _elsewhere(config: Mapping[str, Any]) -> list[str]:
    """Parts that are read from other places than the run, as `codec.ckpt=runs/vae`."""
    found = []
    for name in ("codec", "text"):
        node = config.get(name)
        places = node.items() if isinstance(node, Mapping) else ()
        found += [f"`{name}.{key}={value}`" for key, value in places if key in ("ckpt", "folder") and value is not None]
    return found
