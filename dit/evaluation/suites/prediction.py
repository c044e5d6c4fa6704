"""The first frames of real clips are given and the others predicted, held against the true ones (`suite=prediction`).

Several samples of each clip: one of them in the mean, and the best. Clips of grey frames are scored as OpenSTL scores
Moving MNIST, too. Below stands what a still picture gets, the last given frame shown on and on, and, for networks of
latents, the true clip through the autoencoder, which no prediction can be nearer than.

Of worlds the true future can be longer than the clips of training. `suite=longer` predicts it at once, by a network
that sees more frames than it was trained on; `suite=drift` in chained windows, each of which goes on from the last
frames of the one before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from dit.config.limits import Count, Seed, Share
from dit.evaluation.harness.result import Result
from dit.evaluation.harness.subject import Subject
from dit.evaluation.harness.work import Work
from dit.evaluation.suites.base import Suite
from dit.evaluation.suites.real import RealClips, real_clips
from dit.evaluation.suites.video_scores import mark_of, measures_of, notes_of, protocol_of, rows_of
from dit.evaluation.suites.world import through
from dit.evaluation.video.pairs import FrameMeasure, openstl, standard
from dit.evaluation.video.prediction import Prediction
from dit.sampling.pipeline import Pipeline
from dit.sampling.tasks import Extend

FIRST_FRAMES = "dit.diffusion.conditioning.FirstFrames"


class PredictionSuite(Suite):
    """Predicts the rest of real clips.

    Args:
        given: frames that are given; None: as many as the run was trained with, which its config must say in one way.
        windows: how many times as many frames are predicted as a clip of training has behind its given ones. More than
            one are there of worlds alone, and each part of so many frames has scores of its own.
        context_level: noise level at which given frames are shown to the network; None: 0.
        samples: of each clip.
        lpips: LPIPS, whose weights are in a file; None leaves it out.
        num_clips: of files at most as many as there are.
        seed: of the first sample; the next ones take seed + 1, seed + 2, ...
        manifest, root: of the real clips, if not those of the run's config.
        sheet_clips: samples on the contact sheet, the first ones.
    """

    title = "predictions against the true future"
    name: ClassVar[str] = "prediction"  # of its keys
    chained: ClassVar[bool] = False

    def __init__(
        self,
        *,
        given: Count | None,
        windows: Count,
        context_level: Share | None,
        samples: Count,
        lpips: Callable[[torch.device | str], FrameMeasure] | None,
        num_clips: Count,
        seed: Seed,
        manifest: str | None,
        root: str | None,
        sheet_clips: Count,
    ) -> None:
        self.given, self.samples, self.lpips = given, samples, lpips
        self.windows, self.context_level = windows, context_level
        self.num_clips, self.seed, self.sheet_clips = num_clips, seed, sheet_clips
        self.manifest, self.root = manifest, root

    def check(self, subject: Subject) -> None:
        given, frames = self._given(subject), int(subject.checkpoint.clip()["num_frames"])
        if given >= frames:
            raise ValueError(f"suite.{self.name}.given={given} leaves nothing of {frames} frames to predict")
        if self._real(subject).at_most(self.num_clips) < 1:
            raise ValueError(f"{subject.checkpoint.file} was validated on no clips")
        if self.lpips is not None:
            self.lpips("cpu")

    def measure(self, subject: Subject, work: Work) -> Result:
        real, pipeline = self._real(subject), self._pipeline(subject)
        count, given = real.at_most(self.num_clips), self._given(subject)
        parts = self._parts(subject, given)
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
            task=Extend(video=context, num_context=given, times=self.windows if self.chained else 1),
            pipeline=pipeline,
            part=mark_of(*((each.measure.name, each.measure.sha256) for each in measures), *self._asked()),
        )
        own = of_samples(measures, given, self.samples, made.found, true, parts)
        rows = {f"samples ({pipeline.origin.weights})": own}
        still = [held(clip, given) for clip in true]
        rows["last given frame, held"] = of_clips(measures, given, still, true, parts)
        if coded := through(pipeline.codec, true, subject.sampler.batch_size):
            rows["real clips, coded and decoded"] = of_clips(measures, given, coded, true, parts)
        scores = {row: each.scores(real.split, real.fps) for row, each in rows.items()}
        sheet = work.ranks.first(lambda: made.samples.sheet(self.sheet_clips))
        curve = ", ".join(f"{value:.2f}" for value in own.by_frame()["psnr"])
        return Result(
            folder=made.folder,
            rows=rows_of(scores),
            measures=measures_of(scores),
            protocol=protocol_of(next(iter(scores.values())))
            | {"first seed": self.seed, **made.settings, **dict(self._asked())},
            said=[*notes_of(scores), f"psnr of each predicted frame: {curve}", f"contact sheet: {sheet}"],
        )

    def _real(self, subject: Subject) -> RealClips:
        file, trusted = subject.checkpoint, subject.sampler.trusted
        frames = self._frames(subject, self._given(subject)) if self.windows > 1 else None
        return real_clips(file, trusted, self.manifest, self.root, self.num_clips, frames)

    def _pipeline(self, subject: Subject) -> Pipeline:
        """What makes the clips, at once or a window at a time."""
        longer = self.windows > 1 and not self.chained
        if not longer and self.context_level is None:
            return subject.pipeline
        frames = self._frames(subject, self._given(subject)) if longer else None
        return subject.sampled_with(num_frames=frames, context_level=self.context_level)

    def _frames(self, subject: Subject, given: int) -> int:
        """Of a whole clip, the given ones among them."""
        return given + self.windows * (int(subject.checkpoint.clip()["num_frames"]) - given)

    def _parts(self, subject: Subject, given: int) -> list[range]:
        """The predicted frames of longer clips, window by window."""
        whole = self._frames(subject, given)
        size = (whole - given) // self.windows
        return [range(first, first + size) for first in range(given, whole, size)] if self.windows > 1 else []

    def _asked(self) -> list[tuple[str, Any]]:
        """What is asked for beside the clips and samples of training's length; it decides what is found."""
        windows = self.windows if self.windows > 1 else None
        asked = {"windows": windows, "chained": self.chained or None, "context level": self.context_level}
        return [(name, value) for name, value in asked.items() if value is not None]

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
            raise ValueError(f"{file.file} was trained with {said} given: say how many, suite.{self.name}.given=N")
        codec: Any = subject.pipeline.codec
        return int(codec.compression.first_frame(trained[0]))  # those that the given latent frames stand for


class LongerSuite(PredictionSuite):
    """Predicts a future that is longer than the clips of training at once: does the network know what lies beyond?"""

    title = "futures longer than in training, predicted at once"
    name = "longer"


class DriftSuite(PredictionSuite):
    """Predicts a longer future in windows, each given the last frames of the one before: how fast does it drift?"""

    title = "futures longer than in training, predicted in chained windows"
    name = "drift"
    chained = True


def of_samples(
    measures: Sequence[FrameMeasure],
    given: int,
    samples: int,
    compared: Sequence[Any],
    true: Sequence[Tensor],
    parts: Sequence[range] = (),
) -> Prediction:
    """What was found of each sample, those of one clip behind one another."""
    made = Prediction(measures, given, samples, parts)
    for index, clip in enumerate(true):
        made.put(index, compared[index * samples : (index + 1) * samples], clip.shape[1:])
    return made


def of_clips(
    measures: Sequence[FrameMeasure],
    given: int,
    clips: Sequence[Tensor],
    true: Sequence[Tensor],
    parts: Sequence[range] = (),
) -> Prediction:
    """One clip in the place of each prediction."""
    made = Prediction(measures, given, 1, parts)
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
