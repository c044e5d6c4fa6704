"""What a run makes of the first frames of balls in motion, against the truth (`suite=phyworld`): Kang et al. 2024.

For runs whose data is `data.worlds.phyworld`. The clips are new draws of the ranges that were trained on, and of radii
and speeds outside of them. Beside the samples stand real clips, read in the same way (the floor of every error), balls
that go on at the velocity of the given frames, and what is wrong behind the given frames: clips of other scenes, frames
that stand still, and noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.batch import to_float
from data.worlds.phyworld.dataset import GIVEN, PhyClip, PhyWorld
from data.worlds.phyworld.picture import lattice
from data.worlds.phyworld.scenario import IN_DISTRIBUTION, OUT_OF_DISTRIBUTION, UNSEEN, WORLD
from dit.config.limits import Count, Seed
from dit.evaluation.harness.result import Result, scores_of
from dit.evaluation.harness.subject import Subject
from dit.evaluation.harness.work import Work
from dit.evaluation.suites.base import Suite
from dit.evaluation.suites.floors import FROZEN, NOISE, OTHERS, floors
from dit.evaluation.suites.world import through
from dit.evaluation.velocity import MEASURES, Balls, Places, Reader, Verdict
from dit.evaluation.verdicts import Report
from dit.sampling.checkpoint import Checkpoint
from dit.sampling.request import Request
from dit.sampling.tasks import Extend

HOME = f"{PhyWorld.__module__}.{PhyWorld.__qualname__}"
SPLITS = (IN_DISTRIBUTION, *UNSEEN)
WRONG = {OTHERS: "clips of other scenes", FROZEN: "frozen frames", NOISE: "noise"}  # here real clips are the floor
TITLES = {split: split.replace("_", " ") for split in (*SPLITS, OUT_OF_DISTRIBUTION)}


@dataclass(frozen=True)
class Shot:
    """A clip, its truth, and how it is read."""

    clip: PhyClip
    truth: Balls
    reader: Reader

    @property
    def pixels(self) -> Tensor:
        """uint8 (3, F, H, W)."""
        return torch.from_numpy(self.clip.pixels)

    def judged(self, video: Tensor) -> Verdict:
        return self.reader.judge(video, self.truth)

    def steady(self) -> Verdict:
        """Of balls that go on at the velocity of the given frames, which is right for uniform motion alone."""
        seen = self.reader.read(self.pixels[:, :GIVEN], self.truth.positions.shape[1])
        step = (seen.positions[-1] - seen.positions[0]) / (GIVEN - 1)
        frames = np.arange(len(self.truth.positions))[:, None, None] - (GIVEN - 1)
        positions = seen.positions[-1] + frames * step
        radii = np.broadcast_to(seen.radii[-1], positions.shape[:2])
        guess = Places(positions, radii, np.ones(radii.shape, np.bool_))
        return self.reader.hold(guess, guess, self.truth)


class PhyWorldSuite(Suite):
    """Shows a run the first three frames of clips and measures the velocity of the balls in what it makes of them.

    Args:
        num_clips: of each of four splits: in distribution, unseen radius, unseen speed, both.
        seed: of the first sample; the next ones take seed + 1, seed + 2, ... The clips are those of the seed, too.
        sheet_clips: samples on the contact sheet, the first ones.
    """

    title = "velocity of balls, in and out of the distribution of training"

    def __init__(self, *, num_clips: Count, seed: Seed, sheet_clips: Count) -> None:
        self.num_clips, self.seed, self.sheet_clips = num_clips, seed, sheet_clips

    def check(self, subject: Subject) -> None:
        frames = phyworld(subject.checkpoint, subject.sampler.trusted).num_frames
        if frames < GIVEN + 2:
            raise ValueError(
                f"{subject.checkpoint.file} makes clips of {frames} frames, and a velocity needs at least 2 behind the"
                f" {GIVEN} given ones"
            )
        if subject.checkpoint.saw_given() == "never":
            raise ValueError(
                f"{subject.checkpoint.file} was never shown given frames, and this suite gives {GIVEN}; train with"
                " conditioning=first_three"
            )

    def measure(self, subject: Subject, work: Work) -> Result:
        data = phyworld(subject.checkpoint, subject.sampler.trusted)
        shots = {split: self.shots(data, split) for split in SPLITS}
        every = [shot for each in shots.values() for shot in each]
        seeds = [self.seed + index for index in range(len(every))]
        wanted = [Request(data.scenario.caption, "", seed) for seed in seeds]
        given = torch.stack([to_float(shot.pixels[:, :GIVEN]) for shot in every])
        made = work.samples(
            wanted,
            lambda index, clip: asdict(every[index].judged(clip)),
            task=Extend(given, num_context=GIVEN, times=1),
        )
        samples = [Verdict(**{**found, "reasons": tuple(found["reasons"])}) for found in made.found]

        verdicts = {f"samples ({subject.pipeline.origin.weights})": samples}
        verdicts["real clips (floor)"] = [shot.judged(shot.pixels) for shot in every]
        if coded := through(subject.pipeline.codec, [shot.pixels for shot in every], subject.sampler.batch_size):
            verdicts["real clips, coded and decoded"] = [
                shot.judged(clip) for shot, clip in zip(every, coded, strict=True)
            ]
        verdicts["constant velocity"] = [shot.steady() for shot in every]
        for index, shot in enumerate(every):
            for name, clip in floors(lambda number: every[number].pixels, index, len(every), GIVEN).items():
                verdicts.setdefault(WRONG[name], []).append(shot.judged(clip))
        sheet = work.ranks.first(lambda: made.samples.sheet(self.sheet_clips))
        return Result(
            folder=made.folder,
            rows={name: scores_of(report.estimates()) for name, report in self.reports(verdicts).items()},
            measures=MEASURES,
            protocol={
                "scenario": data.scenario.name,
                "clips of each split": self.num_clips,
                "given frames": GIVEN,
                "first seed": self.seed,
                "batch_size": subject.sampler.batch_size,
                **{key: value for key, value in made.settings.items() if key != "task"},
            },
            clips={
                name: [
                    {
                        **self.about(index, shot, data, seeds),
                        **({"file": file.name} if not row else {}),
                        **asdict(found),
                    }
                    for index, (shot, file, found) in enumerate(zip(every, made.samples.videos, each, strict=True))
                ]
                for row, (name, each) in enumerate(verdicts.items())
            },
            said=[f"contact sheet: {sheet}"],
        )

    def shots(self, data: PhyWorld, split: str) -> list[Shot]:
        """The clips of a split, as large as those of the run."""
        clips = PhyWorld(
            scenario=data.scenario.name, seed=self.seed, num_clips=self.num_clips, num_frames=data.num_frames,
            height=data.size, width=data.size, fps=data.fps, split=split, small_balls=False,
        )  # fmt: skip
        reader = Reader(WORLD, *lattice(data.size))
        made = []
        for index in range(self.num_clips):
            clip = clips.clip(index)
            made.append(Shot(clip, Balls(clip.positions, clip.scene.radii, data.fps, GIVEN), reader))
        return made

    def reports(self, verdicts: dict[str, list[Verdict]]) -> dict[str, Report[Verdict]]:
        """Rows of the table: the splits of the samples, then what they are held against, in and out of distribution."""
        count, rows = self.num_clips, {}
        for row, (name, each) in enumerate(verdicts.items()):
            parts = {split: each[at * count : (at + 1) * count] for at, split in enumerate(SPLITS)}
            parts = {IN_DISTRIBUTION: parts.pop(IN_DISTRIBUTION), OUT_OF_DISTRIBUTION: each[count:], **parts}
            for split in parts if not row else (IN_DISTRIBUTION, OUT_OF_DISTRIBUTION):
                rows[f"{name}, {TITLES[split]}"] = Report(tuple(parts[split]), MEASURES)
        return rows

    def about(self, index: int, shot: Shot, data: PhyWorld, seeds: Sequence[int]) -> dict[str, Any]:
        """What a clip is, as plain values."""
        scene = shot.clip.scene
        return {
            "prompt": data.scenario.caption,
            "seed": seeds[index],
            "split": shot.clip.split,
            "radii": scene.radii.tolist(),
            "speeds": np.abs(scene.velocities[:, 0]).tolist(),
        }


def phyworld(checkpoint: Checkpoint, trusted: Sequence[str] = ()) -> PhyWorld:
    """The clips that the run was trained on. ValueError, in one line, where they are others."""
    node = checkpoint.value("data").get("train")
    target = str(node.get("_target_")) if isinstance(node, dict) else "nothing"
    if target == HOME or target.startswith(tuple(f"{package}." for package in trusted)):
        data = checkpoint.part("data", "train", trusted=trusted)
        if isinstance(data, PhyWorld):
            return data
    raise ValueError(f"{checkpoint.file} was trained on {target}; suite=phyworld is for data=phyworld")
