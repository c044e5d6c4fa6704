"""Run directories as training and sampling leave them, made in a moment."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from dit.media.samples import SampleSet, file_name
from dit.media.video import write_video

STEPS = (10, 20, 30, 40)
PROMPTS = ("a red circle moves right", "a blue bar moves up")


def config(seed: int = 0, **changes: Any) -> dict[str, Any]:
    """A config with the parts that a report looks at; `net__width=64` changes `net.width`."""
    made: dict[str, Any] = {
        "name": "any",
        "seed": seed,
        "net": {"width": 32, "position": {"_target_": "dit.net.position.rope.RoPE3D", "theta": 1}},
        "data": {"train": {"seed": seed, "split": "train"}, "num_workers": seed},
        "optim": {"lr": 0.01},
        "trainer": {"max_steps": 40, "devices": 1},
        "preview": {"seed": 0, "prompts": list(PROMPTS)},
    }
    for key, value in changes.items():
        *groups, last = key.split("__")
        node = made
        for group in groups:
            node = node[group]
        node[last] = value
    return made


def make_run(
    folder: Path, values: Mapping[str, Sequence[float]] | None = None, steps: Sequence[int] = STEPS, **of_config: Any
) -> Path:
    """A run directory with a config and a table. values: column -> one value a step."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config(**of_config)))
    if values is not None:
        cost = {"seen/tokens": [100 * step for step in steps], "speed/seconds": [2 * step for step in steps]}
        columns = {**values, **cost}
        lines = [",".join(["step", *columns])]
        for place, step in enumerate(steps):
            lines.append(",".join([str(step), *(repr(float(column[place])) for column in columns.values())]))
        (folder / "metrics.csv").write_text("\n".join(lines) + "\n")
    return folder


def film(red: int, frames: int = 6, size: int = 32) -> torch.Tensor:
    """A clip of one colour that grows brighter from frame to frame, uint8 (3, F, H, W)."""
    clip = torch.full((3, frames, size, size), 40, dtype=torch.uint8)
    clip[0] = red
    clip[2] += 20 * torch.arange(frames, dtype=torch.uint8)[:, None, None]
    return clip


def make_previews(run: Path, step: int, red: int = 100, prompts: Sequence[str] = PROMPTS, **size: int) -> list[Path]:
    made = []
    for seed, prompt in enumerate(prompts):
        path = run / "samples" / f"step-{step:08d}" / f"{file_name(prompt, seed)}.mp4"
        words = {"prompt": prompt, "seed": str(seed), "step": str(step), "weights": "ema:narrow"}
        write_video(path, film(red + 10 * seed, **size), 8, words)
        made.append(path)
    return made


def make_measures(run: Path, shape: float = 0.5, job: str = "001", step: int = 40, **settings: Any) -> Path:
    """Samples with measures beside them, as `scripts/evaluate.py` writes them."""
    folder = run / "samples" / job
    folder.mkdir(parents=True)
    facts = [
        {"prompt": prompt, "seed": 100 + place, "fps": 8, "height": 32, "width": 32, "checkpoint": {"step": step}}
        for place, prompt in enumerate(PROMPTS)
    ]
    samples = SampleSet(folder, facts)
    for place in range(len(facts)):
        samples.write(place, film(200))
    clips = [
        {"file": path.name, "prompt": fact["prompt"], "seed": fact["seed"], "reasons": reasons}
        for path, fact, reasons in zip(samples.videos, facts, (["shape bar"], []), strict=True)
    ]
    content = {
        "checkpoint": {"file": "any", "step": step, "weights": "ema:narrow"},
        "settings": {"num_steps": 20, "device": "cpu", **settings},
        "metrics": {"samples (ema)": {"shape": shape, "speed_error": 0.25}, "real clips": {"shape": 1.0}},
        "intervals": {"samples (ema)": {"shape": [0.1, 0.9], "speed_error": [0.2, 0.3]}},
        "measures": {
            "shape": {"title": "shape", "unit": "share", "larger_is_better": True},
            "speed_error": {"title": "speed error", "unit": "px/frame", "larger_is_better": False},
        },
        "clips": {"samples (ema)": clips},
    }
    file = folder / "report.json"
    file.write_text(json.dumps(content))
    return file
