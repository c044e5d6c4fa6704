"""Small parts that keep the contracts, and a checkpoint of them: what sampling is tested with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from torch import Tensor, nn

from dit.codec.base import Codec


class FakeNet(nn.Module):
    """Elementwise in places, with a glance at the mean over frames; remembers what it was asked."""

    def __init__(self, in_channels: int, patch: list[int], num_classes: int | None) -> None:
        super().__init__()
        self.in_channels, self.patch, self.num_classes = in_channels, tuple(patch), num_classes
        self.gain = nn.Parameter(torch.linspace(0.5, 1.0, in_channels)[:, None, None, None])
        self.table = nn.Embedding((num_classes or 0) + 1, 1)
        self.register_buffer("offset", torch.tensor(0.1))
        self.asked: list[tuple[Tensor, Tensor, dict[str, Tensor]]] = []

    def num_tokens(self, frames: int, height: int, width: int) -> int:
        for name, size, patch in zip(("F", "H", "W"), (frames, height, width), self.patch, strict=True):
            if size % patch:
                raise ValueError(f"latent {name}={size} is not a multiple of the patch's {patch}")
        return frames * height * width // (self.patch[0] * self.patch[1] * self.patch[2])

    def forward(self, x: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        self.asked.append((x.clone(), t.clone(), cond))
        told = torch.zeros(len(x), device=x.device)
        if "text" in cond:
            told = told + (cond["text"].mean(-1) * cond["text_mask"]).sum(1) / cond["text_mask"].sum(1)
        if "label" in cond:
            told = told + self.table(cond["label"])[:, 0]
        told = told[:, None, None, None, None]
        return torch.tanh(self.gain * (x + x.mean(2, keepdim=True)) + told + cond["given"] - t[:, None, :, None, None])


class FakeCodec(Codec):
    """Averages windows, frame by frame or packing `stride[0]` frames with the first alone; decoding repeats."""

    def __init__(self, stride: list[int], causal: bool) -> None:
        super().__init__()
        self.channels, self.causal = 3, causal
        self.stride = (stride[0], stride[1], stride[2])

    def encode(self, pixels: Tensor) -> Tensor:
        self.latent_shape(*pixels.shape[2:])
        if self.causal:
            pixels = torch.cat([pixels[:, :, :1].expand(-1, -1, self.stride[0] - 1, -1, -1), pixels], 2)
        return nn.functional.avg_pool3d(pixels, self.stride)

    def decode(self, latents: Tensor) -> Tensor:
        for axis, stride in zip((2, 3, 4), self.stride, strict=True):
            latents = latents.repeat_interleave(stride, axis)
        return latents[:, :, self.stride[0] - 1 :] if self.causal else latents


class FakeText(nn.Module):
    """Bytes as they are, scaled by a weight."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        rows = [[1, *prompt.encode()] for prompt in prompts]
        length = max(map(len, rows))
        ids = torch.tensor([row + [0] * (length - len(row)) for row in rows], device=self.scale.device)
        text = (self.scale * ids / 128)[..., None].expand(-1, -1, self.width)
        return {"text": text, "text_mask": ids > 0, "pooled": text.mean(1)}


def config(**changes: Any) -> dict[str, Any]:
    """A resolved training config of fakes; `changes` replace whole top-level entries."""
    made = {
        "net": {"_target_": "tests.sampling.fakes.FakeNet", "in_channels": 3, "patch": [1, 1, 1], "num_classes": None},
        "codec": {"_target_": "tests.sampling.fakes.FakeCodec", "stride": [1, 1, 1], "causal": False},
        "text": {"_target_": "tests.sampling.fakes.FakeText", "width": 4},
        "path": {"_target_": "dit.diffusion.path.Linear"},
        "prediction": {"_target_": "dit.diffusion.prediction.V"},
        "sampling": {
            "schedule": {"_target_": "dit.sampling.schedule.Shifted", "shift": 3.0},
            "solver": {"_target_": "dit.sampling.solvers.Euler"},
            "guidance": {
                "_target_": "dit.sampling.guidance.ClassifierFree",
                "scale": 2.0,
                "rescale": 0.0,
                "interval": [0.0, 1.0],
            },
            "num_steps": 4,
        },
        "data": {"num_frames": 6, "height": 8, "width": 10, "fps": 8, "_target_": "data.module.VideoData"},
        "ema": {"use": "long"},
    }
    return made | changes


FAKES = ("dit.", "tests.")


def checkpoint(run: Path, **changes: Any) -> Path:
    """Saves `checkpoints/last.ckpt` in the contract's format and returns the run directory."""
    torch.manual_seed(0)
    kept = config(**changes)
    net = FakeNet(**{key: value for key, value in kept["net"].items() if key != "_target_"})
    weights = {f"net.{key}": value for key, value in net.state_dict().items()}
    trained = {f"net.{key}" for key, _ in net.named_parameters()}
    if kept["text"] is not None:
        weights["text.scale"] = torch.tensor(1.5)
        trained.add("text.scale")
    ema = {
        name: {key: weights[key].float() + shift for key in trained} for name, shift in (("short", 0.25), ("long", 0.5))
    }
    (run / "checkpoints").mkdir(parents=True, exist_ok=True)
    content = {"state_dict": weights, "ema": ema, "config": kept, "global_step": 7}
    torch.save(content, run / "checkpoints" / "last.ckpt")
    return run


def write_lossless(path: Path, frames: np.ndarray, fps: int) -> Path:
    """A video (F, H, W, 3) uint8 that reads back bit for bit."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=fps)
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "bgr0"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format="bgr0")))
        container.mux(stream.encode())
    return path


def random_frames(seed: int, count: int, height: int = 8, width: int = 10) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), np.uint8)


def as_pixels(frames: np.ndarray) -> Tensor:
    """(F, H, W, 3) uint8 as pixels (3, F, H, W) in [-1, 1]."""
    return torch.from_numpy(frames).permute(3, 0, 1, 2).float() / 127.5 - 1
