"""Clips of several shapes, padded, in buckets and packed, side by side: for `scripts/bench.py shapes=true`.

Each way gets the same clips, as many of each shape, in random order, and one budget of tokens for a batch:

- `padding`: each clip is padded to the largest size along every axis, and `batch` clips are the budget;
- `buckets`: a batch holds clips of one shape (`data/shapes=buckets`);
- `packed`: a batch is one sequence of clips of any shapes (`data/shapes=packed`).

A real token is one of a clip, not of its padding.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from data.batch import Shape
from data.buckets import Buckets
from data.packing import Packed
from data.shapes import Shapes
from dit.net.patches import token_grid
from scripts.clock import Subject, autocast, seconds, spread
from scripts.memory import estimate_memory
from scripts.settings import Settings

CLIPS = 1980  # of an epoch
ASPECTS = ("9:16", "3:4", "1:1", "4:3", "16:9")
Inputs = Callable[[Settings], tuple[Tensor, Tensor, dict[str, Tensor]]]  # x, t and cond of clips of one shape


class Latents:
    """What a network with such a patch makes of clips in latents (`data.batch.Sizes`)."""

    def __init__(self, patch: Sequence[int]) -> None:
        self.patch = patch[0], patch[1], patch[2]

    def tokens(self, num_frames: int, height: int, width: int) -> int:
        f, h, w = token_grid(self.patch, num_frames, height, width)
        return f * h * w

    def nearest(self, num_frames: int, height: int, width: int) -> tuple[int, int, int]:
        sizes = zip((num_frames, height, width), self.patch, strict=True)
        f, h, w = (max(1, round(size / step)) * step for size, step in sizes)
        return f, h, w


@dataclass
class Way:
    """One way to make batches of an epoch's clips, and what was measured of it.

    Attributes:
        batches: the shapes of the clips of each, those of one shape side by side.
        padded: the shape that each clip is padded to; None: its own.
        times, tokens: seconds of each training step that was timed, and its real tokens.
    """

    name: str
    batches: list[list[Shape]]
    padded: Shape | None = None
    times: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)


def ways(settings: Settings, sizes: Latents) -> tuple[list[Way], list[Shape], int]:
    """The three, the shapes of the clips, and the budget of a batch in tokens."""
    kinds: dict[str, Shapes] = {
        kind.__name__.lower(): kind(None, None, ASPECTS, None, None, 1, 0.5)  # type: ignore[abstract]
        for kind in (Buckets, Packed)
    }
    shapes = kinds["packed"].listed(Shape(settings.frames, settings.height, settings.width), sizes)
    largest = Shape(*(max(lengths) for lengths in zip(*shapes, strict=True)))
    budget = settings.batch * sizes.tokens(*largest)
    tokens, rng = np.array([sizes.tokens(*shape) for shape in shapes]), np.random.default_rng(0)
    number = rng.permutation(np.arange(CLIPS) % len(shapes))
    every = np.arange(settings.batch, CLIPS + 1, settings.batch)
    made = [Way("padding", cut(number, every, shapes), largest)]
    for name, kind in kinds.items():
        order, ends = kind.batches(number, tokens, budget, 1, 0, rng)
        made.append(Way(name, cut(number[order], ends, shapes)))
    return made, shapes, budget


def cut(number: Any, ends: Any, shapes: Sequence[Shape]) -> list[list[Shape]]:
    """Numbers of shapes, cut where each batch ends -> the shapes of each batch, equal ones side by side."""
    starts = [0, *ends[:-1]]
    return [[shapes[i] for i in sorted(number[start:end].tolist())] for start, end in zip(starts, ends, strict=True)]


def compare(build: Callable[[], nn.Module], subject: Subject, inputs: Inputs, settings: Settings) -> None:
    """Times training steps of one network on batches of each way in turn, and prints the table. build: makes another
    such network."""
    net: Any = subject.net
    sizes = Latents(net.patch)
    made, shapes, budget = ways(settings, sizes)
    listed = ", ".join(f"{shape} ({sizes.tokens(*shape)})" for shape in shapes)
    print(f"clips: {CLIPS} of {len(shapes)} shapes, frames x height x width in latents (tokens): {listed}")
    print(f"budget of a batch: {budget} tokens", flush=True)
    for way in made:
        fullest = max(way.batches, key=lambda batch: sum(sizes.tokens(*shape) for shape in batch))
        given = groups_of(net, way, fullest, inputs, settings)
        memory = estimate_memory(build, given, settings.precision == "bf16", call=in_groups)
        print(f"memory of a step on the fullest batch, estimated, {way.name}: {memory}", flush=True)
    for index in range(settings.warmup + settings.repeats):
        for way in made[:: 1 if index % 2 else -1]:  # nobody always follows the one that heats the caches
            batch = way.batches[index * 7 % len(way.batches)]
            way.times.append(step(subject, way, batch, inputs, settings))
            way.tokens.append(sum(sizes.tokens(*shape) for shape in batch))
        if sys.stderr.isatty():
            print(f"\rturn {index + 1}/{settings.warmup + settings.repeats}", end="", file=sys.stderr)
    report(made, sizes, budget, settings)


def step(subject: Subject, way: Way, batch: Sequence[Shape], inputs: Inputs, settings: Settings) -> float:
    """Seconds of one training step."""
    given = groups_of(subject.net, way, batch, inputs, settings)

    def train() -> None:
        with autocast(settings):
            out = in_groups(subject.net, *given)
        out.float().square().mean().backward()
        subject.optimizer.step()
        subject.optimizer.zero_grad(set_to_none=True)

    return seconds(train, torch.device(settings.device))


def groups_of(net: Any, way: Way, batch: Sequence[Shape], inputs: Inputs, settings: Settings) -> tuple[Any, ...]:
    """The arguments of `Backbone.of_groups` for the clips of a batch."""
    shown = [way.padded or shape for shape in batch]
    groups = [(shape, len(list(alike))) for shape, alike in groupby(shown)]
    given = [inputs(replace(settings, batch=n, frames=f, height=h, width=w)) for (f, h, w), n in groups]
    xs, ts, conds = ([*each] for each in zip(*given, strict=True))
    channels = [{name: cond.pop(name) for name in net.concat_channels if name in cond} for cond in conds]
    return xs, ts, {name: torch.cat([each[name] for each in conds]) for name in conds[0]}, channels


def in_groups(net: Any, *given: Any) -> Tensor:
    """All numbers that the network puts out, (any,)."""
    return torch.cat([out.flatten() for out in net.of_groups(*given)])


def report(made: Sequence[Way], sizes: Latents, budget: int, settings: Settings) -> None:
    columns = "batches", "of an epoch", "clips each", "real of computed", "of the budget", "ms a step", "real tokens/s"
    print(f"\n| {' | '.join(columns)} |\n|{' --- |' * len(columns)}")
    for way in made:
        real = sum(sizes.tokens(*shape) for batch in way.batches for shape in batch)
        computed = sum(sizes.tokens(*(way.padded or shape)) for batch in way.batches for shape in batch)
        times, tokens = way.times[settings.warmup :], way.tokens[settings.warmup :]
        rates = [count / time for count, time in zip(tokens, times, strict=True)]
        print(
            f"| {way.name} | {len(way.batches)} | {np.mean([len(batch) for batch in way.batches]):.1f}"
            f" | {real / computed:.1%} | {real / (len(way.batches) * budget):.1%}"
            f" | {spread([1e3 * time for time in times])} | {spread(rates, '.0f')} |"
        )
