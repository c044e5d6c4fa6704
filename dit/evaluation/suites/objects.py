"""Several objects in rich worlds, read from the pixels of samples (`suite=objects`).

Three things are asked: whether samples of prompts show what the prompts say; whether what goes on from given first
frames moves as the scene must (`Continued`: trajectories, collisions, bounces, optical flow); and, of runs that hear
the keys of a steered world, whether a key moves what it should, as far as it should (`Pressed`). The same reader reads
real clips, the ceiling, and clips that show something else, the floors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from data.worlds.steer import ACTIONS
from data.worlds.world import World
from dit.config.limits import Count, Seed
from dit.evaluation.harness.result import Result, Score
from dit.evaluation.harness.subject import Subject
from dit.evaluation.harness.work import Made, Work
from dit.evaluation.suites.base import Suite
from dit.evaluation.suites.given_frames import in_frames, prefixes
from dit.evaluation.suites.object_clips import Asked, Continued, Pressed, Prompted
from dit.evaluation.suites.of_world import ENDLESS, unseen_world
from dit.evaluation.suites.promises import Promises
from dit.evaluation.suites.video_scores import mark_of
from dit.evaluation.suites.world import through
from dit.evaluation.video.flow import FlowEstimator
from dit.signals.action import Action

FEWEST = 2  # given frames that show how fast something moves
CEILING, CODED = "real clips (ceiling)", "real clips, coded and decoded"


class ObjectsSuite(Suite):
    """Reads several objects from samples of prompts, of given frames, and of keys.

    Args:
        num_prompts: samples of prompts.
        num_continued: samples that go on from given frames.
        num_scenes: that are steered by each key, and by none.
        given: frames; None: the fewest, but two at least, that the run was trained with.
        flow: estimates the optical flow of videos; None leaves its error out.
        seed: of the first sample; the next ones take seed + 1, seed + 2, ...
        sheet_clips: samples of prompts on the contact sheet, the first ones.
    """

    title = "several objects: what prompts say, how given frames go on, what keys do"

    def __init__(
        self,
        *,
        num_prompts: Count,
        num_continued: Count,
        num_scenes: Count,
        given: Count | None,
        flow: Callable[[torch.device | str], FlowEstimator] | None,
        seed: Seed,
        sheet_clips: Count,
    ) -> None:
        self.num_prompts, self.num_continued, self.num_scenes = num_prompts, num_continued, num_scenes
        self.given, self.flow, self.seed, self.sheet_clips = given, flow, seed, sheet_clips

    def check(self, subject: Subject) -> None:
        file, world = subject.checkpoint, unseen_world(subject.checkpoint, subject.sampler.trusted)
        Promises(world)
        made, shown = file.clip(), (world.num_frames, world.height, world.width)
        if (made["num_frames"], made["height"], made["width"]) != shown:
            raise ValueError(
                f"{file.file} makes {made['num_frames']} frames of {made['height']}x{made['width']}, and its world of"
                f" validation shows {shown[0]} of {shown[1]}x{shown[2]}: they must be equal to be compared"
            )
        if self.given is not None and self.given >= world.num_frames:
            raise ValueError(
                f"suite.objects.given={self.given} leaves nothing of {world.num_frames} frames to go on with"
            )
        if self.flow is not None:
            self.flow("cpu")

    def measure(self, subject: Subject, work: Work) -> Result:
        world = unseen_world(subject.checkpoint, subject.sampler.trusted)
        world.num_clips = ENDLESS
        promises, pipeline = Promises(world), subject.pipeline
        action = hears(pipeline.signals, world)
        flow = None if self.flow is None else self.flow(pipeline.device)
        prompted = Prompted(promises, world.prompts(self.num_prompts), self.seed, action)
        asked: list[Asked] = [prompted]
        given, said = self._given(subject, world, action)
        if given is not None:
            asked.append(Continued(promises, self.num_continued, given, self.seed, flow, action))
        if given is not None and action:
            asked.append(Pressed(promises, self.num_scenes, given, self.seed, action))

        own = f"samples ({pipeline.origin.weights})"
        rows: dict[str, dict[str, Score]] = {own: {}}
        made: dict[str, Made] = {}
        found: dict[str, dict[str, list[Any]]] = {}
        about = {"split": world.split, "seed": self.seed, "given": given, "flow": _mark(flow), "keys": action}
        for kind in asked:
            wanted = [kind.request(index) for index in range(len(kind))]
            part = kind.name if kind is prompted else f"{kind.name}-{mark_of(*about.items())}"
            made[kind.name] = work.samples(wanted, kind.look, task=kind.task, part=part)
            found[kind.name] = {own: made[kind.name].found, **self._beside(kind, subject, work, about)}
            for row, each in found[kind.name].items():
                rows.setdefault(row, {}).update(kind.scores(each))
        samples = made[prompted.name]
        sheet = work.ranks.first(lambda: samples.samples.sheet(self.sheet_clips))
        return Result(
            folder=samples.folder,
            rows=rows,
            measures={name: each for kind in asked for name, each in kind.measures.items()},
            protocol={
                "split": world.split,
                "clips": self.num_prompts,
                "continued": None if given is None else self.num_continued,
                "steered scenes": self.num_scenes if given is not None and action else None,
                "given frames": given,
                "first seed": self.seed,
                "batch_size": subject.sampler.batch_size,
                **({"flow_error": _mark(flow)} if given and flow else {}),
                **{key: value for key, value in samples.settings.items() if key != "task"},
            },
            clips=_clips(prompted, found[prompted.name], [path.name for path in samples.samples.videos]),
            said=[*said, f"contact sheet: {sheet}"],
        )

    def _beside(self, kind: Asked, subject: Subject, work: Work, about: Mapping[str, Any]) -> dict[str, list[Any]]:
        """Row -> what is found of real clips, and of those that are spoilt."""
        codec, size = subject.pipeline.codec, subject.sampler.batch_size

        def find(numbers: Sequence[int]) -> Iterator[dict[str, Any]]:
            real = [kind.real(number) for number in numbers]
            coded = through(codec, real, size)
            for place, number in enumerate(numbers):
                videos = {CEILING: real[place], **({CODED: coded[place]} if coded else {}), **kind.spoilt(number)}
                yield {row: kind.look(number, video) for row, video in videos.items()}

        found = work.each({**about, "kind": kind.name}, len(kind), size, find, part=f"{kind.name}-beside").found
        return {row: [each[row] for each in found] for row in found[0]}

    def _given(self, subject: Subject, world: World, action: str) -> tuple[int | None, list[str]]:
        """How many frames are given, and why none are, in a line."""
        if world.keys and not action:
            return None, [
                "left out: how given frames go on, and what keys do, since this network is not told the keys, which"
                " decide it (train with signals=action)"
            ]
        if self.given is not None:
            return self.given, []
        trained = [count for count in in_frames(subject.pipeline.canvas(), prefixes(subject)) if count > 0]
        legal = [count for count in trained if count < world.num_frames]
        if not legal:
            return None, [
                "left out: how given frames go on, since this run was never shown first frames alone"
                f" (suite.objects.given={FEWEST} asks it all the same)"
            ]
        return min((count for count in legal if count >= FEWEST), default=max(legal)), []


def hears(signals: Mapping[str, Any], world: World) -> str:
    """The name of the signal that is told the keys of a world; "" where there is none, or no keys."""
    names = [name for name, signal in signals.items() if isinstance(signal, Action) and signal.column == ACTIONS]
    return names[0] if names and world.keys else ""


def _mark(flow: FlowEstimator | None) -> dict[str, str] | None:
    return None if flow is None else {"network": flow.name, "sha256": flow.sha256}


def _clips(prompted: Prompted, found: Mapping[str, Sequence[Any]], files: Sequence[str]) -> dict[str, list[Any]]:
    """Each prompt's values, row by row; the first row is of `files`."""
    rows: dict[str, list[Any]] = {}
    for name, each in found.items():
        about = [{"prompt": prompt, "seed": prompted.seed + at} for at, prompt in enumerate(prompted.prompts)]
        if not rows:
            about = [{"file": file, **own} for file, own in zip(files, about, strict=True)]
        rows[name] = [{**own, **values} for own, values in zip(about, each, strict=True)]
    return rows
