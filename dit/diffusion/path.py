"""Paths from data to noise. The one convention of this codebase:

    x_t = alpha(t) x0 + sigma(t) eps,   eps ~ N(0, I),   t in [0, 1]

Level 0 is clean in every path (alpha = 1, sigma = 0); level 1 is what sampling starts from: alpha(1) is zero or
negligible beside sigma(1), so a sampler draws x_1 = path.prior_std * noise with path.prior_std = sigma(1).

All functions of t work elementwise on tensors of any shape, on any device, in the dtype of t; none writes in place.
`log_snr` is l = log(alpha^2 / sigma^2) and is exactly +inf where sigma = 0 and -inf where alpha = 0, so that
exp(-l) and sigmoid(l) are exact at both ends; clamp it before multiplying it.
"""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from dit.config.limits import Positive

# Song et al. 2021 (arXiv:2011.13456), appendix C: the smallest time that the continuous-time VP process is evaluated
# at. sigma grows like sqrt(t) there, so its derivative has no value at 0.
SMALLEST_VP_LEVEL = 1e-5


class Path(ABC):
    """A pair alpha(t), sigma(t): alpha falls from 1, sigma grows from 0, the log-SNR falls strictly between."""

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Scale of the data at level t."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """Standard deviation of the noise at level t."""

    @abstractmethod
    def alpha_dot(self, t: Tensor) -> Tensor:
        """d alpha / dt; finite on [0, 1]."""

    @abstractmethod
    def sigma_dot(self, t: Tensor) -> Tensor:
        """d sigma / dt; finite on [0, 1]."""

    @abstractmethod
    def t_from_log_snr(self, l: Tensor) -> Tensor:
        """The inverse of `log_snr`; values that the path does not reach give the nearer end of [0, 1]."""

    def log_snr(self, t: Tensor) -> Tensor:
        """l(t) = 2 (log alpha(t) - log sigma(t)) (Kingma et al. 2021, arXiv:2107.00630, section 3.2)."""
        return 2 * (self.alpha(t).log() - self.sigma(t).log())

    @property
    def prior_std(self) -> float:
        """Standard deviation of x_1, which is sigma(1): sampling starts from `prior_std * noise`."""
        return self.sigma(torch.ones((), dtype=torch.float64)).item()

    def expand(self, t: Tensor) -> Tensor:
        """Levels (B, F) or (B, 1) -> (B, 1, F, 1, 1), to broadcast over latents (B, C, F, H, W); 0-dim stays."""
        if t.ndim == 0:
            return t
        if t.ndim != 2:
            raise ValueError(f"levels have shape {tuple(t.shape)}; use (B, F), (B, 1) or one 0-dim level")
        return t[:, None, :, None, None]

    def mix(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """x_t = alpha(t) x0 + sigma(t) eps for latents (B, C, F, H, W) and levels (B, F), (B, 1) or 0-dim."""
        t = self.expand(t)
        return self.alpha(t) * x0 + self.sigma(t) * eps


class Linear(Path):
    """Rectified flow: alpha = 1 - t, sigma = t (Liu et al. 2022, arXiv:2209.03003, eq. 1, with t turned round)."""

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        return t

    def alpha_dot(self, t: Tensor) -> Tensor:
        return -torch.ones_like(t)

    def sigma_dot(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def t_from_log_snr(self, l: Tensor) -> Tensor:
        return torch.sigmoid(-l / 2)


class Cosine(Path):
    """alpha = cos(pi t / 2), sigma = sin(pi t / 2): variance preserving, zero SNR at t = 1.

    Nichol & Dhariwal 2021 (arXiv:2102.09672, eq. 17) without their offset, as in Salimans & Ho 2022
    (arXiv:2202.00512, section 4) and the trigonometric path of Albergo et al. 2023 (arXiv:2303.08797).
    """

    def alpha(self, t: Tensor) -> Tensor:
        # cos(pi / 2) is -4e-8 in float32; as a sine of the rest it is exactly 0 at t = 1 and precise beside it.
        return torch.sin(math.pi / 2 * (1 - t))

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sin(math.pi / 2 * t)

    def alpha_dot(self, t: Tensor) -> Tensor:
        return -math.pi / 2 * self.sigma(t)

    def sigma_dot(self, t: Tensor) -> Tensor:
        return math.pi / 2 * self.alpha(t)

    def t_from_log_snr(self, l: Tensor) -> Tensor:
        return 2 / math.pi * torch.atan(torch.exp(-l / 2))


class VP(Path):
    """Variance preserving with a linear beta schedule: alpha = exp(-B / 2), sigma = sqrt(1 - exp(-B)),
    B(t) = int_0^t beta = beta_min t + (beta_max - beta_min) t^2 / 2.

    Song et al. 2021 (arXiv:2011.13456, eqs. 29 and 32-33): the continuous limit of DDPM's 1000 steps is beta_min 0.1,
    beta_max 20. alpha(1) is then 0.0066, not 0: sampling starts from sigma(1) noise all the same.

    Args:
        beta_min: beta(0), per unit of t, above 0.
        beta_max: beta(1), at least beta_min.
    """

    def __init__(self, beta_min: Positive, beta_max: Positive) -> None:
        if not 0 < beta_min <= beta_max:
            raise ValueError(f"beta_min={beta_min}, beta_max={beta_max}: a VP path needs 0 < beta_min <= beta_max")
        self.beta_min = beta_min
        self.beta_max = beta_max

    def _beta(self, t: Tensor) -> Tensor:
        return self.beta_min + (self.beta_max - self.beta_min) * t

    def _integral(self, t: Tensor) -> Tensor:
        return self.beta_min * t + (self.beta_max - self.beta_min) / 2 * t**2

    def alpha(self, t: Tensor) -> Tensor:
        return torch.exp(-self._integral(t) / 2)

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sqrt(-torch.expm1(-self._integral(t)))

    def alpha_dot(self, t: Tensor) -> Tensor:
        return -self._beta(t) / 2 * self.alpha(t)

    def sigma_dot(self, t: Tensor) -> Tensor:
        """beta alpha^2 / (2 sigma). Infinite at 0: below t = 1e-5 it keeps its value there."""
        t = t.clamp(min=SMALLEST_VP_LEVEL)
        return self._beta(t) * self.alpha(t) ** 2 / (2 * self.sigma(t))

    def log_snr(self, t: Tensor) -> Tensor:
        integral = self._integral(t)
        return -integral - torch.log(-torch.expm1(-integral))

    def t_from_log_snr(self, l: Tensor) -> Tensor:
        """B = log(1 + exp(-l)), then the root of the quadratic B(t) in the form that does not cancel."""
        integral = torch.logaddexp(torch.zeros_like(l), -l).clamp(max=(self.beta_min + self.beta_max) / 2)
        slope = self.beta_max - self.beta_min
        return 2 * integral / (self.beta_min + torch.sqrt(self.beta_min**2 + 2 * slope * integral))


class VE(Path):
    """Variance exploding: alpha = 1, sigma = sigma_min (sigma_max / sigma_min)^t, and sigma(0) = 0.

    Song et al. 2021 (arXiv:2011.13456, eqs. 30-31). As there, sigma jumps from 0 to sigma_min just above t = 0, so
    that level 0 is clean here too; sigma_dot(0) is the limit from above. `prior_std` is sigma_max.

    Args:
        sigma_min: smallest noise, in units of the data, above 0.
        sigma_max: largest noise, above sigma_min; large beside the data's own spread.
    """

    def __init__(self, sigma_min: Positive, sigma_max: Positive) -> None:
        if not 0 < sigma_min < sigma_max:
            raise ValueError(f"sigma_min={sigma_min}, sigma_max={sigma_max}: a VE path needs 0 < sigma_min < sigma_max")
        self.sigma_min = sigma_min
        self.log_ratio = math.log(sigma_max / sigma_min)

    def _sigma_above_zero(self, t: Tensor) -> Tensor:
        return self.sigma_min * torch.exp(self.log_ratio * t)

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return torch.where(t > 0, self._sigma_above_zero(t), torch.zeros_like(t))

    def alpha_dot(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def sigma_dot(self, t: Tensor) -> Tensor:
        return self.log_ratio * self._sigma_above_zero(t)

    def t_from_log_snr(self, l: Tensor) -> Tensor:
        return ((-l / 2 - math.log(self.sigma_min)) / self.log_ratio).clamp(0, 1)
