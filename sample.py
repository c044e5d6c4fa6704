"""Samples videos from a checkpoint: `python sample.py ckpt=runs/mine prompt="a red circle moves right" seed=3`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor

from dit import entry
from dit.media.sheet import contact_sheet
from dit.media.video import viewing_scale, write_video
from dit.sampling.pipeline import Pipeline, Samples
from dit.sampling.request import file_name, output_folder, prompts_and_seeds, records
from dit.sampling.runtime import progress_bar

CHECKPOINTS_OWN = ("schedule", "solver", "guidance", "num_steps", "num_frames", "height", "width", "fps")
SETTINGS = ("weights", "device", "batch_size", "context_level", "precision", "offload_text", "trusted")


@entry.main("sample")
def main(config: DictConfig) -> None:
    ask = instantiate(config, _convert_="all")
    prompts, seeds = prompts_and_seeds(ask["prompt"], ask["prompt_file"], ask["num_samples"], ask["seed"])
    folder = output_folder(ask["out"], ask["ckpt"])
    pipeline = Pipeline.from_checkpoint(ask["ckpt"], **{key: ask[key] for key in (*SETTINGS, *CHECKPOINTS_OWN)})
    with progress_bar("sampling") as progress:
        samples = pipeline(prompts, seeds, task=ask["task"], negative_prompt=ask["negative_prompt"], progress=progress)
    print("\n".join(str(path) for path in write(samples, folder, str(ask["ckpt"]))))


def write(samples: Samples, folder: Path, checkpoint: str) -> list[Path]:
    """An MP4 and a JSON for each sample and one contact sheet; returns what can be looked at."""
    folder.mkdir(parents=True, exist_ok=True)
    scale = viewing_scale(*samples.pixels.shape[3:])
    facts = records(samples.info, checkpoint)
    videos = [write_one(folder, clip, fact, scale) for clip, fact in zip(samples.pixels, facts, strict=True)]
    captions = [f"{fact['prompt']} (seed {fact['seed']})" for fact in facts]
    sheet = folder / "sheet.png"
    contact_sheet(sheet, list(samples.pixels), captions, 2, 8, scale, {"settings": json.dumps(facts)})
    return [*videos, sheet]


def write_one(folder: Path, clip: Tensor, fact: dict[str, Any], scale: int) -> Path:
    path = folder / f"{file_name(fact['prompt'], fact['seed'])}.mp4"
    write_video(path, clip, fact["fps"], {key: str(value) for key, value in fact.items()}, scale)
    path.with_suffix(".json").write_text(json.dumps(fact, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


if __name__ == "__main__":
    main()
