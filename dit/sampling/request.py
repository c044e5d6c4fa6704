"""What a command line asks for: prompts, seeds, and where the samples go."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dit.sampling.checkpoint import find
from dit.sampling.read import missing


def prompts_and_seeds(
    prompt: str | int | None, prompt_file: str | None, num_samples: int, seed: int
) -> tuple[list[str | int], list[int]]:
    """`num_samples` samples for each prompt, under the seeds `seed`, `seed + 1`, ...

    Args:
        prompt: one prompt; None without a prompt file is the empty one.
        prompt_file: a text file with one prompt a line; empty lines are left out.

    Raises:
        FileNotFoundError: no such file. ValueError: both are given, no prompt in the file, no samples.
    """
    if num_samples < 1:
        raise ValueError(f"num_samples={num_samples} must be at least 1")
    prompts: list[str | int] = ["" if prompt is None else prompt]
    if prompt_file is not None:
        file = Path(prompt_file)
        if prompt is not None:
            raise ValueError(f"prompt={prompt!r} and prompt_file={file} are both given; leave one out")
        if not file.is_file():
            raise missing(file, "prompt file")
        prompts = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        if not prompts:
            raise ValueError(f"prompt file {file} holds no prompt; write one a line")
    repeated = [each for each in prompts for _ in range(num_samples)]
    return repeated, list(range(seed, seed + len(repeated)))


def output_folder(out: str | None, run_or_file: str) -> Path:
    """`out`, or the next unused `samples/NNN` in the checkpoint's run directory."""
    if out is not None:
        return Path(out)
    file = find(run_or_file)
    samples = (file.parent.parent if file.parent.name == "checkpoints" else file.parent) / "samples"
    taken = [int(folder.name) for folder in samples.glob("*") if folder.name.isdecimal()]
    return samples / f"{max(taken, default=0) + 1:03d}"


def records(info: Mapping[str, Any], checkpoint: str) -> list[dict[str, Any]]:
    """How each sample was made, from `Samples.info` of them all."""
    common = {key: value for key, value in info.items() if key not in ("prompts", "seeds")}
    pairs = zip(info["prompts"], info["seeds"], strict=True)
    return [{"prompt": prompt, "seed": seed, "checkpoint": checkpoint, **common} for prompt, seed in pairs]
