"""What a command line asks for: prompts, seeds, and where the samples go."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dit.sampling.checkpoint import find
from dit.sampling.prompt_file import read_prompt_file


@dataclass(frozen=True)
class Request:
    """One sample that is asked for."""

    prompt: str | int
    negative_prompt: str
    seed: int
    label: str | int | None = None  # a class, for networks that read one beside a text


def requests(
    prompt: str | int | None, prompt_file: str | None, negative_prompt: str, num_samples: int, seed: int
) -> list[Request]:
    """`num_samples` samples for each prompt, under the seeds `seed`, `seed + 1`, ...

    Args:
        prompt: one prompt; None without a prompt file is the empty one.
        prompt_file: prompts from a file (`prompt_file.py`). A seed that stands there is that of the prompt's first
            sample, and its others take the following ones; a negative prompt there goes before `negative_prompt`.

    Raises:
        FileNotFoundError: no such file. ValueError: both are given, no prompt in the file, no samples.
    """
    if num_samples < 1:
        raise ValueError(f"num_samples={num_samples} must be at least 1")
    if prompt_file is None:
        text = "" if prompt is None else prompt
        return [Request(text, negative_prompt, seed + i) for i in range(num_samples)]
    if prompt is not None:
        raise ValueError(f"prompt={prompt!r} and prompt_file={prompt_file} are both given; leave one out")
    made = []
    for number, line in enumerate(read_prompt_file(prompt_file)):
        first = seed + number * num_samples if line.seed is None else line.seed
        negative = negative_prompt if line.negative_prompt is None else line.negative_prompt
        made += [Request(line.prompt, negative, first + i) for i in range(num_samples)]
    return made


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
    own = {"prompts": "prompt", "negative_prompts": "negative_prompt", "seeds": "seed"}  # one value a sample
    common = {key: value for key, value in info.items() if key not in own}
    rows = zip(*(info[key] for key in own), strict=True)
    return [{**dict(zip(own.values(), row, strict=True)), "checkpoint": checkpoint, **common} for row in rows]
