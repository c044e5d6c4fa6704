"""The settings of a pipeline: the shape of samples and how they are made, for every way in."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from dit.sampling.guidance import Guidance
from dit.sampling.runtime import pick_dtype
from dit.sampling.schedule import Schedule
from dit.sampling.solvers import Solver


@dataclass(frozen=True)
class Shape:
    """A clip in pixels; fps: its frames a second."""

    num_frames: int
    height: int
    width: int
    fps: float


@dataclass(frozen=True)
class Settings:
    """How samples are made.

    Args:
        schedule, solver, guidance: of `dit.sampling`.
        num_steps: steps that each frame takes from noise to data.
        context_level: noise level at which given frames are shown to the network (they are returned clean).
        precision: dtype for the network's matrix products, or its name; None computes in the weights' own.
        batch_size: samples that are denoised at once; None takes all.
        offload_text: keep text encoder and network from being on the device together: a large encoder encodes all
            prompts before the first sample, while the network is on the CPU, and is freed; a small one moves.
        offload_experts: of two networks that share the noise levels keep on the device the one that computes.
        reuse_text: make what the network makes of the text alone once a clip, not once a step: the same samples, for
            2 * depth * text tokens * width values more a sample and pass.
    """

    schedule: Schedule
    solver: Solver
    guidance: Guidance
    num_steps: int
    context_level: float = 0.0
    precision: torch.dtype | None = None
    batch_size: int | None = None
    offload_text: bool = False
    offload_experts: bool = False
    reuse_text: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "precision", pick_dtype(self.precision))
        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError(f"batch_size={self.batch_size} must be at least 1, or null for all at once")
        if not 0 <= self.context_level < 1:
            raise ValueError(f"context_level={self.context_level} is outside [0, 1); 0.0 shows given frames clean")


SHAPE = tuple(field.name for field in fields(Shape))
NAMES = (*(field.name for field in fields(Settings)), *SHAPE)


def changed(settings: Settings, shape: Shape, changes: Mapping[str, Any]) -> tuple[Settings, Shape]:
    """Settings and shape with other values by name; None keeps the present one. A schedule and a guidance may fill in
    values of theirs from those that they replace (`change`).

    Raises ValueError for a name that neither has, and for values that cannot be.
    """
    for name in changes:
        if name not in NAMES:
            near = difflib.get_close_matches(name, NAMES, n=1)
            hint = f"did you mean {near[0]}" if near else f"there are {', '.join(NAMES)}"
            raise ValueError(f"{name} is no setting of a pipeline; {hint}")
    wanted = {name: value for name, value in changes.items() if value is not None}
    for name in ("schedule", "guidance"):
        if name in wanted:
            wanted[name] = wanted[name].change(getattr(settings, name))
    of_shape = {name: wanted.pop(name) for name in SHAPE if name in wanted}
    return replace(settings, **wanted), replace(shape, **of_shape)
