"""A set of samples on disk: an MP4 and a JSON for each, written as they come, and one contact sheet of the first."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from torch import Tensor

from data.on_disk import on_disk
from dit.media.files import atomic
from dit.media.provenance import versions
from dit.media.sheet import contact_sheet
from dit.media.video import viewing_scale, write_video

SHEET_WIDTH = 2048  # pixels that the frames of one row may take
SHEET_FRAMES = 8
BATCH = "batch"  # the fact that grows with the company of a sample: left out of the sheet


class SampleSet:
    """Samples in a folder, in an order known from the start. Several processes may write parts of one set.

    folder: there already. facts: how each sample is made: plain values, at least prompt, seed and fps. Each MP4 holds
    them, and a JSON beside it; that is written last, so a sample whose JSON is there is whole.
    """

    def __init__(self, folder: Path, facts: Sequence[Mapping[str, Any]]) -> None:
        self.folder = folder
        self.facts = [{**fact, "versions": versions()} for fact in facts]
        names, seen = [], Counter[str]()
        for fact in facts:
            name = file_name(fact["prompt"], fact["seed"])
            seen[name] += 1
            names.append(name if seen[name] == 1 else f"{name}-{seen[name]}")
        self.videos = [folder / f"{name}.mp4" for name in names]

    def has(self, index: int) -> bool:
        """Whether a sample is there, whole."""
        return self.videos[index].is_file() and self.videos[index].with_suffix(".json").is_file()

    def write(self, index: int, clip: Tensor) -> Path:
        """One sample (3, F, H, W), float in [-1, 1] or uint8; enlarged so that it can be looked at."""
        path, fact = self.videos[index], self.facts[index]
        words = {key: value if isinstance(value, str) else json.dumps(value) for key, value in fact.items()}
        write_video(path, clip, fact["fps"], words, viewing_scale(*clip.shape[-2:]))
        with atomic(path.with_suffix(".json")) as part:
            part.write_text(json.dumps(fact, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        return path

    def sheet(self, most: int, columns: int = 2) -> Path:
        """The contact sheet of the first `most` samples, read back from their files; it says how many it leaves out."""
        shown = min(most, len(self.videos))
        clips = [read_back(path) for path in self.videos[:shown]]
        captions = [f"{fact['prompt']} (seed {fact['seed']})" for fact in self.facts[:shown]]
        frames = min(SHEET_FRAMES, clips[0].shape[1])
        scale = max(1, SHEET_WIDTH // (min(columns, shown) * frames * clips[0].shape[-1]))
        facts = [{key: value for key, value in fact.items() if key != BATCH} for fact in self.facts[:shown]]
        left_out = len(self.videos) - shown
        title = f"the first {shown} of {len(self.videos)} samples; {left_out} are left out" if left_out else ""
        path = self.folder / "sheet.png"
        contact_sheet(path, clips, captions, columns, frames, scale, {"settings": json.dumps(facts)}, title)
        return path


def read_back(path: Path) -> Tensor:
    """The frames of an MP4 that `SampleSet.write` made, uint8 (3, F, H, W), at the size that the sample had."""
    fact = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    with av.open(on_disk(path)) as container:
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    scale = viewing_scale(fact["height"], fact["width"])
    rows, columns = (slice(scale // 2, size * scale, scale) for size in (fact["height"], fact["width"]))
    return torch.from_numpy(np.ascontiguousarray(frames[:, rows, columns].transpose(3, 0, 1, 2)))


def file_name(prompt: str | int, seed: int) -> str:
    """A readable name without an ending: the prompt's first words and the seed."""
    words = re.sub(r"[^a-z0-9]+", "-", str(prompt).lower()).strip("-")[:48].strip("-")
    return f"{words or 'no-prompt'}-seed-{seed}"
