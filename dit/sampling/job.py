"""What the pipeline works on: samples that are asked for and checked, one batch of them, and what comes out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dit.sampling.request import Request
from dit.sampling.runtime import Timer
from dit.sampling.schedule import Schedule
from dit.sampling.tasks import Canvas, Plan, Task


class Samples(NamedTuple):
    """What a pipeline returns, on the CPU.

    Attributes:
        pixels: (B, 3, num_frames, height, width) float32 in [-1, 1]; chained clips are one long clip.
        latents: (B, C, F, H, W) float32.
        info: how they were made, plain values (`Pipeline.info`), and what it took: seconds_per_step, peak_memory_gb.
    """

    pixels: Tensor
    latents: Tensor
    info: dict[str, Any]


@dataclass(frozen=True)
class Trained:
    """What a checkpoint was trained for; the pipeline warns when it is asked for something else."""

    num_frames: int
    height: int
    width: int
    fps: float
    schedule: Schedule
    given: bool  # whether it has seen given frames


@dataclass(frozen=True)
class Job:
    """Samples that are asked for, checked: what `Pipeline.prepare` makes of requests.

    Attributes:
        batches: samples that are denoised together. How many share a batch can change the last bits of a sample, since
            products of other sizes round otherwise.
        task, plan: what is given, as asked and as pixels and latents.
        num_steps: as asked; `levels`, float64 (steps + 1,), may be fewer where `plan.strength` is below 1.
        canvas: the clip to be made.
    """

    batches: list[list[Request]]
    task: Task
    plan: Plan
    num_steps: int
    levels: Tensor
    canvas: Canvas

    @property
    def steps(self) -> int:
        """Solver steps of one batch."""
        return self.plan.chunks * (len(self.levels) - 1)

    def rows(self, batch: int) -> slice:
        """Which of all samples a batch holds."""
        start = sum(len(each) for each in self.batches[:batch])
        return slice(start, start + len(self.batches[batch]))


@dataclass(frozen=True)
class Round:
    """One batch while it is made: what the network is told, and its sources of noise."""

    cond: dict[str, Tensor]
    uncond: dict[str, Tensor]
    generators: list[torch.Generator]
    plan: Plan
    job: Job
    timer: Timer


def draw(generators: Sequence[torch.Generator], shape: tuple[int, ...]) -> Tensor:
    """Unit noise (B, *shape), each sample from its own generator on the CPU: the same bits on every device."""
    return torch.stack([torch.randn(shape, generator=generator) for generator in generators])


def start_at(levels: Tensor, strength: float) -> Tensor:
    """`levels` from `strength` on: what is noisier is left out."""
    if strength >= 1:
        return levels
    return torch.cat([levels.new_tensor([strength]), levels[levels < strength]])


def for_each(values: Any, count: int, what: str) -> list[Any]:
    """One value for all or one for each, as `count` values; ValueError for another number of them."""
    listed = [values] * count if values is None or isinstance(values, (str, int)) else list(values)
    if len(listed) != count:
        raise ValueError(f"{len(listed)} {what} for {count} prompts: give one, or one for each")
    return listed


def cost(made: Sequence[Samples]) -> dict[str, float]:
    """Mean seconds a step and the largest memory over batches."""
    seconds = sum(each.info["seconds_per_step"] for each in made) / len(made)
    memory = max(each.info["peak_memory_gb"] for each in made)
    return {"seconds_per_step": seconds, "peak_memory_gb": memory}
