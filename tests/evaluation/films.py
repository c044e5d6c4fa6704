"""Clips with known motion for tests of measures: discs over a still ground, and textures that slide."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional


def discs(count: int, seed: int, frames: int = 8, side: int = 32, speed: float = 1.5) -> Tensor:
    """uint8 (count, 3, F, H, W): a disc of some colour on each, which moves steadily over a still, rough ground."""
    draw = torch.Generator().manual_seed(seed)
    y, x = (torch.arange(side).view(shape).float() for shape in ((1, side, 1), (1, 1, side)))
    clips = []
    for _ in range(count):
        colour, angle = torch.rand(3, generator=draw), 2 * math.pi * float(torch.rand(1, generator=draw))
        start = side * (0.35 + 0.3 * torch.rand(2, generator=draw))
        ground = torch.zeros(3, side, side)
        for grid, contrast in ((4, 0.3), (side // 2, 0.25)):
            drawn = torch.rand(1, 3, grid, grid, generator=draw) * contrast
            ground += functional.interpolate(drawn, size=(side, side), mode="bilinear", align_corners=False)[0]
        film = []
        for frame in range(frames):
            away = speed * (frame - frames / 2)
            centre = start + away * torch.tensor([math.cos(angle), math.sin(angle)])
            disc = (side / 6 + 0.5 - ((x - centre[0]) ** 2 + (y - centre[1]) ** 2).sqrt()).clamp(0, 1)
            film.append(ground * (1 - disc) + colour.view(3, 1, 1) * disc)
        clips.append((torch.stack(film, 1) * 255).round().to(torch.uint8))
    return torch.stack(clips)


def texture(x: Tensor, y: Tensor, seed: int) -> Tensor:
    """(3, ...) in [0.1, 0.9]: a sum of waves at any places; the same seed is the same texture."""
    draw = torch.Generator().manual_seed(seed)
    found = torch.zeros(3, *x.shape, dtype=torch.float64)
    waves = 12
    for _ in range(waves):
        length, angle = 6 + 14 * torch.rand(1, generator=draw), 2 * math.pi * torch.rand(1, generator=draw)
        phase = 2 * math.pi * torch.rand(3, generator=draw)
        along = (x * angle.cos() + y * angle.sin()) * (2 * math.pi / length)
        found += torch.sin(along + phase.view(3, *[1] * x.ndim))
    return 0.5 + 0.4 * found / waves**0.5 / 1.5


def sliding(velocity: tuple[float, float], frames: int = 6, side: int = 48, seed: int = 0) -> Tensor:
    """float (3, F, H, W) in [-1, 1]: a texture that moves by `velocity` (x, y) pixels a frame, without rounding."""
    y, x = torch.meshgrid(*[torch.arange(side, dtype=torch.float64)] * 2, indexing="ij")
    film = [texture(x - velocity[0] * frame, y - velocity[1] * frame, seed) for frame in range(frames)]
    return (torch.stack(film, 1).clamp(0, 1) * 2 - 1).float()


def even(velocity: tuple[float, float], clip: Tensor) -> Tensor:
    """The flow of a clip all of which moves by `velocity`: (F - 1, 2, H, W)."""
    _, frames, height, width = clip.shape
    return torch.tensor(velocity).view(1, 2, 1, 1).expand(frames - 1, 2, height, width).clone()


def noisy(clips: Tensor, levels: float, seed: int = 0) -> Tensor:
    """uint8 clips with normal noise of so many levels, another one in every frame."""
    draw = torch.Generator().manual_seed(seed)
    return (clips + levels * torch.randn(clips.shape, generator=draw)).round().clamp(0, 255).to(torch.uint8)


def blurred(clips: Tensor) -> Tensor:
    """uint8 clips (..., F, H, W) of which each frame is averaged over 5x5 pixels."""
    flat = functional.pad(clips.float().flatten(0, -3)[:, None], (2, 2, 2, 2), mode="replicate")
    return functional.avg_pool2d(flat, 5, stride=1)[:, 0].reshape(clips.shape).round().to(torch.uint8)


def frozen(clips: Tensor, frame: int = 0) -> Tensor:
    """Clips (..., F, H, W) that stay at one frame."""
    return clips[..., frame : frame + 1, :, :].expand_as(clips).contiguous()


def shuffled(clips: Tensor, seed: int = 0) -> Tensor:
    """Clips (..., F, H, W) with their frames in another order."""
    order = torch.randperm(clips.shape[-3], generator=torch.Generator().manual_seed(seed))
    return clips[..., order, :, :]
