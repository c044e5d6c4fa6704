"""How far samples are from the clips that the run was validated on, as sets (`suite=fvd`): FVD, KVD, FID of frames.

Beside them stand measures of single clips, of samples and of real ones alike: flicker, warping error, dynamic degree.
Of a world, which has clips without end, the last row is other real clips: what remains there is the number of clips,
not the model; and the exact flow of real clips is known, so that they have warping error and motion by it, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dit.config.limits import Count, Seed
from dit.evaluation.harness.result import Result
from dit.evaluation.harness.subject import Subject
from dit.evaluation.harness.work import FINDINGS, Work
from dit.evaluation.suites.base import Suite
from dit.evaluation.suites.real import RealClips, real_clips
from dit.evaluation.suites.video_scores import mark_of, measures_of, notes_of, protocol_of, rows_of
from dit.evaluation.video.features import Extractor, FeatureSet, distances
from dit.evaluation.video.flow import FlowEstimator
from dit.evaluation.video.motion import Motion
from dit.evaluation.video.networks import Network
from dit.evaluation.video.protocol import Score
from dit.sampling.request import home

KEPT = "features"  # folder of the run, where nobody names another


class FVDSuite(Suite):
    """Samples captions of real clips and compares both sets.

    Args:
        features, frame_features: the networks of FVD and KVD, and of FID; None leaves these out.
        flow: estimates the flow of warping error and dynamic degree; None leaves out all measures of single clips.
        num_clips: samples, and real clips; of files at most as many as there are.
        seed: of the first sample; the next ones take seed + 1, seed + 2, ...
        manifest, root: of the real clips, if not those of the run's config.
        features_cache: folder for features, which several runs may share; None: one in the run directory.
        sheet_clips: samples on the contact sheet, the first ones.
    """

    title = "distances between samples and real clips"

    def __init__(
        self,
        *,
        features: Callable[[torch.device | str], Network] | None,
        frame_features: Callable[[torch.device | str], Network] | None,
        flow: Callable[[torch.device | str], FlowEstimator] | None,
        num_clips: Count,
        seed: Seed,
        manifest: str | None,
        root: str | None,
        features_cache: str | None,
        sheet_clips: Count,
    ) -> None:
        self.networks = {"features": features, "frame_features": frame_features}
        self.flow = flow
        self.num_clips, self.seed, self.sheet_clips = num_clips, seed, sheet_clips
        self.manifest, self.root, self.features_cache = manifest, root, features_cache

    def check(self, subject: Subject) -> None:
        real = self._real(subject)
        if real.at_most(self.num_clips) < 2:
            raise ValueError(f"{real.split} has {real.count} clip(s): distances between sets need at least 2")
        shape = subject.checkpoint.clip()
        for make in self.networks.values():
            if make is not None:
                make("cpu").taken(torch.empty(3, shape["num_frames"], 1, 1))
        if self.flow is not None:
            self.flow("cpu")

    def measure(self, subject: Subject, work: Work) -> Result:
        real, pipeline = self._real(subject), subject.pipeline
        count = real.at_most(self.num_clips)
        folder = Path(self.features_cache) if self.features_cache else home(str(subject.path)) / FINDINGS / KEPT
        looker = Looker(self.networks, self.flow, pipeline.device, folder, real.fps)

        requests = [real.request(index, self.seed + index, "label" in pipeline.signals) for index in range(count)]
        made = work.samples(
            requests,
            lambda index, clip: looker.look([clip], [f"sample {index}"])[0],
            part=mark_of(*looker.marks.items()),
        )
        sets = {f"samples ({pipeline.origin.weights})": made.found}
        others = 2 * count if real.count is None else count
        exact = real.flow if self.flow is not None else None
        about = {"clips": real.split, "networks": looker.marks, **({"flow": "exact, too"} if exact else {})}

        def find(numbers: Sequence[int]) -> list[dict[str, Any]]:
            clips = [real.pixels(number) for number in numbers]
            known = [exact(number) for number in numbers] if exact else None
            return looker.look(clips, [f"real clip {number}" for number in numbers], known)

        found = work.each(about, others, subject.sampler.batch_size, find, part="real").found
        sets["real clips"] = found[:count]
        if others > count:
            sets["other real clips (floor)"] = found[count:]
        scores = looker.scores(sets, real.split)
        sheet = work.ranks.first(lambda: made.samples.sheet(self.sheet_clips))
        return Result(
            folder=made.folder,
            rows=rows_of(scores),
            measures=measures_of(scores),
            protocol=protocol_of([each for own in reversed(scores.values()) for each in own])  # that of samples counts
            | {"first seed": self.seed, **made.settings},
            said=[*notes_of(scores), f"contact sheet: {sheet}"],
        )

    def _real(self, subject: Subject) -> RealClips:
        return real_clips(subject.checkpoint, subject.sampler.trusted, self.manifest, self.root, self.num_clips)


class Looker:
    """Looks at clips one batch at a time, and says of each what can be kept as plain values: names of its features,
    and its own measures."""

    def __init__(
        self,
        networks: Mapping[str, Callable[[torch.device | str], Network] | None],
        flow: Callable[[torch.device | str], FlowEstimator] | None,
        device: torch.device,
        folder: Path,
        fps: float,
    ) -> None:
        made = {name: make(device) for name, make in networks.items() if make is not None}
        self.extractors = {name: Extractor(network, folder) for name, network in made.items()}
        self.flow = None if flow is None else flow(device)
        self.fps = fps

    @property
    def marks(self) -> dict[str, str]:
        """Of all that decides what is found."""
        own = {name: extractor.network.mark for name, extractor in self.extractors.items()}
        return own | ({"flow": f"{self.flow.name} {self.flow.sha256}"} if self.flow else {})

    def look(
        self, clips: Sequence[Tensor], names: Sequence[str], exact: Sequence[tuple[Tensor, Tensor]] | None = None
    ) -> list[dict[str, Any]]:
        """What is found of clips of one shape. names: of each, for messages. exact: the true flow of each and what is
        visible in both frames, where it is known."""
        kept = {name: extractor.keep(clips, names) for name, extractor in self.extractors.items()}
        found = []
        for place, clip in enumerate(clips):
            own: dict[str, Any] = {"shape": list(clip.shape[1:]), **{name: keys[place] for name, keys in kept.items()}}
            if self.flow is not None and clip.shape[1] > 1:
                values = Motion(self.flow, self.fps).add(0, clip)
                if exact is not None:
                    values = by_exact_flow(clip, *exact[place], self.fps) | values
                own["motion"] = {name: None if math.isnan(value) else value for name, value in values.items()}
            found.append(own)
        return found

    def scores(self, sets: Mapping[str, Sequence[Mapping[str, Any]]], split: str) -> dict[str, list[Score]]:
        """The scores of each set of findings; all but "real clips" are held against those."""
        scores: dict[str, list[Score]] = {row: [] for row in sets}
        for name, extractor in self.extractors.items():
            filled = {row: FeatureSet(extractor, row) for row in sets}
            for row, found in sets.items():
                for index, own in enumerate(found):
                    filled[row].put(index, extractor.kept(own[name]), extractor.network.shape_taken(own["shape"]))
            real = filled.pop("real clips")
            for row, each in filled.items():
                scores[row] += distances(each, real, split, self.fps)
        if self.flow is not None:
            for row, found in sets.items():
                for motion in (Motion(self.flow, self.fps), Motion(None, self.fps)):
                    before = {each.name for each in scores[row]}
                    for index, own in enumerate(found):
                        there = own.get("motion", {})
                        if all(measure.name in there for measure in motion.measures):
                            values = {key: math.nan if value is None else value for key, value in there.items()}
                            motion.keep(index, values, own["shape"])
                    if motion.values:
                        scores[row] += [each for each in motion.scores(split, self.fps) if each.name not in before]
        return scores


def by_exact_flow(clip: Tensor, flow: Tensor, visible: Tensor, fps: float) -> dict[str, float]:
    """What `Motion` finds of a clip whose flow is known."""
    return Motion(None, fps).add(0, clip, exact=flow, visible=visible)
