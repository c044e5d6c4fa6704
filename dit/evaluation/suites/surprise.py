"""Whether the model's own denoising loss tells possible clips from impossible ones (`suite=surprise`).

After IntPhys 2 (Bordes et al. 2025, arXiv:2506.09849), whose models say by their prediction error how surprised they
are of possible and impossible videos that share their frames. A diffusion model's error is that of denoising, a bound
on the likelihood (as LikePhys has it, Yuan et al. 2025, arXiv:2510.11512). Nothing is sampled, and nobody judges.

All clips of a four get the same noise at the same levels, one in the middle of each of equal intervals of the share of
noise (`dit/diffusion/errors.py`). The error is that of the velocity, averaged over the levels, in the frames that are
not given. The network is given as many of the first frames as it was trained for, up to the event; a network that was
never trained with given frames has to denoise all of them. It is told what guidance leads away from, an empty prompt.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.batch import to_float
from data.worlds.impossible import Four
from data.worlds.plots import CONTROL, KINDS, Impossible
from dit.config.limits import Count, Seed
from dit.diffusion.denoiser import Denoiser
from dit.diffusion.errors import levels_of, shares
from dit.diffusion.given import HELD, Held, nothing, with_given
from dit.evaluation.harness.result import Result, Score, scores_of
from dit.evaluation.harness.subject import Subject
from dit.evaluation.harness.work import Work
from dit.evaluation.preference import preference, stacked
from dit.evaluation.suites.base import Suite
from dit.evaluation.suites.given_frames import in_frames, prefixes
from dit.evaluation.suites.of_world import worlds
from dit.sampling.canvas import Canvas
from dit.sampling.given import Given, hold
from dit.sampling.pipeline import Pipeline
from dit.sampling.request import Request
from dit.sampling.runtime import evaluating, own_precision
from dit.scores import SHARE, Measure
from dit.statistics import Estimate

FIRST = 2  # the earliest event: two frames show how fast something moves
LAST = 2  # frames from the latest event to the end
OF_CHANCE = 0.5


class SurpriseSuite(Suite):
    """Compares the denoising loss of possible and impossible clips of the world that the run was validated on.

    Args:
        kinds: what happens, out of `data.worlds.plots.KINDS`; None: all that can happen in this world.
        num_fours: of each kind, two pairs each.
        num_levels: noise levels.
        num_noises: draws of the noise at each level.
        seed: of the fours and of the noise.
    """

    title = "surprise: pairs of possible and impossible clips told apart by the denoising loss"

    def __init__(
        self,
        *,
        kinds: Sequence[str] | None,
        num_fours: Count,
        num_levels: Count,
        num_noises: Count,
        seed: Seed,
    ) -> None:
        for kind in kinds or ():
            if kind not in KINDS:
                raise ValueError(f"suite.surprise.kinds: {kind} is not one of {', '.join(KINDS)}")
        if kinds is not None and not kinds:
            raise ValueError(f"suite.surprise.kinds is empty; name some of {', '.join(KINDS)}, or null for all")
        self.kinds, self.seed = kinds, seed
        self.num_fours, self.num_levels, self.num_noises = num_fours, num_levels, num_noises

    def check(self, subject: Subject) -> None:
        _, world = worlds(subject.checkpoint, subject.sampler.trusted)
        if world.num_frames < FIRST + LAST:
            raise ValueError(
                f"{subject.checkpoint.file} makes clips of {world.num_frames} frames; something can happen in clips of"
                f" at least {FIRST + LAST}"
            )

    def measure(self, subject: Subject, work: Work) -> Result:
        _, world = worlds(subject.checkpoint, subject.sampler.trusted)
        scorer = Scorer(subject.pipeline, prefixes(subject), shares(self.num_levels), self.num_noises)
        events = [e for e in range(FIRST, world.num_frames - LAST + 1) if scorer.given(e) is not None]
        if not events:
            raise ValueError(
                f"{subject.checkpoint.file} was never trained without given frames, or with so few that something can"
                f" still happen behind them in clips of {world.num_frames} frames"
            )
        there: dict[str, Impossible] = {}
        absent: dict[str, str] = {}
        for kind in self.kinds or KINDS:
            try:
                there[kind] = Impossible(world, kind, self.seed, events)
            except ValueError as error:
                absent[kind] = str(error)
        if not there:
            raise ValueError("; ".join(absent.values()))
        said = [f"nothing of these kinds happens in this world: {', '.join(absent)}"] if absent else []

        asked = [(kind, index) for kind in there for index in range(self.num_fours)]

        def find(numbers: Sequence[int]) -> Iterator[dict[str, Any]]:
            fours = [there[kind][index] for kind, index in (asked[number] for number in numbers)]
            seeds = [zlib.crc32(f"{self.seed} {asked[number]}".encode()) for number in numbers]
            for four, losses in zip(fours, scorer(fours, seeds).tolist(), strict=True):
                yield {
                    "kind": four.kind,
                    "event": four.event,
                    "caption": four.caption,
                    "given": scorer.given(four.event),
                    "possible": losses[:2],
                    "impossible": losses[2:],
                }

        settings = {
            "kinds": list(there),
            "fours of a kind": self.num_fours,
            "events at frames": [events[0], events[-1]],
            "levels": scorer.shares,
            "noises": self.num_noises,
            "seed": self.seed,
            "split": world.split,
            "given frames": "up to the event" if scorer.gives else "none",
        }
        made = work.each(settings, len(asked), max(1, subject.sampler.batch_size // 4), find)
        rows, measures = _rows(made.found, scorer.shares, subject.pipeline.origin.weights)
        return Result(made.folder, rows, measures, settings, {next(iter(rows)): made.found}, said)


@dataclass(frozen=True)
class Scorer:
    """The denoising loss of clips at fixed levels, of the frames that are not given.

    Attributes:
        prefixes: numbers of first frames that may be given.
        shares: of noise, one for each level.
        noises: draws of noise at each level.
    """

    pipeline: Pipeline
    prefixes: Sequence[int]
    shares: Sequence[float]
    noises: int

    @property
    def gives(self) -> bool:
        """Whether any frame can be given."""
        return any(self.prefixes)

    def given(self, event: int) -> int | None:
        """How many frames of pixels are given of clips that differ from frame `event` on; None where some must be, and
        more than there are."""
        counts = in_frames(self.pipeline.canvas(), self.prefixes)
        return max((count for count in counts if count <= event), default=None)

    def __call__(self, fours: Sequence[Four], seeds: Sequence[int]) -> Tensor:
        """Losses (fours, 4, levels), float64: of the two possible clips, then of the two impossible ones.

        seeds: of each four, which decides the noise of all its clips.
        """
        films = [film for four in fours for film in (*four.possible, *four.impossible)]
        pixels = torch.stack([torch.from_numpy(film.pixels).permute(3, 0, 1, 2) for film in films])
        counts = [self.given(four.event) or 0 for four in fours for _ in range(4)]
        with self._computing():
            return self._losses(pixels, counts, seeds).unflatten(0, (len(fours), 4))

    def _losses(self, pixels: Tensor, counts: Sequence[int], seeds: Sequence[int]) -> Tensor:
        pipeline, clips = self.pipeline, to_float(pixels)
        canvas = pipeline.canvas()
        if any(counts):
            canvas = replace(canvas, first=list(pixels[:, :, 0]))
        x0 = canvas.encode(clips)
        given = self._shown(canvas, clips, counts, x0)
        shown = nothing(x0) if given is None else pipeline.given.seen(given.shown(len(x0)))
        # No caption: one that says a colour or a direction would give the answer away.
        silent = pipeline.condition([Request("", "", 0)] * len(x0), canvas, away=True)
        cond = with_given(silent, pipeline.net, shown)
        held = given if pipeline.given.in_place else None
        how = pipeline.given if isinstance(pipeline.given, Held) else HELD
        denoiser = Denoiser(pipeline.net, pipeline.path, pipeline.prediction)
        counted = x0.new_ones(x0.shape[0], x0.shape[2]) if held is None else (~held.frames).to(x0)
        found = x0.new_zeros(len(self.shares), len(x0), dtype=torch.float64)
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        for level, t in enumerate(levels_of(pipeline.path, self.shares)):
            for _ in range(self.noises):
                drawn = [torch.randn(x0.shape[1:], generator=each) for each in generators]
                eps = torch.stack(drawn).to(x0).repeat_interleave(4, dim=0)
                denoise = hold(
                    lambda x, levels: denoiser(x, levels, cond), held, eps, pipeline.path, how=how,
                    prediction=pipeline.prediction,
                )  # fmt: skip
                estimate = denoise(pipeline.path.mix(x0, eps, t.to(x0.dtype).to(x0.device)), t)
                # The velocity of the linear path, whichever the network was trained along: one measure for all runs.
                away = ((estimate.eps - estimate.x0) - (eps - x0)).double().square().mean(dim=(1, 3, 4))
                found[level] += (away * counted).sum(1) / counted.sum(1) / self.noises
        return found.T.cpu()

    def _shown(self, canvas: Canvas, clips: Tensor, counts: Sequence[int], x0: Tensor) -> Given | None:
        """The first frames of each clip, `counts` of them, as given ones."""
        if not any(counts):
            return canvas.nothing_given()
        made: list[Given] = []
        for row, count in enumerate(counts):
            if count:
                made.append(canvas.given_frames(clips[row : row + 1, :, :count], range(count)))
            else:
                bare = canvas.nothing_given()
                frames = torch.zeros(1, x0.shape[2], dtype=torch.bool, device=x0.device)
                made.append(Given(torch.zeros_like(x0[:1]), frames) if bare is None else bare)
        beside = [each.frames_of for each in made if each.frames_of is not None]
        return Given(
            torch.cat([each.latents for each in made]).to(x0),
            torch.cat([each.mask for each in made]),
            torch.cat(beside) if beside else None,
            made[0].whole,
        )

    @contextmanager
    def _computing(self) -> Iterator[None]:
        pipeline = self.pipeline
        dtype, device = pipeline.settings.precision or own_precision(pipeline.net), pipeline.device
        autocast = torch.autocast(device.type, dtype, enabled=dtype is not None)
        with evaluating(pipeline.net, pipeline.codec, pipeline.text), torch.no_grad(), autocast:
            yield


def _rows(
    found: Sequence[dict[str, Any]], levels: Sequence[float], weights: str
) -> tuple[dict[str, dict[str, Score]], dict[str, Measure]]:
    """Scores over all kinds, of each kind, of the control, and over all kinds at each level."""
    possible, impossible = (stacked([each[name] for each in found]) for name in ("possible", "impossible"))
    kinds = np.array([each["kind"] for each in found])
    told: dict[str, Estimate] = {}
    measures: dict[str, Measure] = {}

    def add(name: str, title: str, rows: Any, at: Any = slice(None)) -> None:
        told[name] = preference(possible[rows][..., at].mean(2), impossible[rows][..., at].mean(2)).pairs
        measures[name] = Measure(title, SHARE, None if name == CONTROL else True)

    real = kinds != CONTROL
    if real.any():
        add("pairs", "pairs told apart", real)
        every = preference(possible[real].mean(2), impossible[real].mean(2))
        told["fours"], measures["fours"] = every.fours, Measure("fours", SHARE, True)
    for kind in dict.fromkeys(kinds.tolist()):
        add(kind, kind, kinds == kind)
    if real.any():
        for place, level in enumerate(levels):
            add(f"noise_{level:g}", f"noise {level:g}", real, [place])
        told["surprise"], measures["surprise"] = every.surprise, Measure("loss of the impossible, more by", SHARE, True)
    chance = {name: Score(OF_CHANCE) for name in told if name != "surprise"}
    return {f"denoising loss ({weights})": scores_of(told), "chance": chance}, measures
