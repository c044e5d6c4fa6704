"""What the pipeline works on: samples that are asked for and checked, one batch of them, and what comes out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dit.sampling.canvas import Canvas
from dit.sampling.conds import CondPair
from dit.sampling.plan import Plan
from dit.sampling.request import Request
from dit.sampling.runtime import Timer
from dit.sampling.tasks import Task


class Samples(NamedTuple):
    """What a pipeline returns, on the CPU.

    Attributes:
        pixels: (B, 3, num_frames, height, width) float32 in [-1, 1]; chained clips are one long clip.
        latents: (B, C, F, H, W) float32, of a network in float64 float64.
        info: how they were made, plain values (`Pipeline.info`), and what it took: seconds_per_step,
            peak_memory_gb (of the GPU, or of the process on a CPU), peak_host_memory_gb.
    """

    pixels: Tensor
    latents: Tensor
    info: dict[str, Any]


@dataclass(frozen=True)
class Job:
    """Samples that are asked for, checked: what `Pipeline.prepare` makes of requests.

    Attributes:
        batches: samples that are denoised together. How many share a batch can change the last bits of a sample, since
            products of other sizes round otherwise.
        task, plan: what is given, as asked and as pixels and latents.
        num_steps: as asked.
        levels: of each clip that is chained, float64 (steps + 1,) or (steps + 1, F): fewer steps where `plan.strength`
            is below 1, more where frames begin one behind another.
        canvas: the clip to be made.
        noise: (B or 1, C, F, H, W) that the (first) clip begins with; None: the seeds' own.
    """

    batches: list[list[Request]]
    task: Task
    plan: Plan
    num_steps: int
    levels: list[Tensor]
    canvas: Canvas
    noise: Tensor | None = None

    @property
    def steps(self) -> int:
        """Solver steps of one batch."""
        return sum(len(levels) - 1 for levels in self.levels)

    def asked(self, which: Sequence[int]) -> tuple[list[Request], Canvas]:
        """The samples of some batches, and the canvas with the pictures that these begin and end with."""

        def of_these(pictures: Sequence[Tensor] | None) -> Sequence[Tensor] | None:
            if pictures is None or len(pictures) == 1:
                return pictures
            return [picture for batch in which for picture in pictures[self.rows(batch)]]

        canvas = replace(self.canvas, first=of_these(self.canvas.first), last=of_these(self.canvas.last))
        return [each for batch in which for each in self.batches[batch]], canvas

    def rows(self, batch: int) -> slice:
        """Which of all samples a batch holds."""
        start = sum(len(each) for each in self.batches[:batch])
        return slice(start, start + len(self.batches[batch]))

    def round(self, batch: int, conds: Sequence[CondPair], timer: Timer) -> Round:
        """A batch that is to be made now. conds: of each of the chained clips."""
        rows = self.rows(batch)
        generators = [torch.Generator().manual_seed(each.seed) for each in self.batches[batch]]
        noise = self.noise[rows] if self.noise is not None and len(self.noise) > 1 else self.noise
        return Round(conds, generators, self.plan.rows(rows), noise, self, timer)


@dataclass(frozen=True)
class Round:
    """One batch while it is made: its conditioning in each of the chained clips, its sources of noise, and its part of
    the plan."""

    conds: Sequence[CondPair]
    generators: list[torch.Generator]
    plan: Plan
    noise: Tensor | None
    job: Job
    timer: Timer


def draw(generators: Sequence[torch.Generator], shape: tuple[int, ...]) -> Tensor:
    """Unit noise (B, *shape), each sample from its own generator on the CPU: the same bits on every device."""
    return torch.stack([torch.randn(shape, generator=generator) for generator in generators])


def requests(
    prompts: str | int | Sequence[str | int],
    seeds: int | Sequence[int],
    negative_prompt: str | None | Sequence[str],
    labels: str | int | None | Sequence[str | int | None],
    signals: Mapping[str, Any],
) -> list[Request]:
    """What the arguments of a pipeline's call ask for, one a sample. ValueError for lists of different lengths."""
    prompts, seeds = listed(prompts, seeds)
    negatives = for_each(negative_prompt, len(prompts), "negative prompts")
    said = {name: for_each(each, len(prompts), name) for name, each in signals.items()}
    more = [{name: each[i] for name, each in said.items()} for i in range(len(prompts))]
    return list(map(Request, prompts, negatives, seeds, for_each(labels, len(prompts), "labels"), more))


def for_each(values: Any, count: int, what: str) -> list[Any]:
    """One value for all or one for each, as `count` values; ValueError for another number of them."""
    listed = [values] * count if values is None or isinstance(values, (str, int, float)) else list(values)
    if len(listed) != count:
        raise ValueError(f"{len(listed)} {what} for {count} prompts: give one, or one for each")
    return listed


def listed(prompts: str | int | Sequence[str | int], seeds: int | Sequence[int]) -> tuple[list[str | int], list[int]]:
    """A prompt and a seed for each sample. One prompt is for all seeds; one seed is the first of as many as there are
    prompts. ValueError for none, or for lists of other lengths."""
    said = None if isinstance(prompts, (str, int)) else list(prompts)
    if isinstance(seeds, Iterable):
        numbers = [int(seed) for seed in seeds]
    else:
        numbers = [int(seeds) + i for i in range(1 if said is None else len(said))]
    texts: list[str | int] = [prompts] * len(numbers) if isinstance(prompts, (str, int)) else said or []
    if not texts or len(texts) != len(numbers):
        raise ValueError(f"{len(texts)} prompts and {len(numbers)} seeds: each sample, one or more, needs both")
    return texts, numbers


def own_noise(noise: Tensor | None, batch: int, shape: tuple[int, ...]) -> Tensor | None:
    """Noise that is passed in place of the seeds' own; ValueError unless it is for these samples."""
    if noise is not None and (
        len(noise) not in (1, batch) or noise.shape[1:] != shape or not noise.is_floating_point()
    ):
        wanted = (batch, *shape)
        raise ValueError(f"noise is {noise.dtype} {tuple(noise.shape)}; latents of these samples are float {wanted}")
    return noise


def cost(made: Sequence[Samples]) -> dict[str, float]:
    """Mean seconds a step and the largest memory over batches."""
    seconds = sum(each.info["seconds_per_step"] for each in made) / len(made)
    memory = {name: max(each.info[name] for each in made) for name in ("peak_memory_gb", "peak_host_memory_gb")}
    return {"seconds_per_step": seconds, **memory}
