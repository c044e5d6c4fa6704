"""Samples of prompts that a run was never trained on, held against the truth of its world (`suite=world`).

Colour, shape, size, direction, speed, permanence and outlines are read from pixels alone, by the same reader for
generated clips and for real ones of the same prompts; the real ones' row is the ceiling. A network of latents has one
row more, real clips through its autoencoder: what is wrong there, it cannot do better.
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
from dit.evaluation.suites.of_world import heldout_world
from dit.evaluation.verdicts import Report
from dit.evaluation.world import MEASURES, Expectation, Reader, Verdict
from dit.sampling.request import Request


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
        prompts = world.prompts(self.num_prompts)
        seeds = [self.seed + index for index in range(len(prompts))]
        expected = [Expectation(**world.expect(prompt)) for prompt in prompts]  # type: ignore[arg-type]
        reader = Reader(**world.legend())  # type: ignore[arg-type]

        wanted = [Request(prompt, "", seed) for prompt, seed in zip(prompts, seeds, strict=True)]
        made = work.samples(wanted, lambda index, clip: asdict(reader.judge(clip, expected[index])))
        verdicts = [Verdict(**{**found, "reasons": tuple(found["reasons"])}) for found in made.found]

        films = [world.film(prompt, seed).pixels for prompt, seed in zip(prompts, seeds, strict=True)]
        real = [torch.from_numpy(film).permute(3, 0, 1, 2) for film in films]
        reports = {
            f"samples ({subject.pipeline.origin.weights})": Report(tuple(verdicts), MEASURES),
            "real clips (ceiling)": Report.of(reader.judge, real, expected, MEASURES),
        }
        if coded := through(subject.pipeline.codec, real, subject.sampler.batch_size):
            reports["real clips, coded and decoded"] = Report.of(reader.judge, coded, expected, MEASURES)
        sheet = work.ranks.first(lambda: made.samples.sheet(self.sheet_clips))
        asked = [{"prompt": prompt, "seed": seed} for prompt, seed in zip(prompts, seeds, strict=True)]
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
                "clips": len(prompts),
                "first seed": self.seed,
                "batch_size": subject.sampler.batch_size,
                **made.settings,
            },
            clips=clips_of(reports, asked, files),
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
