"""Samples held-out prompts from a checkpoint and measures them: `python scripts/evaluate.py ckpt=runs/demo`.

Colour, shape, size, direction, speed and permanence are read from pixels alone, by the same reader for generated clips
and for real ones of the same prompts; the real ones' row is the ceiling. Writes an MP4 for each prompt, one contact
sheet and `report.json`, and prints the table.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from data.worlds.world import World
from dit import entry
from dit.config.build import build
from dit.evaluation.world import Expectation, Reader, Report, table
from dit.media.samples import write_samples
from dit.sampling.checkpoint import Checkpoint
from dit.sampling.pipeline import Pipeline
from dit.sampling.request import output_folder, records
from dit.sampling.runtime import progress_bar


def heldout_world(checkpoint: Checkpoint) -> World:
    """The world that the run was validated on. ValueError when it is none, or when it shows what training showed."""
    world = checkpoint.part("data", "val")
    if not isinstance(world, World):
        raise ValueError(
            f"{checkpoint.file} was validated on {type(world).__name__}; only worlds can be measured exactly"
        )
    train = checkpoint.part("data", "train")
    seen = {tuple(spec.objects) for spec in train.specs()} & {tuple(spec.objects) for spec in world.specs()}
    if seen:
        raise ValueError(f"{len(seen)} of the prompts were trained on; validate with data.val.split=heldout")
    return world


def expectation(world: World, prompt: str) -> Expectation:
    return Expectation(**world.expect(prompt))  # type: ignore[arg-type]


@entry.main("evaluate")
def main(config: dict[str, Any]) -> None:
    ask = build(config)
    folder = output_folder(ask["out"], ask["ckpt"])
    world = heldout_world(Checkpoint.load(ask["ckpt"]))
    prompts = world.prompts(ask["num_prompts"])
    seeds = [ask["seed"] + index for index in range(len(prompts))]
    expected = [expectation(world, prompt) for prompt in prompts]
    reader = Reader(**world.legend())  # type: ignore[arg-type]

    kept = ("weights", "device", "batch_size", "schedule", "solver", "guidance", "num_steps")
    pipeline = Pipeline.from_checkpoint(ask["ckpt"], **{key: ask[key] for key in kept})
    with progress_bar("sampling") as progress:
        samples = pipeline(prompts, seeds, progress=progress)

    films = [world.film(prompt, seed).pixels for prompt, seed in zip(prompts, seeds, strict=True)]
    real = [torch.from_numpy(film).permute(3, 0, 1, 2) for film in films]
    reports = {
        f"samples ({pipeline.weights})": reader.evaluate(list(samples.pixels), expected),
        "real clips (ceiling)": reader.evaluate(real, expected),
    }
    generated = next(iter(reports.values()))
    facts = records(samples.info, str(ask["ckpt"]))
    paths = write_samples(folder, samples.pixels, facts, sheet_clips=ask["sheet_clips"])
    (folder / "report.json").write_text(
        json.dumps(report(reports, generated, prompts), indent=2) + "\n", encoding="utf-8"
    )

    for verdict, path in zip(generated.verdicts, paths, strict=False):
        print(path, "" if verdict.all else f"  wrong: {'; '.join(verdict.reasons)}")
    print(f"\n{table(reports)}\n\ncontact sheet: {paths[-1]}")


def report(reports: dict[str, Report], generated: Report, prompts: list[str]) -> dict[str, Any]:
    """What the table says and what was wrong with each prompt, as plain values."""
    wrong = {
        f"{index}: {prompt}": list(verdict.reasons)
        for index, (prompt, verdict) in enumerate(zip(prompts, generated.verdicts, strict=True))
        if not verdict.all
    }
    return {"metrics": {name: each.metrics() for name, each in reports.items()}, "wrong": wrong}


if __name__ == "__main__":
    main()
