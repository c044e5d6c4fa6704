"""How much each noise level counts in the loss.

A weighting is defined in one space and acts there: `weighting(path, t)` is the factor of the squared error in
`weighting.space`. `in_space` gives the weight that means the same when the errors are taken elsewhere, so that
"min-SNR" is the same objective whichever quantity is compared. Each class names the space where its formula stays
finite at both ends, and beside it the formula of its paper.

The level distribution multiplies the weighting: for the objective of a paper take its levels too.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from dit.config.limits import Positive
from dit.diffusion.path import Path
from dit.diffusion.prediction import Prediction
from dit.diffusion.space import X0, Space, Velocity, weight_conversion

# exp(40) is far from the limits of float32, and no level between the ends that float32 can hold reaches it.
LARGEST_LOG_SNR = 40.0


class Weighting(ABC):
    """A factor for the squared error at each level, in the space `space`; None: in whichever space is compared."""

    space: ClassVar[Space | None]

    @abstractmethod
    def __call__(self, path: Path, t: Tensor) -> Tensor:
        """Weights in the shape of t, in `self.space`."""

    def in_space(self, space: Space, path: Path, prediction: Prediction, t: Tensor) -> Tensor:
        """The same weighting for errors taken in `space`, in the shape of t."""
        weight = self(path, t)
        if self.space is None:
            return weight
        return weight * weight_conversion(self.space, space, path, prediction, t)


class Uniform(Weighting):
    """1 in the space that is compared, as in Ho et al. 2020 (arXiv:2006.11239, eq. 14) and in flow matching."""

    space = None

    def __call__(self, path: Path, t: Tensor) -> Tensor:
        return torch.ones_like(t)


class MinSNR(Weighting):
    """min(SNR, gamma) in x0 space (Hang et al. 2023, arXiv:2303.09556, section 3).

    Their table: x0 min(SNR, gamma); eps min(SNR, gamma) / SNR; v min(SNR, gamma) / (SNR + 1).

    Args:
        gamma: where the weight stops growing towards clean levels; 5 in the paper.
    """

    space = X0()

    def __init__(self, gamma: Positive) -> None:
        if gamma <= 0:
            raise ValueError(f"gamma={gamma} must be above 0; the paper uses 5")
        self.gamma = gamma

    def __call__(self, path: Path, t: Tensor) -> Tensor:
        return path.log_snr(t).exp().clamp(max=self.gamma)


class Sigmoid(Weighting):
    """-1/2 dl/dt sigmoid(bias - l) in eps space, l the log-SNR.

    The sigmoid weighting of Kingma & Gao 2023 (arXiv:2303.00848; the weighted loss of section 2, bias 2) and the
    sigmoid loss of Hoogeboom et al. 2024 (arXiv:2410.19324; bias by resolution). dl/dt makes it an integral over
    log-SNR, so that for uniform levels the objective does not depend on the path. With
    d = alpha' sigma - sigma' alpha = alpha sigma dl/dt / 2 the same weight in velocity space is
    sigmoid(bias - l) exp(l / 2) / |d|, which is finite everywhere.

    Args:
        bias: log-SNR up to which noise levels count in full.
    """

    space = Velocity()

    def __init__(self, bias: float) -> None:
        self.bias = bias

    def __call__(self, path: Path, t: Tensor) -> Tensor:
        l = path.log_snr(t).clamp(-LARGEST_LOG_SNR, LARGEST_LOG_SNR)
        d = path.alpha_dot(t) * path.sigma(t) - path.sigma_dot(t) * path.alpha(t)
        return torch.exp(F.logsigmoid(self.bias - l) + l / 2) / d.abs()


class EDM(Weighting):
    """(s^2 + sigma_data^2) / (s sigma_data)^2 in x0 space, s = sigma / alpha: 1 on the output of `prediction=edm`.

    Karras et al. 2022 (arXiv:2206.00364, table 1). In velocity space (sigma^2 + sigma_data^2 alpha^2) /
    (sigma_data d)^2, d = alpha' sigma - sigma' alpha.

    Args:
        sigma_data: standard deviation of the latents.
    """

    space = Velocity()

    def __init__(self, sigma_data: Positive) -> None:
        if sigma_data <= 0:
            raise ValueError(f"sigma_data={sigma_data} must be above 0: the standard deviation of the latents")
        self.sigma_data = sigma_data

    def __call__(self, path: Path, t: Tensor) -> Tensor:
        alpha, sigma = path.alpha(t), path.sigma(t)
        d = path.alpha_dot(t) * sigma - path.sigma_dot(t) * alpha
        return (sigma**2 + (self.sigma_data * alpha) ** 2) / (self.sigma_data * d) ** 2


class ClippedVelocity(Weighting):
    """min(1, sigma / sigma_floor)^2 in velocity space: uniform but for the cleanest levels.

    An x0-prediction's velocity error is its x0 error divided by sigma, which has no bound; Li & He 2025
    (arXiv:2511.13720) divide by max(sigma, 0.05) instead. This is their loss on the linear path.

    Args:
        sigma_floor: noise below which the weight falls; 0.05 in the paper.
    """

    space = Velocity()

    def __init__(self, sigma_floor: Positive) -> None:
        if sigma_floor <= 0:
            raise ValueError(f"sigma_floor={sigma_floor} must be above 0; the paper uses 0.05")
        self.sigma_floor = sigma_floor

    def __call__(self, path: Path, t: Tensor) -> Tensor:
        return (path.sigma(t) / self.sigma_floor).clamp(max=1) ** 2
