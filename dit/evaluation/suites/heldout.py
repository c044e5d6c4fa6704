"""Prompts that a run was never trained on, and who reads their samples: for suites, and for runs that go on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from data.worlds.world import World
from dit.evaluation.objects import judge
from dit.evaluation.suites.promises import Promises
from dit.evaluation.verdicts import Report
from dit.evaluation.world import MEASURES, Expectation, Reader
from dit.sampling.request import Request
from dit.scores import Measure


@dataclass(frozen=True)
class HeldoutPrompts:
    """Prompts of a world, each with the seed of its sample.

    judge: (number of a prompt, its clip (3, F, H, W), float in [-1, 1] or uint8) -> verdict, read from pixels alone.
    measures: what verdicts add up to.
    """

    prompts: list[str]
    seeds: list[int]
    judge: Callable[[int, Tensor], Any]
    measures: Mapping[str, Measure]

    @property
    def requests(self) -> list[Request]:
        return [Request(prompt, "", seed) for prompt, seed in zip(self.prompts, self.seeds, strict=True)]

    def report(self, verdicts: Sequence[Any]) -> Report[Any]:
        return Report(tuple(verdicts), self.measures)


def plain_prompts(world: World, count: int, seed: int) -> HeldoutPrompts:
    """Of a world of one object in straight motion (`World.is_plain`), in the measures of suite=world. The first sample
    has the noise of `seed`, the next ones that of the following seeds."""
    prompts = world.prompts(count)
    expected = [Expectation(**world.expect(prompt)) for prompt in prompts]  # type: ignore[arg-type]
    reader = Reader(**world.legend())  # type: ignore[arg-type]
    seeds = [seed + index for index in range(len(prompts))]
    return HeldoutPrompts(prompts, seeds, lambda index, clip: reader.judge(clip, expected[index]), MEASURES)


def rich_prompts(world: World, count: int, seed: int) -> HeldoutPrompts:
    """Of any other world that is not steered, in the measures of prompts of suite=objects."""
    prompts, promises = world.prompts(count), Promises(world)
    promised = [promises.of(prompt) for prompt in prompts]
    seeds = [seed + index for index in range(len(prompts))]
    return HeldoutPrompts(
        prompts, seeds, lambda index, clip: promises.reader.judge(clip, promised[index]), judge.MEASURES
    )


def prompts_of_clips(train: Any, val: Any, count: int, seed: int) -> HeldoutPrompts:
    """Of the clips that a run is validated on.

    Raises:
        ValueError: in one line, why they have no truth to be held against.
    """
    for clips, did in ((train, "trained"), (val, "validated")):
        if not isinstance(clips, World):
            what = "nothing" if clips is None else type(clips).__name__
            raise ValueError(f"this run is {did} on {what}, and only the truth of worlds (data/worlds) is known")
    if val.keys:
        raise ValueError(f"this world is steered by {', '.join(val.keys)}, so its prompts alone promise no motion")
    if val.is_plain:
        check_unseen(train, val)
        return plain_prompts(val, count, seed)
    if may_be_seen(train, val):
        raise ValueError(
            f"split {val.split} was trained on; validate on another one, as data.val.split=heldout, or on other scenes "
            f"of it: data.val.seed={train.seed + 1}"
        )
    return rich_prompts(val, count, seed)


def check_unseen(train: World, val: World) -> None:
    """Raises ValueError where the world of validation shows what training showed."""
    seen = {tuple(spec.objects) for spec in train.specs()} & {tuple(spec.objects) for spec in val.specs()}
    if seen:
        raise ValueError(f"{len(seen)} of the prompts were trained on; validate with data.val.split=heldout")


def may_be_seen(train: World, val: World) -> bool:
    """Whether a rich world of validation may show what training showed: not where another seed draws other scenes."""
    seen = train.combinations & val.combinations
    for words in ("shown_sizes", "shown_speeds"):
        seen = seen if set(getattr(train.lexicon, words)) & set(getattr(val.lexicon, words)) else set()
    return bool(seen) and val.seed == train.seed and val.split != "longer"  # whose scenes are others
