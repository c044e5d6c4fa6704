"""A tiny model, data and trainer for the engine's tests."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import Callback
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch import Tensor, nn

from data.batch import Batch
from data.module import VideoData
from dit.adapters import LoRA
from dit.codec.pixel import PixelCodec
from dit.diffusion.conditioning import Unconditional
from dit.diffusion.given import HELD
from dit.diffusion.levels import Levels, LogitNormal
from dit.diffusion.loss import Objective
from dit.diffusion.path import Linear
from dit.diffusion.prediction import V
from dit.diffusion.space import Output
from dit.diffusion.weighting import Uniform
from dit.engine import frozen
from dit.engine.callbacks.after_step import AfterStep, Task
from dit.engine.callbacks.checkpoint import Checkpoints
from dit.engine.callbacks.guard import GradientGuard
from dit.engine.callbacks.metrics import Metrics
from dit.engine.callbacks.preview import Preview
from dit.engine.callbacks.randomness import Randomness
from dit.engine.callbacks.validation import Validation
from dit.engine.ema import EMA
from dit.engine.interrupts import Interrupts
from dit.engine.lr_schedule import Constant
from dit.engine.module import VideoDiffusion
from dit.engine.optim import adamw, muon
from dit.engine.profiles import ConstantDecay, PowerProfile
from dit.engine.training import Training
from dit.engine.writers import CSV, Writers
from dit.recipes.denoising import Denoising
from dit.recipes.distribution_matching import DistributionMatching
from dit.sampling import schedule
from dit.sampling.guidance import NoGuidance
from dit.sampling.pipeline import Pipeline
from dit.sampling.settings import Settings, Shape
from dit.sampling.solvers import Euler
from dit.signals.base import Around
from dit.signals.text import Text
from dit.text.bytes import ByteEncoder

FRAMES, SIZE = 2, 4


class TinyNet(nn.Module):
    """Two residual blocks over the channels of each place; the text's pooled vector is added. Fully random weights."""

    def __init__(self, width: int = 8, text_width: int = 8) -> None:
        super().__init__()
        self.in_channels = 3
        self.embed = nn.Linear(3, width)
        self.level = nn.Linear(1, width)
        self.text = nn.Linear(text_width, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width))
            for _ in range(2)
        )
        self.final = nn.Linear(width, 3)

    def num_tokens(self, frames: int, height: int, width: int) -> int:
        return frames * height * width

    def forward(self, x: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        x = x.movedim(1, -1)  # (B, F, H, W, C)
        x = self.embed(x) + self.level(t[..., None])[:, :, None, None] + self.text(cond["pooled"])[:, None, None, None]
        for block in self.blocks:
            x = x + block(x)
        return self.final(x).movedim(-1, 1)


class Clips:
    """Clip `index` is uniform noise seeded by its index."""

    def __init__(self, num_clips: int) -> None:
        self.num_clips = num_clips

    def __len__(self) -> int:
        return self.num_clips

    def __getitem__(self, index: int) -> Any:
        generator = torch.Generator().manual_seed(index)
        pixels = torch.randint(0, 256, (3, FRAMES, SIZE, SIZE), generator=generator, dtype=torch.uint8)
        return {"pixels": pixels, "caption": f"clip {index}", "id": f"id{index}", "fps": 8.0}


def video_data(num_clips: int = 10, batch_size: int = 4, **changes: Any) -> VideoData:
    settings: dict[str, Any] = {
        "train": Clips(num_clips), "val": Clips(6), "batch_size": batch_size, "val_batch_size": 4, "num_workers": 0,
        "seed": 0, "num_frames": FRAMES, "height": SIZE, "width": SIZE, "fps": 8.0, "timeout": 0,
        "pin_memory": False, "max_bad_share": 0.0,
    }  # fmt: skip
    return VideoData(**{**settings, **changes})


def objective(levels: Levels | None = None) -> Objective:
    return Objective(Linear(), V(), levels or LogitNormal(0.0, 1.0), Uniform(), Unconditional(), Output(), HELD)


def pipeline(module: VideoDiffusion) -> Pipeline:
    return Pipeline(
        module.net, module.codec, module.text, module.objective.path, module.objective.prediction,
        module.signals, Settings(schedule.Linear(), Euler(), NoGuidance(), num_steps=2), Shape(FRAMES, SIZE, SIZE, 8.0),
    )  # fmt: skip


def muon_optimizer(module: nn.Module) -> torch.optim.Optimizer:
    return muon(
        module, lr=0.02, momentum=0.9, nesterov=True, ns_steps=5, ns_smallest=None, weight_decay=0.1,
        adjust_lr="match_rms_adamw", adamw_lr=0.01, adamw_betas=(0.9, 0.99), adamw_eps=1e-8, adamw_weight_decay=0.2,
    )  # fmt: skip


def model(max_steps: int = 10, seed: int = 0, lr: float = 1e-2, **changes: Any) -> VideoDiffusion:
    torch.manual_seed(seed)
    settings: dict[str, Any] = {
        "net": TinyNet(), "codec": PixelCodec(scale=1.0), "text": ByteEncoder(8, 0, 2, 31, [], 1),
        "objective": objective(),
        "optimizer": lambda m: adamw(m, lr=lr, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.1, fused=True),
        "lr_schedule": Constant(1), "max_steps": max_steps, "caption_dropout": 0.3, "compile_mode": None,
        "config": {"name": "tiny"},
    }  # fmt: skip
    settings |= changes
    text = settings["text"]
    signals = {} if text is None else {"text": Text(Around(settings["net"], text))}
    return VideoDiffusion(**{"signals": signals, "recipe": Denoising(settings["objective"]), **settings})


def adapted(**changes: Any) -> VideoDiffusion:
    """The model with low-rank adapters in its blocks."""
    module = model(**changes)
    torch.manual_seed(5)
    module.adapt(LoRA(rank=2, alpha=3.0, dropout=0.0, rslora=False, targets=["blocks.*"]))
    return module


def distilled(student_every: int = 1, kind: type[DistributionMatching] = DistributionMatching, **changes: Any) -> Any:
    """A student and a critic, each with an optimizer of its own, beside a frozen teacher."""

    def critic_optim(module: nn.Module) -> torch.optim.Optimizer:
        return adamw(module, lr=5e-3, betas=(0.0, 0.99), eps=1e-8, weight_decay=0.0, fused=True)

    given = changes.get("objective") or objective()
    recipe = kind(given, critic_optim=critic_optim, student_every=student_every, teacher_guidance=2.0)
    return model(recipe=recipe, **changes)


def idle(**changes: Any) -> VideoDiffusion:
    """The model with a parameter in its first block that the loss does not reach."""
    module = model(**changes)
    block = module.net.get_submodule("blocks.0")
    block.register_parameter("idle", nn.Parameter(torch.randn(4)))
    return module


def average(use: str = "fast") -> EMA:
    return EMA({"fast": ConstantDecay(0.9), "power": PowerProfile(0.15)}, use=use, snapshot_every=None)


def training(max_steps: int, **changes: Any) -> Training:
    settings: dict[str, Any] = {
        "max_steps": max_steps, "accelerator": "cpu", "devices": 1, "num_nodes": 1, "strategy": None,
        "precision": "32-true", "matmul_precision": "highest", "accumulate": 1, "gradient_clip_norm": None,
        "compile_mode": None,
    }  # fmt: skip
    return Training(**{**settings, **changes})


def fit(
    module: VideoDiffusion,
    callbacks: list[Callback],
    run: Path,
    data: VideoData | None = None,
    **changes: Any,
) -> Any:
    """Trains `module` for its `max_steps` with a guard and the given callbacks; returns the trainer."""
    settings = training(module.max_steps, **changes)
    trainer = settings.trainer([GradientGuard(settings.gradient_clip_norm), *callbacks], run)
    trainer.fit(module, datamodule=data or video_data())
    return trainer


def tasks(*tasks: Task) -> AfterStep:
    """Nothing but `tasks` after a step; checkpoints are far away."""
    return AfterStep(Interrupts(), Checkpoints(every=10**9, keep=1), tasks)


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in module.named_parameters() if p.requires_grad}


class Record(Callback):
    """Keeps the weights after every optimizer step, and the ids that each step saw."""

    def __init__(self) -> None:
        self.weights: list[dict[str, Tensor]] = []
        self.ids: list[list[str]] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int) -> None:
        self.ids.append(batch.ids)
        if trainer.global_step > len(self.weights):
            self.weights.append(weights(pl_module))


class OneLevel(Levels):
    """Every clip at the same level: nothing random is left in the loss once the noise is fixed too."""

    def __call__(self, batch: int, frames: int, num_tokens: int, generator: Any, device: Any) -> Tensor:
        return torch.full((batch, 1), 0.6, device=device)


def fixed_noise(x0: Tensor, generator: Any) -> Tensor:
    """Stands in for `dit.diffusion.loss.noise_like`: noise that belongs to the clip, whoever trains on it."""
    return torch.sin(37 * x0.flip(-1))


def everyone(
    module: VideoDiffusion, seed: int = 0, every: int = 3, validate_every: int = 3, preview_every: int | None = None,
    interrupts: Interrupts | None = None, **changes: Any,
) -> list[Callback]:  # fmt: skip
    """The callbacks of a real run, in their order; the guard is added by `fit`."""
    ema = average()
    guard = changes.pop("guard", GradientGuard(1.0))
    metrics = Metrics(Writers([CSV()]), guard, every=2)
    tasks: list[Task] = [Validation(ema, metrics, every=validate_every, level_buckets=2, error_levels=2, raw=False)]
    if preview_every is not None:
        prompts = ["a clip", "another"]
        tasks.append(
            Preview(ema, metrics.writers, pipeline(module), None, every=preview_every, prompts=prompts, seed=5)
        )
    after_step = AfterStep(interrupts or Interrupts(), Checkpoints(every=every, keep=2), tasks)
    return [ema, guard, Randomness(seed), metrics, after_step]


def train(
    module: VideoDiffusion, run: Path, data: VideoData, before: Sequence[Callback] = (), after: Sequence[Callback] = (),
    callbacks: Mapping[str, Any] | None = None, **changes: Any,
) -> Any:  # fmt: skip
    """A real run in `run`, resumed where it has a checkpoint; returns the trainer."""
    last = run / "checkpoints" / "last.ckpt"
    resumes = last.is_file()
    if resumes:
        frozen.restore(module, last)
    if module.frozen_mark is None:
        frozen.write(module, run, first=rank_zero_only.rank == 0)
    done = load(run)["global_step"] if resumes else 0
    everything = [*before, *everyone(module, **(callbacks or {})), *after]
    trainer = training(module.max_steps, **changes).trainer(everything, run, done)
    trainer.fit(module, datamodule=data, ckpt_path=last if resumes else None, weights_only=True)
    return trainer


def load(run: Path) -> dict[str, Any]:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)


def same(a: Any, b: Any, path: str = "") -> list[str]:
    """Where two plain structures differ, bit for bit."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return [] if a.dtype == b.dtype and torch.equal(a, b) else [path]
    if isinstance(a, dict) and isinstance(b, dict):
        if a.keys() != b.keys():
            return [f"{path}: {sorted(map(str, a.keys() ^ b.keys()))}"]
        return [where for key in a for where in same(a[key], b[key], f"{path}.{key}")]
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        if len(a) != len(b):
            return [f"{path}: {len(a)} and {len(b)}"]
        return [where for i, (x, y) in enumerate(zip(a, b, strict=True)) for where in same(x, y, f"{path}[{i}]")]
    return [] if a == b else [f"{path}: {a!r} and {b!r}"]


def table(run: Path) -> list[dict[str, str]]:
    """metrics.csv without what the clock says."""
    with (run / "metrics.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if not k.startswith("speed/")} for row in csv.DictReader(file)]


EXACT = ("state_dict", "ema", "optimizer_states", "lr_schedulers", "rng", "VideoData", "running_losses", "global_step")
