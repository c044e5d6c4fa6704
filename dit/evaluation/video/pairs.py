"""Measures between a predicted frame and the true one.

Each takes frames `(F, 3, H, W)` in [0, 1] twice, predicted and true, and gives a number for each frame, `(F,)`.
"""

from __future__ import annotations

import math
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from dit.config.limits import Count
from dit.evaluation.video.flow import load_weights
from dit.evaluation.video.networks import existing, sha256_of
from dit.evaluation.video.per_clip import Measure

MOST_PSNR = 100.0  # dB, of frames that are equal: the true value is infinite, and no mean could be taken
WINDOW, SIGMA = 11, 1.5  # of SSIM, pixels
UNIFORM = 7  # of SSIM as OpenSTL takes it, pixels


class FrameMeasure(Protocol):
    """measure: what it is called, and the network that it asks."""

    measure: Measure

    def __call__(self, predicted: Tensor, true: Tensor) -> Tensor: ...


class MSE:
    """Mean squared error of values in [0, 1]."""

    measure = Measure("mse", "", False)

    def __call__(self, predicted: Tensor, true: Tensor) -> Tensor:
        return (predicted.double() - true.double()).square().flatten(1).mean(1)


class PSNR:
    """Peak signal-to-noise ratio, -10 log10(MSE) of values in [0, 1], decibels, at most `MOST_PSNR`. It is taken of
    each frame and then averaged; of a whole clip's MSE it would be lower."""

    measure = Measure("psnr", "dB", True)

    def __call__(self, predicted: Tensor, true: Tensor) -> Tensor:
        return decibels(MSE()(predicted, true))


class SSIM:
    """Structural similarity (Wang, Bovik, Sheikh and Simoncelli 2004): Gaussian windows of 11 pixels, sigma 1.5, K 0.01
    and 0.03, range 1, the mean over colours and over the windows that lie wholly in the frame."""

    measure = Measure("ssim", "", True)

    def __call__(self, predicted: Tensor, true: Tensor) -> Tensor:
        away = torch.arange(WINDOW, dtype=torch.float64) - WINDOW // 2
        return structure(predicted, true, torch.exp(-0.5 * (away / SIGMA) ** 2), span=1.0, unbiased=False)


class LPIPS:
    """Learned perceptual similarity (Zhang et al. 2018, arXiv 1801.03924), version 0.1, by torchmetrics, which brings
    the weights on top of the backbone; the backbone's come from a file.

    Args:
        device: where it computes.
        file: torchvision's weights of the backbone (alexnet-owt-*.pth, vgg16-*.pth, squeezenet1_1-*.pth).
        net: which backbone. Papers differ in it, so it stands in the name.
        batch: frames at once.

    Raises ValueError or FileNotFoundError, in one line: no file is named, it is not there, or is of another network.
    """

    SMALLEST = {"alex": 32, "vgg": 16, "squeeze": 17}  # pixels of a side

    def __init__(
        self, device: torch.device | str, *, file: str | None, net: Literal["alex", "vgg", "squeeze"], batch: Count
    ) -> None:
        from torchmetrics.functional.image.lpips import _LPIPS

        path = existing(file, "lpips.file", "torchvision's weights of LPIPS' backbone")
        network = _LPIPS(net=net, pnet_rand=True)
        load_weights(_Backbone(network.net), path, "lpips.file", f"torchvision's network of net={net}", "features.")
        self.module = network.eval().requires_grad_(False).to(device)
        self.net, self.device, self.batch = net, device, batch
        self.measure = Measure(f"lpips[{net}]", "", False, f"lpips 0.1, {net}", sha256_of(path))

    @torch.no_grad()
    def __call__(self, predicted: Tensor, true: Tensor) -> Tensor:
        if min(predicted.shape[-2:]) < self.SMALLEST[self.net]:
            raise ValueError(
                f"LPIPS with net={self.net} takes frames of at least {self.SMALLEST[self.net]} pixels, not"
                f" {predicted.shape[-2]}x{predicted.shape[-1]}"
            )
        pieces = zip(predicted.split(self.batch), true.split(self.batch), strict=True)
        found = [
            self.module(one.to(self.device).float(), two.to(self.device).float(), normalize=True) for one, two in pieces
        ]
        return torch.cat(found).flatten().double().cpu()


class _Backbone(nn.Module):
    """The convolutions of LPIPS under the names of torchvision's file, which holds a classifier beside."""

    def __init__(self, slices: nn.Module) -> None:
        super().__init__()
        self.features = nn.Module()
        for part in slices.modules():
            for name, layer in part.named_children():
                if isinstance(part, nn.Sequential) and list(layer.parameters()):
                    self.features.add_module(name, layer)


class SquaredSum:
    """OpenSTL's MSE: squared errors summed over the pixels of a frame of grey values in [0, 1]. It grows with the
    frame's area: figures of 64x64 say nothing beside those of 32x32."""

    measure = Measure("openstl mse", "", False)

    def __call__(self, predicted: Tensor, true: Tensor) -> Tensor:
        return (grey(predicted) - grey(true)).square().flatten(1).sum(1)


class AbsoluteSum:
    """OpenSTL's MAE: absolute errors summed over the pixels of a frame of grey values in [0, 1]."""

    measure = Measure("openstl mae", "", False)

    def __call__(self, predicted: Tensor, true: Tensor) -> Tensor:
        return (grey(predicted) - grey(true)).abs().flatten(1).sum(1)


class UniformSSIM:
    """OpenSTL's SSIM: scikit-image's, as of the versions that it allows (up to 0.19.3): windows of 7x7 pixels that
    count alike, unbiased variances, and a range of 2, which those versions take values in floats to have."""

    measure = Measure("openstl ssim", "", True)

    def __call__(self, predicted: Tensor, true: Tensor) -> Tensor:
        return structure(grey(predicted), grey(true), torch.ones(UNIFORM, dtype=torch.float64), span=2.0, unbiased=True)


class GreyPSNR:
    """OpenSTL's PSNR: of each frame of grey values in [0, 1], then averaged; at most `MOST_PSNR`, where OpenSTL has
    infinity."""

    measure = Measure("openstl psnr", "dB", True)

    def __call__(self, predicted: Tensor, true: Tensor) -> Tensor:
        return decibels((grey(predicted) - grey(true)).square().flatten(1).mean(1))


class WrappedPSNR:
    """The PSNR of OpenSTL's published tables of Moving MNIST, which are near 38 dB where the MSE beside them makes 22.

    Its code of then, of E3D-LSTM, subtracts and squares bytes in bytes: both wrap around at 256. It says little, and is
    here for comparison with those tables alone.
    """

    measure = Measure("openstl psnr, bytes", "dB", True)

    def __call__(self, predicted: Tensor, true: Tensor) -> Tensor:
        one, two = ((grey(each) * 255).to(torch.uint8) for each in (predicted, true))
        apart = one - two  # wraps
        error = (apart * apart).double().flatten(1).mean(1)  # wraps
        return (20 * math.log10(255) - 10 * error.clamp(min=1e-10).log10()).clamp(max=MOST_PSNR)


def standard() -> list[FrameMeasure]:
    """What needs no weights."""
    return [MSE(), PSNR(), SSIM()]


def openstl() -> list[FrameMeasure]:
    """Moving MNIST as OpenSTL scores it (Tan et al. 2023, arXiv 2306.11249)."""
    return [SquaredSum(), AbsoluteSum(), UniformSSIM(), GreyPSNR(), WrappedPSNR()]


def decibels(error: Tensor) -> Tensor:
    """PSNR of mean squared errors of values in [0, 1]."""
    return (-10 * error.log10()).clamp(max=MOST_PSNR)


def grey(frames: Tensor) -> Tensor:
    """(F, 3, H, W) -> (F, 1, H, W), float64: the mean of the colours, which grey clips have in all three."""
    return frames.double().mean(1, keepdim=True).clamp(0, 1)


def structure(one: Tensor, two: Tensor, window: Tensor, span: float, unbiased: bool) -> Tensor:
    """The mean structural similarity of frames (F, C, H, W), `(F,)`, in float64.

    Args:
        window: weights of a window along one side; those of the other side are the same, and all together make 1.
        span: the range that values may have.
        unbiased: whether variances are those of a sample.

    Raises ValueError, in one line, for frames smaller than a window.
    """
    height, width = one.shape[-2:]
    size = len(window)
    if min(height, width) < size:
        raise ValueError(f"SSIM takes frames of at least {size} pixels, not {height}x{width}")
    rows, columns = (_sliding(window / window.sum(), side).to(one.device) for side in (height, width))

    def mean(values: Tensor) -> Tensor:
        return rows @ values @ columns.T

    one, two = one.double(), two.double()
    mean_one, mean_two = mean(one), mean(two)
    scale = size**2 / (size**2 - 1) if unbiased else 1.0
    var_one, var_two = scale * (mean(one * one) - mean_one**2), scale * (mean(two * two) - mean_two**2)
    both = scale * (mean(one * two) - mean_one * mean_two)
    c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
    upper = (2 * mean_one * mean_two + c1) * (2 * both + c2)
    lower = (mean_one**2 + mean_two**2 + c1) * (var_one + var_two + c2)
    return (upper / lower).flatten(1).mean(1)


def _sliding(window: Tensor, side: int) -> Tensor:
    """(side - n + 1, side): the window at each place that it fits in."""
    count = side - len(window) + 1
    found = torch.zeros(count, side, dtype=window.dtype)
    for place in range(count):
        found[place, place : place + len(window)] = window
    return found
