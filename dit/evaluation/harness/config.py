"""What `configs/evaluate.yaml` holds: every key of the top level and what it may be."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypedDict

import torch

from dit.config.limits import Count, Seed
from dit.evaluation.suites.base import Suite
from dit.evaluation.video.flow import FlowEstimator
from dit.evaluation.video.networks import Network
from dit.evaluation.video.pairs import FrameMeasure
from dit.sampling.guidance import Guidance
from dit.sampling.schedule import Schedule
from dit.sampling.solvers import Solver


class Config(TypedDict):
    """The whole config, as plain containers: a type stands for the node that builds one."""

    ckpt: str
    suite: dict[str, Suite]
    features: Callable[[torch.device | str], Network] | None
    frame_features: Callable[[torch.device | str], Network] | None
    flow: Callable[[torch.device | str], FlowEstimator] | None
    lpips: Callable[[torch.device | str], FrameMeasure] | None
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
    folders: dict[str, str]
    out: str | None
