"""What `configs/sample.yaml` holds: every key of the top level and what it may be. Tasks add keys of their own."""

from __future__ import annotations

from typing import Any, Literal, Protocol, TypedDict

from torch import Tensor

from dit.config.limits import Count, NonNegative, Positive, Seed, Share
from dit.sampling.fit import Fit
from dit.sampling.guidance import Guidance
from dit.sampling.schedule import Schedule
from dit.sampling.solvers import Solver
from dit.sampling.tasks import Task

Dtype = Literal["own", "float32", "bfloat16", "float16", "float64"]


class Tiles(Protocol):
    """A codec's tiling."""

    def encode(self, pixels: Tensor, compression: Any, code: Any) -> Tensor: ...
    def decode(self, latents: Tensor, compression: Any, code: Any) -> Tensor: ...


class NetConfig(TypedDict):
    """`own` here and below: as the run or the folder has it."""

    dtype: Dtype


class CodecConfig(TypedDict):
    dtype: Dtype
    batch: Count | Literal["own", "auto"] | None
    decode_timestep: NonNegative | Literal["own"]
    decode_noise_scale: Share | Literal["own"]
    tiling: Tiles | Literal["own"] | None


class TextConfig(TypedDict):
    dtype: Dtype | None


class GivenConfig(TypedDict):
    fresh: NonNegative | Literal["own"]


class Config(TypedDict):
    """The whole config, as plain containers: a type stands for the node that builds one."""

    ckpt: str | None
    pretrained: str | None
    low_noise_ckpt: str | None
    boundary: Share | None
    causal_block: Count | None
    weights: str
    device: str
    prompt: str | None
    prompt_file: str | None
    negative_prompt: str | None
    label: str | int | None
    signals: dict[str, Any]
    num_samples: Count
    seed: Seed
    schedule: Schedule | None
    solver: Solver | None
    guidance: Guidance | None
    fit: Fit
    task: Task
    num_steps: Count | None
    num_frames: Count | None
    height: Count | None
    width: Count | None
    fps: Positive | None
    batch_size: Count
    context_level: Share
    precision: str | None
    net: NetConfig
    codec: CodecConfig
    text: TextConfig
    given: GivenConfig
    offload_text: bool
    text_cache: str | None
    folders: dict[str, str]
    offload_experts: bool
    reuse_text: bool
    trusted: list[str]
    out: str | None
    sheet_clips: Count
    again: str | None
