"""The first frames of real clips are given and the others predicted, held against the true ones (`suite=prediction`).

Several samples of each clip: one of them in the mean, and the best. Clips of grey frames are scored as OpenSTL scores
Moving MNIST, too. Below stands what a still picture gets, the last given frame shown on and on, and, for networks of
latents, the true clip through the autoencoder, which no prediction can be nearer than.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dit.config.limits import Count, Seed
from dit.evaluation.harness.result import Result
from dit.evaluation.harness.subject import Subject
from dit.evaluation.harness.work import Work
from dit.evaluation.suites.base import Suite
from dit.evaluation.suites.real import RealClips, real_clips
from dit.evaluation.suites.video_scores import mark_of, measures_of, notes_of, protocol_of, rows_of
from dit.evaluation.suites.world import through
from dit.evaluation.video.pairs import FrameMeasure, openstl, standard
from dit.evaluation.video.prediction import Prediction
from dit.sampling.tasks import Extend

FIRST_FRAMES = "dit.diffusion.conditioning.FirstFrames"


class PredictionSuite(Suite):
    """Predicts the rest of real clips.

    Args:
        given: frames that are given; None: as many as the run was trained with, which its config must say in one way.
        samples: of each clip.
        lpips: LPIPS, whose weights are in a file; None leaves it out.
        num_clips: of files at most as many as there are.
        seed: of the first sample; the next ones take seed + 1, seed + 2, ...
        manifest, root: of the real clips, if not those of the run's config.
        sheet_clips: samples on the contact sheet, the first ones.
    """

    title = "predictions against the true future"

    def __init__(
        self,
        *,
        given: Count | None,
        samples: Count,
        lpips: Callable[[torch.device | str], FrameMeasure] | None,
        num_clips: Count,
        seed: Seed,
        manifest: str | None,
        root: str | None,
        sheet_clips: Count,
    ) -> None:
        self.given, self.samples, self.lpips = given, samples, lpips
        self.num_clips, self.seed, self.sheet_clips = num_clips, seed, sheet_clips
        self.manifest, self.root = manifest, root

    def check(self, subject: Subject) -> None:
        given, frames = self._given(subject), int(subject.checkpoint.clip()["num_frames"])
        if given >= frames:
            raise ValueError(f"suite.prediction.given={given} leaves nothing of {frames} frames to predict")
        if self._real(subject).at_most(self.num_clips) < 1:
            raise ValueError(f"{subject.checkpoint.file} was validated on no clips")
        if self.lpips is not None:
            self.lpips("cpu")

    def measure(self, subject: Subject, work: Work) -> Result:
        real, pipeline = self._real(subject), subject.pipeline
        count, given = real.at_most(self.num_clips), self._given(subject)
        true = [real.pixels(index) for index in range(count)]
        measures = [*standard(), *(openstl() if all(map(is_grey, true)) else ())]
        if self.lpips is not None:
            measures.append(self.lpips(pipeline.device))

        # Sample s of clip c is number c * samples + s, with a seed of its own.
        of = [index for index in range(count) for _ in range(self.samples)]
        with_label = "label" in pipeline.signals
        requests = [real.request(index, self.seed + number, with_label) for number, index in enumerate(of)]
        context = torch.stack([true[index][:, :given] for index in of]).float() / 127.5 - 1
        compare = Prediction(measures, given, self.samples).compare
        made = work.samples(
            requests,
            lambda number, clip: compare(true[of[number]], clip, (f"real clip {of[number]}", f"sample {number}")),
            task=Extend(video=context, num_context=given, times=1),
            part=mark_of(*((each.measure.name, each.measure.sha256) for each in measures)),
        )
        rows = {f"samples ({pipeline.origin.weights})": of_samples(measures, given, self.samples, made.found, true)}
        still = [held(clip, given) for clip in true]
        rows["last given frame, held"] = of_clips(measures, given, still, true)
        if coded := through(pipeline.codec, true, subject.sampler.batch_size):
            rows["real clips, coded and decoded"] = of_clips(measures, given, coded, true)
        scores = {row: each.scores(real.split, real.fps) for row, each in rows.items()}
        sheet = work.ranks.first(lambda: made.samples.sheet(self.sheet_clips))
        own = next(iter(rows.values())).by_frame()
        curve = ", ".join(f"{value:.2f}" for value in own["psnr"])
        return Result(
            folder=made.folder,
            rows=rows_of(scores),
            measures=measures_of(scores),
            protocol=protocol_of(next(iter(scores.values()))) | {"first seed": self.seed, **made.settings},
            said=[*notes_of(scores), f"psnr of each predicted frame: {curve}", f"contact sheet: {sheet}"],
        )

    def _real(self, subject: Subject) -> RealClips:
        return real_clips(subject.checkpoint, subject.sampler.trusted, self.manifest, self.root, self.num_clips)

    def _given(self, subject: Subject) -> int:
        """How many frames of pixels are given. ValueError, in one line, where nobody says."""
        if self.given is not None:
            return self.given
        file, trained = subject.checkpoint, sorted(first_frames(subject.checkpoint.config.get("conditioning")))
        if len(trained) != 1:
            said = (
                f"{' and '.join(map(str, trained))} first latent frames"
                if trained
                else "no fixed number of first frames"
            )
            raise ValueError(f"{file.file} was trained with {said} given: say how many, suite.prediction.given=N")
        codec: Any = subject.pipeline.codec
        return int(codec.compression.first_frame(trained[0]))  # those that the given latent frames stand for


def of_samples(
    measures: Sequence[FrameMeasure], given: int, samples: int, compared: Sequence[Any], true: Sequence[Tensor]
) -> Prediction:
    """What was found of each sample, those of one clip behind one another."""
    made = Prediction(measures, given, samples)
    for index, clip in enumerate(true):
        made.put(index, compared[index * samples : (index + 1) * samples], clip.shape[1:])
    return made


def of_clips(
    measures: Sequence[FrameMeasure], given: int, clips: Sequence[Tensor], true: Sequence[Tensor]
) -> Prediction:
    """One clip in the place of each prediction."""
    made = Prediction(measures, given, 1)
    for index, (clip, wanted) in enumerate(zip(clips, true, strict=True)):
        made.add(index, wanted, [clip])
    return made


def first_frames(conditioning: Any) -> set[int]:
    """The numbers of first latent frames that a config of training gives."""
    found: set[int] = set()
    if isinstance(conditioning, Mapping):
        if conditioning.get("_target_") == FIRST_FRAMES and isinstance(conditioning.get("count"), int):
            found.add(conditioning["count"])
        for value in conditioning.values():
            found |= first_frames(value)
    return found


def is_grey(clip: Tensor) -> bool:
    """Whether the colours of a clip, uint8 (3, F, H, W), are equal everywhere."""
    return bool((clip[0] == clip[1]).all() and (clip[1] == clip[2]).all())


def held(clip: Tensor, given: int) -> Tensor:
    """A clip whose last given frame stays."""
    still = clip[:, given - 1 : given].expand(-1, clip.shape[1] - given, -1, -1)
    return torch.cat([clip[:, :given], still], dim=1)
