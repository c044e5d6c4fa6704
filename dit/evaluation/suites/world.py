"""Samples of prompts that a run was never trained on, held against the truth of its world (`suite=world`).

Colour, shape, size, direction, speed, permanence and outlines are read from pixels alone, by the same reader for
generated clips and for real ones of the same prompts; the real ones' row is the ceiling. Clips of other prompts, frozen
frames and noise are the floors. A network of latents has one row more, real clips through its autoencoder: what is
wrong there, it cannot do better.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from data.batch import to_float
from dit.codec.pixel import PixelCodec
from dit.config.limits import Count, Seed
from dit.evaluation.harness.result import Result, scores_of
from dit.evaluation.harness.subject import Subject
from dit.evaluation.harness.work import Work
from dit.evaluation.suites.base import Suite
from dit.evaluation.suites.floors import floors
from dit.evaluation.suites.heldout import plain_prompts
from dit.evaluation.suites.of_world import heldout_world
from dit.evaluation.verdicts import Report
from dit.evaluation.world import MEASURES, Verdict


class WorldSuite(Suite):
    """Samples held-out prompts and reads from their pixels what they show.

    Args:
        num_prompts: of the world that the run was validated on.
        seed: of the first sample; the next ones take seed + 1, seed + 2, ...
        sheet_clips: samples on the contact sheet, the first ones.
    """

    title = "held-out prompts of the run's world"

    def __init__(self, *, num_prompts: Count, seed: Seed, sheet_clips: Count) -> None:
        self.num_prompts, self.seed, self.sheet_clips = num_prompts, seed, sheet_clips

    def check(self, subject: Subject) -> None:
        heldout_world(subject.checkpoint, subject.sampler.trusted)

    def measure(self, subject: Subject, work: Work) -> Result:
        world = heldout_world(subject.checkpoint, subject.sampler.trusted)
        heldout = plain_prompts(world, self.num_prompts, self.seed)
        made = work.samples(heldout.requests, lambda index, clip: asdict(heldout.judge(index, clip)))
        verdicts = [Verdict(**{**found, "reasons": tuple(found["reasons"])}) for found in made.found]

        asked = list(zip(heldout.prompts, heldout.seeds, strict=True))
        films = [world.film(*each).pixels for each in asked]
        real = [torch.from_numpy(film).permute(3, 0, 1, 2) for film in films]
        reports: dict[str, Report[Verdict]] = {
            f"samples ({subject.pipeline.origin.weights})": heldout.report(verdicts),
            "real clips (ceiling)": heldout.report([heldout.judge(*each) for each in enumerate(real)]),
        }
        if coded := through(subject.pipeline.codec, real, subject.sampler.batch_size):
            verdicts_of_coded = [heldout.judge(*each) for each in enumerate(coded)]
            reports["real clips, coded and decoded"] = heldout.report(verdicts_of_coded)
        spoilt = [floors(real.__getitem__, index, len(real), 0) for index in range(len(real))]
        for name in spoilt[0]:
            reports[name] = heldout.report([heldout.judge(index, each[name]) for index, each in enumerate(spoilt)])
        sheet = work.ranks.first(lambda: made.samples.sheet(self.sheet_clips))
        files = [path.name for path in made.samples.videos]
        lines = [
            f"{path}" + ("" if verdict.all else f"   wrong: {'; '.join(verdict.reasons)}")
            for path, verdict in zip(made.samples.videos, verdicts, strict=True)
        ]
        return Result(
            folder=made.folder,
            rows={name: scores_of(each.estimates()) for name, each in reports.items()},
            measures=MEASURES,
            protocol={
                "split": world.split,
                "clips": len(asked),
                "first seed": self.seed,
                "batch_size": subject.sampler.batch_size,
                **made.settings,
            },
            clips=clips_of(reports, [{"prompt": prompt, "seed": seed} for prompt, seed in asked], files),
            said=[*lines, "", f"contact sheet: {sheet}"],
        )


@torch.no_grad()
def through(codec: Any, clips: Sequence[Tensor], batch_size: int) -> list[Tensor]:
    """Clips, uint8 (3, F, H, W) each, coded and decoded by a `Codec`, in [-1, 1]; none of one that changes nothing."""
    if isinstance(codec, PixelCodec):
        return []
    device = next(codec.parameters()).device
    batches = torch.stack(list(clips)).split(batch_size)
    return [clip.cpu() for batch in batches for clip in codec.decode(codec.encode(to_float(batch).to(device)))]


def clips_of(
    reports: dict[str, Report[Verdict]], asked: Sequence[dict[str, Any]], files: Sequence[str]
) -> dict[str, list[dict[str, Any]]]:
    """Each clip's values. The first report is of `files`, the others of real clips of the same prompts and seeds."""
    clips: dict[str, list[dict[str, Any]]] = {}
    for name, each in reports.items():
        rows = [{**about, **asdict(verdict)} for about, verdict in zip(asked, each.verdicts, strict=True)]
        clips[name] = rows if clips else [{"file": file, **row} for file, row in zip(files, rows, strict=True)]
    return clips
