"""Where a pipeline's weights are from, and what they were trained for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dit.diffusion.given import Showing
from dit.interop.recipes import TakesGiven
from dit.sampling.canvas import Canvas
from dit.sampling.plan import Plan
from dit.sampling.request import Request
from dit.sampling.schedule import Schedule
from dit.sampling.settings import SHAPE, Settings, Shape


@dataclass(frozen=True)
class Trained:
    """What a checkpoint was trained for; sampling warns when it is asked for something else.

    Attributes:
        schedule: that of its previews. given: whether it has seen given frames, and clips without.
        interval: the lowest and the highest noise level that it has seen.
    """

    shape: Shape
    schedule: Schedule
    given: TakesGiven
    interval: tuple[float, float] = (0.0, 1.0)

    def warnings(self, canvas: Canvas, plan: Plan, schedule: Schedule) -> Iterator[str]:
        """One line for each way in which a sample is not what the checkpoint was trained for."""
        if self.given == "always" and not plan.begins_with_given:
            yield "no frame is given, but this checkpoint was never trained without: task=i2v image=FILE gives one"
        if plan.uses_given and self.given == "never":
            yield "frames are given, but this checkpoint was trained without given frames (conditioning=tasks)"
        if self.interval != (0, 1):
            low, high = self.interval
            yield (
                f"this checkpoint was trained for noise levels {low:g} to {high:g} alone; sample with the run for the"
                " others too: ckpt= names the one of the high levels, low_noise_ckpt= that of the low ones"
            )
        for name in SHAPE:
            trained, asked = getattr(self.shape, name), getattr(canvas, name)
            if trained != asked:
                yield f"sampling with {name}={asked:g}, but the checkpoint was trained with {trained:g}"
        if schedule.of_a_frame != self.schedule.of_a_frame:
            yield f"sampling with {schedule.of_a_frame}, but the checkpoint was trained for {self.schedule.of_a_frame}"


@dataclass(frozen=True)
class Origin:
    """Of the weights of a pipeline.

    Attributes:
        weights: which they are (`raw`, `ema:<profile>`).
        checkpoint: path and step of the file that they are from, and the hashes of its data cards; empty where there is
            none.
        low_noise: likewise, of the network of the low noise levels where that is another one.
        trained: what to warn about; None warns of nothing.
        per_frame: whether the network was trained with a noise level for each frame.
        parts: what was changed in its parts (`parts.py`), plain.
        takes_given: whether a sample may, or must, begin with given frames.
        negative_prompt: what guidance leads away from where a sample does not say.
    """

    weights: str = "as passed"
    checkpoint: Mapping[str, Any] = field(default_factory=dict)
    low_noise: Mapping[str, Any] = field(default_factory=dict)
    trained: Trained | None = None
    per_frame: bool = True
    parts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    takes_given: TakesGiven = "may"
    negative_prompt: str = ""

    def check(self, plan: Plan) -> None:
        """Raises ValueError for given frames that the network was never shown, or never was without."""
        if self.takes_given == "always" and not plan.begins_with_given:
            raise ValueError(f"a {self.weights} makes videos of a picture, and none is given: task=i2v image=FILE")
        if self.takes_given == "never" and plan.uses_given:
            raise ValueError(
                f"a {self.weights} makes videos of a text alone, and frames are given: leave out task=, or take the"
                " model's image-to-video version"
            )


def warnings(
    trained: Trained | None,
    settings: Settings,
    given: Showing,
    canvas: Canvas,
    plan: Plan,
    wanted: Sequence[Request],
) -> Iterator[str]:
    """What has no effect, and where samples leave what the checkpoint was `trained` for: one line each."""
    if any(each.negative_prompt for each in wanted) and not settings.guidance.reads_negative:
        yield f"the negative prompt has no effect with {settings.guidance}; use guidance=cfg guidance.scale=2"
    if plan.uses_given and settings.context_level and not given.in_place:
        level = settings.context_level
        yield f"context_level={level:g} has no effect: this model is shown given frames beside the clip, clean"
    if trained is not None:
        yield from trained.warnings(canvas, plan, settings.schedule)
