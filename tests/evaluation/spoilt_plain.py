"""Spoilt clips of one plain object, for docs/spoilt_clips.md: `python -m tests.evaluation.spoilt_plain`, minutes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch

from data.worlds.load import load
from data.worlds.state import Clip
from data.worlds.world import World
from dit.evaluation.harness.table import markdown
from dit.evaluation.verdicts import Report
from dit.evaluation.world import MEASURES, Expectation, Reader
from dit.scores import SHARE, Measure
from tests.evaluation.spoilt_objects import COUNT, FEWER, SPOILT, Pixels, chosen, video

WORLDS = ("demo_world", "world_tiny")
OTHERWISE = ("another background", "what falls hovers")  # ways of spoiling that no plain world allows


def row(world: World, clips: Iterable[tuple[Clip, Pixels]]) -> dict[str, float]:
    """Measure -> mean, of videos, each held against the caption of a clip."""
    reader = Reader(**world.legend())  # type: ignore[arg-type]
    shown = [(Expectation(**world.expect(said.caption)), video(pixels)) for said, pixels in clips]  # type: ignore[arg-type]
    found = Report.of(reader.judge, [each for _, each in shown], [said for said, _ in shown], MEASURES)
    return {"clips": len(shown), **found.metrics()}


def rows(name: str) -> dict[str, dict[str, float]]:
    made = {}
    for split in ("train", "heldout"):
        shown = load(name, split=split)
        made[f"real, {split}"] = row(shown, ((each, each.pixels) for each in map(shown.clip, range(COUNT))))
    world = load(name)
    clips = [world.clip(index) for index in range(5 * FEWER)]
    others = zip(clips[1 : FEWER + 1], (each.pixels for each in clips), strict=False)
    made["caption of another clip"] = row(world, others)
    for kind in SPOILT:
        if taken := [] if kind in OTHERWISE else chosen(world, clips, kind, FEWER):
            made[kind] = row(world, taken)
    return made


def table(title: str, found: Mapping[str, Mapping[str, float]], measures: Mapping[str, Measure]) -> str:
    """Of rows that have `clips` and means of measures; a dash where nothing of the kind happens."""
    names = [name for name in measures if any(name in each for each in found.values())]
    is_share = {name: measures[name].unit == SHARE for name in names}
    units = ["%" if is_share[name] else measures[name].unit for name in names]
    heads = [title, "clips", *(f"{name.replace('_', ' ')} ({unit})" for name, unit in zip(names, units, strict=True))]

    def cell(name: str, value: float) -> str:
        return f"{100 * value:.3g}" if is_share[name] else f"{value:.4f}"

    return markdown(
        heads,
        [
            [row, f"{each['clips']}", *(cell(name, each[name]) if name in each else "-" for name in names)]
            for row, each in found.items()
        ],
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    for world_name in WORLDS:
        print(table(world_name, rows(world_name), MEASURES), end="\n\n", flush=True)
