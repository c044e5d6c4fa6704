"""What the network's output means, and how it becomes (x0, eps, velocity).

Every prediction is linear in the unknowns: the output should equal p(t) x0 + q(t) eps. Together with
x_t = alpha x0 + sigma eps that is a 2x2 system with determinant d = p sigma - q alpha, solved in closed form:

    x0 = (sigma out - q x_t) / d,    eps = (p x_t - alpha out) / d

| prediction | p            | q                | d                                | singular where |
| x0         | 1            | 0                | sigma                            | sigma = 0: eps |
| eps        | 0            | 1                | -alpha                           | alpha = 0: x0  |
| v          | -sigma       | alpha            | -(alpha^2 + sigma^2)             | nowhere        |
| flow       | alpha'       | sigma'           | alpha' sigma - sigma' alpha      | nowhere        |
| edm        | sigma/(s n)  | -s alpha/n       | n/s, n^2 = sigma^2 + s^2 alpha^2 | nowhere        |

Only x0 and eps divide by something that vanishes; both hold a floor under it, given by their configs. At the floor
the estimate is finite but no longer exact: at alpha = 0 nothing in x_t speaks of x0 (Lin et al. 2024,
arXiv:2305.08891: eps-prediction cannot start from pure noise).

Shapes: x0, eps, x_t, out (B, C, F, H, W); t (B, F), (B, 1) or 0-dim. Use float32 levels for float32 or bf16 latents:
arithmetic then happens in float32 by type promotion.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from dit.config.limits import Positive
from dit.diffusion.path import Path

# c_noise of EDM is the log of sigma / alpha, which is infinite at the ends of most paths. +-20 in log-SNR is
# sigma / alpha from 4.5e-5 to 2.2e4, wider than any schedule in use.
LARGEST_LOG_SNR = 20.0


class Estimate(NamedTuple):
    """What is believed of a noisy video, each (B, C, F, H, W): x_t = alpha x0 + sigma eps, velocity = dx_t/dt."""

    x0: Tensor
    eps: Tensor
    velocity: Tensor


class Prediction(ABC):
    """How the network is fed and what its output stands for."""

    @abstractmethod
    def coefficients(self, path: Path, t: Tensor) -> tuple[Tensor, Tensor]:
        """(p, q), each in the shape of t: the output should equal p x0 + q eps."""

    @property
    def plain(self) -> Prediction:
        """What the output means, without what the network is told of the level (`dit.diffusion.timesteps`)."""
        return self

    def network_input(self, path: Path, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """What the network sees, (x_in, t_in) in the shapes of (x_t, t): these themselves, but for EDM."""
        return x_t, t

    def spread(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """By what alpha x0 + sigma eps is divided on its way into the network."""
        return torch.ones_like(alpha)

    def target(self, path: Path, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """What the raw output should equal, (B, C, F, H, W)."""
        p, q = self.coefficients(path, path.expand(t))
        return p * x0 + q * eps

    def estimate(self, path: Path, out: Tensor, x_t: Tensor, t: Tensor) -> Estimate:
        """Raw output -> (x0, eps, velocity) with velocity = alpha' x0 + sigma' eps."""
        t = path.expand(t)
        x0, eps = self._solve(path, out, x_t, t)
        return Estimate(x0, eps, path.alpha_dot(t) * x0 + path.sigma_dot(t) * eps)

    def _solve(self, path: Path, out: Tensor, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """(x0, eps) of the 2x2 system above; t is already expanded."""
        alpha, sigma = path.alpha(t), path.sigma(t)
        p, q = self.coefficients(path, t)
        d = p * sigma - q * alpha
        return (sigma / d) * out - (q / d) * x_t, (p / d) * x_t - (alpha / d) * out


class Eps(Prediction):
    """The noise (Ho et al. 2020, arXiv:2006.11239, eqs. 11 and 14).

    Args:
        alpha_floor: x0 = (x_t - sigma out) / alpha divides by at least this. Below it (t near 1 on paths that end at
            zero SNR) x0 is shrunk towards 0 instead of growing without bound.
    """

    def __init__(self, alpha_floor: Positive) -> None:
        if alpha_floor <= 0:
            raise ValueError(f"alpha_floor={alpha_floor} must be above 0, for example 0.001")
        self.alpha_floor = alpha_floor

    def coefficients(self, path: Path, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(t), torch.ones_like(t)

    def _solve(self, path: Path, out: Tensor, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return (x_t - path.sigma(t) * out) / path.alpha(t).clamp(min=self.alpha_floor), out


class X0(Prediction):
    """The clean latents (Salimans & Ho 2022, arXiv:2202.00512, section 4; Li & He 2025, arXiv:2511.13720).

    Args:
        sigma_floor: eps = (x_t - alpha out) / sigma divides by at least this. Below it eps is shrunk towards 0.
            Li & He use 0.05 in the loss and in the sampler.
    """

    def __init__(self, sigma_floor: Positive) -> None:
        if sigma_floor <= 0:
            raise ValueError(f"sigma_floor={sigma_floor} must be above 0, for example 0.001")
        self.sigma_floor = sigma_floor

    def coefficients(self, path: Path, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(t), torch.zeros_like(t)

    def _solve(self, path: Path, out: Tensor, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return out, (x_t - path.alpha(t) * out) / path.sigma(t).clamp(min=self.sigma_floor)


class V(Prediction):
    """v = alpha eps - sigma x0 (Salimans & Ho 2022, arXiv:2202.00512, appendix D).

    On paths that do not preserve variance the same v is divided by alpha^2 + sigma^2 on the way back.
    """

    def coefficients(self, path: Path, t: Tensor) -> tuple[Tensor, Tensor]:
        return -path.sigma(t), path.alpha(t)


class Flow(Prediction):
    """The velocity dx_t/dt = alpha' x0 + sigma' eps (Lipman et al. 2023, arXiv:2210.02747, eq. 14)."""

    def coefficients(self, path: Path, t: Tensor) -> tuple[Tensor, Tensor]:
        return path.alpha_dot(t), path.sigma_dot(t)


class FlowToData(Prediction):
    """-dx_t/dt: the velocity for a time that runs from noise to data (SiT, arXiv:2401.08740; Mochi)."""

    def coefficients(self, path: Path, t: Tensor) -> tuple[Tensor, Tensor]:
        return -path.alpha_dot(t), -path.sigma_dot(t)


class EDM(Prediction):
    """Preconditioning D = c_skip x + c_out F(c_in x, c_noise) (Karras et al. 2022, arXiv:2206.00364, eq. 7, table 1).

    Karras et al. work on x0 + sigma eps; any path is that after division by alpha, with sigma / alpha for their sigma.
    With n^2 = sigma^2 + sigma_data^2 alpha^2, in terms of x_t:

        c_in   = 1 / n                              c_skip = sigma_data^2 alpha / n^2
        c_out  = sigma sigma_data / n               c_noise = log(sigma / alpha) / 4

    so nothing is divided by alpha or sigma; the output should equal (sigma x0 / sigma_data - sigma_data alpha eps) / n.
    c_noise, given to the network for its level, stops at log-SNR +-20. It is not within [0, 1].

    Args:
        sigma_data: standard deviation of the latents.
    """

    def __init__(self, sigma_data: Positive) -> None:
        if sigma_data <= 0:
            raise ValueError(f"sigma_data={sigma_data} must be above 0: the standard deviation of the latents")
        self.sigma_data = sigma_data

    def _norm(self, path: Path, t: Tensor) -> Tensor:
        """n: standard deviation of x_t."""
        return self.spread(path.alpha(t), path.sigma(t))

    def spread(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return torch.sqrt(sigma**2 + (self.sigma_data * alpha) ** 2)

    def coefficients(self, path: Path, t: Tensor) -> tuple[Tensor, Tensor]:
        n = self._norm(path, t)
        return path.sigma(t) / (self.sigma_data * n), -self.sigma_data * path.alpha(t) / n

    def network_input(self, path: Path, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        c_noise = -path.log_snr(t).clamp(-LARGEST_LOG_SNR, LARGEST_LOG_SNR) / 8
        return x_t / self._norm(path, path.expand(t)), c_noise
