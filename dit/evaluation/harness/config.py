"""What `configs/evaluate.yaml` holds: every key of the top level and what it may be."""

from __future__ import annotations

from typing import TypedDict

from dit.config.limits import Count, Seed
from dit.evaluation.suites.base import Suite
from dit.sampling.guidance import Guidance
from dit.sampling.schedule import Schedule
from dit.sampling.solvers import Solver


class Config(TypedDict):
    """The whole config, as plain containers: a type stands for the node that builds one."""

    ckpt: str
    suite: dict[str, Suite]
    weights: str
    device: str
    num_prompts: Count
    seed: Seed
    batch_size: Count
    sheet_clips: Count
    schedule: Schedule | None
    solver: Solver | None
    guidance: Guidance | None
    num_steps: Count | None
    trusted: list[str]
    out: str | None
