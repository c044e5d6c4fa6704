"""Samples held-out prompts from a checkpoint and measures them: `python scripts/evaluate.py ckpt=runs/demo`.

Colour, shape, size, direction, speed, permanence and outlines are read from pixels alone, by the same reader for
generated clips and for real ones of the same prompts; the real ones' row is the ceiling. A network of latents has one
row more, real clips through its autoencoder: what is wrong there, it cannot do better. Writes an MP4 for each prompt,
one contact sheet and `report.json` (checkpoint, seeds, settings, each clip's values), and prints the table.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from math import isfinite
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor

from data.batch import to_float
from data.worlds.world import World
from dit import entry, runfiles
from dit.codec.base import Codec
from dit.codec.pixel import PixelCodec
from dit.config.build import build
from dit.evaluation.world import ERRORS, MEASURES, Expectation, Reader, Report, table
from dit.media.samples import SampleSet
from dit.sampling.checkpoint import Checkpoint
from dit.sampling.pipeline import Pipeline
from dit.sampling.ranks import Ranks
from dit.sampling.request import Request, take_folder
from dit.sampling.runtime import progress_bar
from dit.sampling.session import Session

WORLD = f"{World.__module__}.{World.__qualname__}"
OWN = ("prompt", "negative_prompt", "label", "batch", "seed", "checkpoint")  # of a sample, not of all of them


def heldout_world(checkpoint: Checkpoint, trusted: Sequence[str] = ()) -> World:
    """The world that the run was validated on. ValueError when it is none, or when it shows what training showed."""
    for split in ("val", "train"):
        node = checkpoint.value("data").get(split)
        target = str(node.get("_target_")) if isinstance(node, dict) else "nothing"
        if target != WORLD and not target.startswith(tuple(f"{package}." for package in trusted)):
            did = "validated" if split == "val" else "trained"
            raise ValueError(f"{checkpoint.file} was {did} on {target}; only worlds can be measured exactly")
    world, train = (checkpoint.part("data", split, trusted=trusted) for split in ("val", "train"))
    if not (isinstance(world, World) and isinstance(train, World)):
        kinds = f"{type(train).__name__} and {type(world).__name__}"
        raise ValueError(f"{checkpoint.file} was made with {kinds}; only worlds can be measured exactly")
    seen = {tuple(spec.objects) for spec in train.specs()} & {tuple(spec.objects) for spec in world.specs()}
    if seen:
        raise ValueError(f"{len(seen)} of the prompts were trained on; validate with data.val.split=heldout")
    return world


def expectation(world: World, prompt: str) -> Expectation:
    return Expectation(**world.expect(prompt))  # type: ignore[arg-type]


@entry.main("evaluate")
def main(config: dict[str, Any]) -> None:
    ask = build(config)
    checkpoint = Checkpoint.load(ask["ckpt"])
    world = heldout_world(checkpoint, ask["trusted"])
    prompts = world.prompts(ask["num_prompts"])
    seeds = [ask["seed"] + index for index in range(len(prompts))]
    expected = [expectation(world, prompt) for prompt in prompts]
    reader = Reader(**world.legend())  # type: ignore[arg-type]

    kept = ("weights", "device", "batch_size", "schedule", "solver", "guidance", "num_steps", "trusted")
    pipeline = Pipeline.from_checkpoint(ask["ckpt"], **{key: ask[key] for key in kept})
    job = pipeline.prepare([Request(prompt, "", seed) for prompt, seed in zip(prompts, seeds, strict=True)])
    todo = Session(pipeline, job, pipeline.facts(job))
    folder = take_folder(ask["out"], ask["ckpt"], todo.facts)
    samples = SampleSet(folder, todo.facts)
    verdicts = []
    with progress_bar("sampling") as progress:
        for index, clip in todo.clips(lambda _: False, Ranks(0, 1), progress):
            samples.write(index, clip)
            verdicts.append(reader.judge(clip, expected[index]))
    generated = Report(tuple(verdicts))

    films = [world.film(prompt, seed).pixels for prompt, seed in zip(prompts, seeds, strict=True)]
    real = [torch.from_numpy(film).permute(3, 0, 1, 2) for film in films]
    reports = {
        f"samples ({pipeline.origin.weights})": generated,
        "real clips (ceiling)": reader.evaluate(real, expected),
    }
    if not isinstance(pipeline.codec, PixelCodec):
        coded = through(pipeline.codec, real, ask["batch_size"])
        reports["real clips, coded and decoded"] = reader.evaluate(coded, expected)
    sheet = samples.sheet(ask["sheet_clips"])
    made = {"file": str(checkpoint.file), "step": checkpoint.step, "weights": pipeline.origin.weights}
    shared = {key: value for key, value in samples.facts[0].items() if key not in OWN}
    settings = {"batch_size": ask["batch_size"], **shared}
    files = [path.name for path in samples.videos]
    asked = [{"prompt": prompt, "seed": seed} for prompt, seed in zip(prompts, seeds, strict=True)]
    content = {"checkpoint": made, "settings": settings, **report(reports, asked, files)}
    (folder / runfiles.MEASURES).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    for verdict, path in zip(generated.verdicts, samples.videos, strict=True):
        print(path, "" if verdict.all else f"  wrong: {'; '.join(verdict.reasons)}")
    print(f"\n{table(reports)}\n\ncontact sheet: {sheet}")


@torch.no_grad()
def through(codec: Codec, clips: Sequence[Tensor], batch_size: int) -> list[Tensor]:
    """Clips, uint8 (3, F, H, W) each, coded and decoded by a codec with weights, in [-1, 1]."""
    device = next(codec.parameters()).device
    batches = torch.stack(list(clips)).split(batch_size)
    return [clip.cpu() for batch in batches for clip in codec.decode(codec.encode(to_float(batch).to(device)))]


def report(reports: dict[str, Report], asked: list[dict[str, Any]], files: list[str]) -> dict[str, Any]:
    """What the table says, and each clip's values, as plain ones. The first report is of `files`, the others of real
    clips of the same prompts and seeds."""
    errors = {
        name: {error: finite(each.error(error)[1]) for error in ERRORS} for name, each in reports.items()
    }  # fmt: skip
    clips: dict[str, Any] = {}
    for name, each in reports.items():
        rows = [{**about, **asdict(verdict)} for about, verdict in zip(asked, each.verdicts, strict=True)]
        if not clips:
            rows = [{"file": file, **row} for file, row in zip(files, rows, strict=True)]
        clips[name] = rows
    return {
        "metrics": {name: each.metrics() for name, each in reports.items()},
        "intervals": {
            name: {measure: list(ends) for measure, ends in each.intervals().items()} for name, each in reports.items()
        },
        "standard_errors": errors,
        "measures": MEASURES,
        "clips": clips,
    }


def finite(value: float) -> float | None:
    """JSON has no NaN: the standard error of a single clip is null."""
    return value if isfinite(value) else None


if __name__ == "__main__":
    main()
