"""A set of samples on disk: an MP4 and a JSON for each, and one contact sheet of them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from dit.media.sheet import contact_sheet
from dit.media.video import viewing_scale, write_video

SHEET_WIDTH = 2048  # pixels that the frames of one row may take
SHEET_FRAMES = 8


def write_samples(
    folder: Path,
    pixels: Tensor,  # (B, 3, F, H, W), float in [-1, 1] or uint8
    facts: Sequence[Mapping[str, Any]],  # how each was made: at least prompt, seed and fps
    sheet_clips: int | None = None,  # on the contact sheet, from the first on; None takes all
    columns: int = 2,
) -> list[Path]:
    """Writes the set into `folder` and returns its MP4s and then the sheet."""
    folder.mkdir(parents=True, exist_ok=True)
    videos = [write_sample(folder, clip, fact) for clip, fact in zip(pixels, facts, strict=True)]
    shown = len(facts) if sheet_clips is None else min(sheet_clips, len(facts))
    captions = [f"{fact['prompt']} (seed {fact['seed']})" for fact in facts[:shown]]
    frames = min(SHEET_FRAMES, pixels.shape[2])
    scale = max(1, SHEET_WIDTH // (min(columns, shown) * frames * pixels.shape[-1]))
    sheet = folder / "sheet.png"
    settings = {"settings": json.dumps([dict(fact) for fact in facts[:shown]])}
    contact_sheet(sheet, list(pixels[:shown]), captions, columns, frames, scale, settings)
    return [*videos, sheet]


def write_sample(folder: Path, clip: Tensor, fact: Mapping[str, Any]) -> Path:
    """One MP4, enlarged so that it can be looked at, with its facts inside and in a JSON beside it."""
    path = folder / f"{file_name(fact['prompt'], fact['seed'])}.mp4"
    scale = viewing_scale(*clip.shape[-2:])
    write_video(path, clip, fact["fps"], {key: str(value) for key, value in fact.items()}, scale)
    path.with_suffix(".json").write_text(json.dumps(fact, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def file_name(prompt: str | int, seed: int) -> str:
    """A readable name without an ending: the prompt's first words and the seed."""
    words = re.sub(r"[^a-z0-9]+", "-", str(prompt).lower()).strip("-")[:48].strip("-")
    return f"{words or 'no-prompt'}-seed-{seed}"
