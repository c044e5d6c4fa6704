"""Optical flow of clips: where each pixel goes from one frame to the next.

Flow is `(B, 2, H, W)` in pixels, x to the right and y down: what lies at (x, y) in the first frame lies at (x, y) +
flow in the second. Exact flow, which a world knows, is better than any estimate; a score says whose flow it is of.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from dit.config.limits import Count, Positive
from dit.evaluation.video.networks import existing, sha256_of


class FlowEstimator(Protocol):
    """name: in the names of scores. sha256: of its weights, "" where it has none."""

    name: str
    sha256: str

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        """Frames (B, 3, H, W) in [0, 1] -> the flow between them (B, 2, H, W), on the frames' device."""
        ...


class Pyramid:
    """Least squares over windows, coarse to fine (Lucas and Kanade 1981; Bouguet 2001), without weights.

    All colours count. Where a window has no texture the flow stays what coarser levels found, so that inside even
    objects it is a guess; at their edges, and wherever there is texture, it is good to some tenths of a pixel
    (docs/measures.md).

    Args:
        device: where it computes.
        window: standard deviation of the windows' Gaussian weight, pixels.
        iterations: at each level.
        smallest: shorter side of the coarsest level, pixels.
        ridge: added to the squared gradients, of pixels in [0, 1]: what is less textured does not move.
    """

    name = "pyramid"
    sha256 = ""

    def __init__(
        self, device: torch.device | str, *, window: Positive, iterations: Count, smallest: Count, ridge: Positive
    ) -> None:
        self.device = device
        self.window, self.iterations, self.smallest, self.ridge = window, iterations, smallest, ridge

    @torch.no_grad()
    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        levels = [(first.to(self.device), second.to(self.device))]
        while min(levels[-1][0].shape[-2:]) >= 2 * self.smallest:
            levels.append(tuple(_halved(frame) for frame in levels[-1]))  # type: ignore[arg-type]
        flow = torch.zeros_like(levels[-1][0][:, :2])
        for one, two in reversed(levels):
            flow = _resized(flow, *one.shape[-2:])
            for _ in range(self.iterations):
                flow = flow + self._step(one, two, flow)
        return flow.to(first.device)

    def _step(self, first: Tensor, second: Tensor, flow: Tensor) -> Tensor:
        """What the flow (B, 2, H, W) lacks, at most a pixel."""
        there = warped(second, flow)
        slopes = (_gradient(first) + _gradient(there)) / 2  # (2, B, 3, H, W): along x, along y
        change = there - first
        pairs = (
            (slopes[0], slopes[0]),
            (slopes[1], slopes[1]),
            (slopes[0], slopes[1]),
            (slopes[0], change),
            (slopes[1], change),
        )
        products = torch.stack([(a * b).sum(1) for a, b in pairs])  # (5, B, H, W)
        xx, yy, xy, xt, yt = self._windowed(products.flatten(0, 1)[:, None]).unflatten(0, (5, -1))
        xx, yy = xx + self.ridge, yy + self.ridge
        determinant = xx * yy - xy * xy
        step = torch.cat([xy * yt - yy * xt, xy * xt - xx * yt], dim=1) / determinant
        return step / torch.hypot(step[:, :1], step[:, 1:]).clamp(min=1)  # `norm` over so short an axis is far slower

    def _windowed(self, values: Tensor) -> Tensor:
        """(B, 1, H, W) averaged with a Gaussian; beyond the border is the border."""
        reach = math.ceil(2.5 * self.window)
        places = torch.arange(-reach, reach + 1, dtype=values.dtype, device=values.device)
        weights = torch.exp(-0.5 * (places / self.window) ** 2)
        weights = weights / weights.sum()
        padded = functional.pad(values, (reach,) * 4, mode="replicate")
        rows = functional.conv2d(padded, weights.view(1, 1, 1, -1))
        return functional.conv2d(rows, weights.view(1, 1, -1, 1))


class Raft:
    """RAFT (Teed and Deng 2020, arXiv 2003.12039) as torchvision has it, with weights from a file.

    Args:
        device: where it computes.
        file: of its weights, as torchvision distributes them (raft_large_*.pth, raft_small_*.pth).
        small: which of the two networks the file is of.

    Raises ValueError or FileNotFoundError, in one line: no file is named, it is not there, or is not of that network.
    """

    SHORTEST = 128  # pixels: its pyramid of correlations takes no smaller frames

    def __init__(self, device: torch.device | str, *, file: str | None, small: bool) -> None:
        from torchvision.models import optical_flow

        path = existing(file, "flow.file", "weights of torchvision's RAFT")
        self.name = "raft_small" if small else "raft"
        made = optical_flow.raft_small if small else optical_flow.raft_large
        self.network: nn.Module = made(weights=None, progress=False)
        load_weights(self.network, path, "flow.file", f"torchvision's {'raft_small' if small else 'raft_large'}")
        self.network = self.network.eval().requires_grad_(False).to(device)
        self.device = device
        self.sha256 = sha256_of(path)

    @torch.no_grad()
    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        height, width = first.shape[-2:]
        larger = max(1.0, self.SHORTEST / min(height, width))
        size = [math.ceil(side * larger / 8) * 8 for side in (height, width)]
        frames = [
            functional.interpolate(frame.to(self.device), size=size, mode="bilinear", align_corners=False) * 2 - 1
            for frame in (first, second)
        ]
        return _resized(self.network(*frames)[-1], height, width).to(first.device)


def load_weights(module: nn.Module, file: Path, key: str, wanted: str, prefix: str = "") -> None:
    """Weights of a file into a module: `torch.load` of plain tensors, which runs no code. prefix: of the names that are
    taken; all of the module's must be there, and the file's others of that prefix be none.

    Raises ValueError, in one line, where the file is damaged or of another network.
    """
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
        module.load_state_dict({name: tensor for name, tensor in state.items() if name.startswith(prefix)})
    except Exception as error:  # of a file that may be anything
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ValueError(f"{key}={file} does not hold the weights of {wanted} ({first[:120]})") from None


def warped(frames: Tensor, flow: Tensor) -> Tensor:
    """Frames (B, C, H, W) looked at through a flow: at each place what lies at the place plus flow, bilinearly. What
    lies beyond the frame is its border."""
    height, width = frames.shape[-2:]
    x, y = _targets(flow)
    grid = torch.stack([2 * x / max(width - 1, 1) - 1, 2 * y / max(height - 1, 1) - 1], dim=-1)
    return functional.grid_sample(frames, grid, mode="bilinear", padding_mode="border", align_corners=True)


def inside(flow: Tensor) -> Tensor:
    """Which pixels stay in the frame, bool (B, H, W)."""
    height, width = flow.shape[-2:]
    x, y = _targets(flow)
    return (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)


def seen_in_both(forward: Tensor, backward: Tensor) -> Tensor:
    """Which pixels of the first frame are not covered in the second, bool (B, H, W), of the flow there and back: those
    that come back to where they were, |f + b|^2 < 0.01 (|f|^2 + |b|^2) + 0.5 (Sundaram, Brox and Keutzer 2010), and
    stay in the frame."""
    back = warped(backward, forward)
    apart = (forward + back).square().sum(1)
    lengths = forward.square().sum(1) + back.square().sum(1)
    return (apart < 0.01 * lengths + 0.5) & inside(forward)


def _targets(flow: Tensor) -> tuple[Tensor, Tensor]:
    height, width = flow.shape[-2:]
    y, x = torch.meshgrid(
        torch.arange(height, dtype=flow.dtype, device=flow.device),
        torch.arange(width, dtype=flow.dtype, device=flow.device),
        indexing="ij",
    )
    return x + flow[:, 0], y + flow[:, 1]


def _gradient(frames: Tensor) -> Tensor:
    """Central differences, (2, B, C, H, W): along x and along y."""
    padded = functional.pad(frames, (1, 1, 1, 1), mode="replicate")
    across = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) / 2
    down = (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) / 2
    return torch.stack([across, down])


def _halved(frames: Tensor) -> Tensor:
    size = [math.ceil(side / 2) for side in frames.shape[-2:]]
    return functional.interpolate(frames, size=size, mode="bilinear", align_corners=False, antialias=True)


def _resized(flow: Tensor, height: int, width: int) -> Tensor:
    """A flow at another size, in pixels of that size."""
    before = flow.shape[-2:]
    if before == (height, width):
        return flow
    larger = functional.interpolate(flow, size=(height, width), mode="bilinear", align_corners=False)
    scale = torch.tensor([width / before[1], height / before[0]], dtype=flow.dtype, device=flow.device)
    return larger * scale.view(2, 1, 1)
