"""The clips that `suite=objects` asks a run for, each kind with its truth, and what its samples are held against.

Of prompts (`Prompted`), of given first frames (`Continued`), and of given first frames under one key or none
(`Pressed`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from data.batch import to_float
from data.worlds.state import Clip
from data.worlds.steer import ACTIONS, Presses, columns
from dit.evaluation.harness.result import Score, scores_of
from dit.evaluation.objects import flow as flow_of
from dit.evaluation.objects import judge, physics, response
from dit.evaluation.objects.flow import flow_error
from dit.evaluation.objects.judge import Scene, Verdict
from dit.evaluation.objects.physics import Physics, hold
from dit.evaluation.objects.response import OF_TRUE, Response, respond
from dit.evaluation.segment import Floats
from dit.evaluation.suites.floors import FROZEN, NOISE, floors, frozen, noise
from dit.evaluation.suites.of_world import exact_flow, of_objects, pixels
from dit.evaluation.suites.promises import Promises
from dit.evaluation.verdicts import Report
from dit.evaluation.video.flow import FlowEstimator
from dit.sampling.request import Request
from dit.sampling.tasks import Extend, Task
from dit.scores import Measure
from dit.statistics import Estimate, estimate

OTHER_KEYS = "real clips under other keys (floor)"
FOLLOWED = {**physics.MEASURES, **flow_of.MEASURES}
KEPT = 8  # clips that are kept for a while, since several things are asked of one


class Asked(Protocol):
    """A kind of clips: what is asked for, and what is found of a video that stands in the place of each."""

    @property
    def name(self) -> str:
        """Short, of the kind."""

    @property
    def measures(self) -> Mapping[str, Measure]:
        """That it gives."""

    def __len__(self) -> int: ...

    @property
    def task(self) -> Task | None:
        """What is given."""

    def request(self, index: int) -> Request: ...

    def real(self, index: int) -> Tensor:
        """The true clip, uint8 (3, F, H, W)."""

    def spoilt(self, index: int) -> dict[str, Tensor]:
        """Floors: clips that every measure should notice, by the name of their row, uint8."""

    def look(self, index: int, video: Tensor) -> dict[str, Any]:
        """What is found of a video, plain values."""

    def scores(self, found: Sequence[Mapping[str, Any]]) -> dict[str, Score]:
        """What the findings of all clips add up to."""


@dataclass(frozen=True)
class Followed(Physics):
    """What is found of a clip that goes on from given frames."""

    flow_error: float | None = None


@dataclass(frozen=True)
class Prompted:
    """Clips of prompts. action: name of the signal that hears keys, "" where none does; then those of the true clip are
    told."""

    promises: Promises
    prompts: Sequence[str]
    seed: int
    action: str = ""
    name = "prompts"
    measures = judge.MEASURES
    task = None

    def __len__(self) -> int:
        return len(self.prompts)

    def request(self, index: int) -> Request:
        signals = {self.action: _actions(self._clip(index).state.actions)} if self.action else {}
        return Request(self.prompts[index], "", self.seed + index, signals=signals)

    def real(self, index: int) -> Tensor:
        return pixels(self._clip(index))

    def spoilt(self, index: int) -> dict[str, Tensor]:
        return floors(self.real, index, len(self), 0)

    def look(self, index: int, video: Tensor) -> dict[str, Any]:
        return asdict(self.promises.reader.judge(video, self.promises.of(self.prompts[index])))

    def verdicts(self, found: Sequence[Mapping[str, Any]]) -> Report[Verdict]:
        made = [Verdict(**{**each, "reasons": tuple(each["reasons"])}) for each in found]
        return Report(tuple(made), judge.MEASURES)

    def scores(self, found: Sequence[Mapping[str, Any]]) -> dict[str, Score]:
        return scores_of(self.verdicts(found).estimates())

    @cached_property
    def _clip(self) -> Any:
        return lru_cache(KEPT)(lambda index: self.promises.world.film(self.prompts[index], self.seed + index))


@dataclass(frozen=True)
class Continued:
    """Clips that go on from their first `given` frames; all that follows is then known. flow: estimates that of videos;
    None leaves it out. action: as in `Prompted`."""

    promises: Promises
    count: int
    given: int
    seed: int
    flow: FlowEstimator | None
    action: str = ""
    name = "continued"
    measures = FOLLOWED

    def __len__(self) -> int:
        return self.count

    @property
    def task(self) -> Task:
        return _continue([self.real(index) for index in range(self.count)], self.given)

    def request(self, index: int) -> Request:
        clip = self._clip(index)
        signals = {self.action: _actions(clip.state.actions)} if self.action else {}
        return Request(clip.caption, "", self.seed + index, signals=signals)

    def real(self, index: int) -> Tensor:
        return pixels(self._clip(index))

    def spoilt(self, index: int) -> dict[str, Tensor]:
        return floors(self.real, index, self.count, self.given)

    def look(self, index: int, video: Tensor) -> dict[str, Any]:
        clip = self._clip(index)
        scene = self.promises.reader.read(video, self.promises.of(clip.caption))
        return followed(self.promises, clip, scene, video, self.given, self.flow)

    def scores(self, found: Sequence[Mapping[str, Any]]) -> dict[str, Score]:
        return scores_of(followed_estimates(found))

    @cached_property
    def _clip(self) -> Any:
        return lru_cache(KEPT)(self.promises.world.clip)


@dataclass(frozen=True)
class Pressed:
    """Scenes of a steered world that go on from their first `given` frames, each under no key and under every key, held
    from the last given frame on. Number s * (K + 1) + k is scene s under key k - 1; k = 0 is no key.

    action: name of the signal that hears keys.
    """

    promises: Promises
    scenes: int
    given: int
    seed: int
    action: str
    name = "keys"

    @property
    def keys(self) -> Sequence[str]:
        """Of the world."""
        return self.promises.world.keys

    @property
    def variants(self) -> int:
        """Clips of a scene."""
        return len(self.keys) + 1

    @property
    def measures(self) -> Mapping[str, Measure]:
        own = {_of_key(key): Measure(f"response to {key}", OF_TRUE, None) for key in self.keys}
        return {**response.MEASURES, **own}

    def __len__(self) -> int:
        return self.scenes * self.variants

    @property
    def task(self) -> Task:
        return _continue([self.real(index) for index in range(len(self))], self.given)

    def request(self, index: int) -> Request:
        clip, scene = self._clip(index), index // self.variants
        return Request(clip.caption, "", self.seed + scene, signals={self.action: _actions(clip.state.actions)})

    def real(self, index: int) -> Tensor:
        return pixels(self._clip(index))

    def spoilt(self, index: int) -> dict[str, Tensor]:
        clip, (scene, key) = self.real(index), divmod(index, self.variants)
        made = {FROZEN: frozen(clip, self.given), NOISE: noise(clip, self.given, index)}
        if key and len(self.keys) > 1:
            return {OTHER_KEYS: self.real(scene * self.variants + 1 + key % len(self.keys)), **made}
        return {OTHER_KEYS: clip, **made} if len(self.keys) > 1 else made

    def look(self, index: int, video: Tensor) -> dict[str, Any]:
        promise = self.promises.of(self._clip(index).caption)
        tracks = self.promises.reader.read(video, promise).tracks
        places = np.stack([track.places for track in tracks], axis=1)[self.given :].round(4).astype(object)
        places[np.isnan(places.astype(np.float64))] = None  # JSON has no NaN
        return {"places": places.tolist()}  # (F', N, 2)

    def responses(self, found: Sequence[Mapping[str, Any]]) -> dict[str, list[Response]]:
        """Of each key, those scenes in which it moves something."""
        made: dict[str, list[Response]] = {key: [] for key in self.keys}
        for scene in range(self.scenes):
            numbers = range(scene * self.variants, (scene + 1) * self.variants)
            places = [np.array(found[number]["places"], np.float64) for number in numbers]
            true = [self._true(number) for number in numbers]
            for key, own, wanted in zip(self.keys, places[1:], true[1:], strict=True):
                answer = respond(own, places[0], wanted, true[0])
                if answer is not None:
                    made[key].append(answer)
        return made

    def scores(self, found: Sequence[Mapping[str, Any]]) -> dict[str, Score]:
        made = self.responses(found)
        every = [each for answers in made.values() for each in answers]
        own = {_of_key(key): estimate([each.response for each in answers]) for key, answers in made.items()}
        return scores_of(
            {
                "response": estimate([each.response for each in every]),
                "response_error": estimate([each.response_error for each in every]),
                **own,
            }
        )

    def presses(self, key: int) -> Presses:
        """(F, K): nothing, and from the last given frame on the key of a number; 0 is none."""
        made = np.zeros((self.promises.world.num_frames, len(self.keys)), np.uint8)
        if key:
            made[self.given - 1 :, key - 1] = 1
        return made

    def _true(self, index: int) -> Floats:
        world = self.promises.world
        return np.asarray(self._clip(index).state.positions[self.given :] * world.height)

    @cached_property
    def _clip(self) -> Any:
        def clip(index: int) -> Clip:
            scene, key = divmod(index, self.variants)
            return self.promises.world.clip(scene, self.presses(key))

        return lru_cache(2 * self.variants)(clip)


def followed(
    promises: Promises, clip: Clip, scene: Scene, video: Tensor, given: int, flow: FlowEstimator | None
) -> dict[str, float | None]:
    """How far a video that goes on from the first frames of a clip is from its truth: the values of `Followed`.
    scene: what was read of the video."""
    promise = promises.of(clip.caption)
    found = asdict(hold(scene, promise, promises.course(clip.state, given), promises.reader.templates))
    if flow is None:
        return found
    exact, visible = exact_flow(promises.world, clip.state)
    return {
        **found,
        "flow_error": flow_error(video, exact, visible & of_objects(promises.world, clip.state), given, flow),
    }


def followed_estimates(found: Sequence[Mapping[str, Any]]) -> dict[str, Estimate]:
    """The mean of what `followed` finds of all clips, with its interval."""
    made = [Followed(**each) for each in found]
    return Report(tuple(made), FOLLOWED).estimates()


def _of_key(key: str) -> str:
    return f"response_{key}"


def _actions(presses: Presses) -> str:
    """As `signals.action` takes them."""
    return " ".join(f"{number:.0f}" for number in columns(presses)[ACTIONS])  # type: ignore[str-format]


def _continue(clips: Sequence[Tensor], given: int) -> Task:
    return Extend(torch.stack([to_float(clip[:, :given]) for clip in clips]), num_context=given, times=1)
