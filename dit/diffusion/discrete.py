"""Noise in whole timesteps: DDPM's paths, given by one beta for each of N timesteps (Ho et al. 2020, arXiv:2006.11239).

Timestep n = 0 ... N - 1, the cleanest first, stands at level t = (n + 1) / N, and t = 0 is clean:

    alpha_bar_n = prod_{i <= n} (1 - beta_i),   alpha = sqrt(alpha_bar),   sigma = sqrt(1 - alpha_bar)

Between timesteps sigma / alpha is interpolated linearly, as samplers of such models do (k-diffusion's sigmas).
"""

import math
from abc import ABC, abstractmethod
from typing import Annotated, Literal

import torch
from torch import Tensor

from dit.config.limits import NonNegative, Positive, Range, Share
from dit.diffusion.path import Path

Timesteps = Annotated[int, Range(least=2, most=100_000)]


class Betas(ABC):
    """How much noise each timestep adds."""

    @abstractmethod
    def __call__(self, timesteps: int, dtype: torch.dtype) -> Tensor:
        """beta of each timestep, (timesteps,), computed in `dtype`."""


class LinearBetas(Betas):
    """Equally spaced (Ho et al. 2020, section 4).

    Args:
        first, last: beta of the cleanest and of the noisiest timestep, below 1.
    """

    def __init__(self, first: Positive, last: Positive) -> None:
        self.first = _below_one("first", first)
        self.last = _below_one("last", last)

    def __call__(self, timesteps: int, dtype: torch.dtype) -> Tensor:
        return torch.linspace(self.first, self.last, timesteps, dtype=dtype)


class ScaledLinearBetas(LinearBetas):
    """Their roots are equally spaced (latent diffusion, Rombach et al. 2022, arXiv:2112.10752, in its code)."""

    def __call__(self, timesteps: int, dtype: torch.dtype) -> Tensor:
        return torch.linspace(self.first**0.5, self.last**0.5, timesteps, dtype=dtype) ** 2


class SquaredCosineBetas(Betas):
    """Those of alpha_bar = cos^2((t + 0.008) / 1.008 pi / 2) (Nichol & Dhariwal 2021, arXiv:2102.09672, eq. 17).

    Args:
        largest: no beta is above that.
    """

    def __init__(self, largest: Share) -> None:
        self.largest = _below_one("largest", largest)

    def __call__(self, timesteps: int, dtype: torch.dtype) -> Tensor:
        def alpha_bar(t: float) -> float:
            return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2

        ends = [(n / timesteps, (n + 1) / timesteps) for n in range(timesteps)]
        return torch.tensor([min(1 - alpha_bar(s) / alpha_bar(t), self.largest) for t, s in ends], dtype=dtype)


def _below_one(name: str, beta: float) -> float:
    if not 0 < beta < 1:
        raise ValueError(f"{name}={beta}: a beta is between 0 and 1, neither included")
    return beta


class Discrete(Path):
    """A path in whole timesteps.

    Args:
        timesteps: N, from 2 to 100,000.
        betas: of the timesteps.
        precision: in which alpha_bar is computed. Published models' tables are float32 but for CogVideoX's.
        snr_shift: the signal-to-noise ratio is divided by it; 1 leaves it (CogVideoX, arXiv:2408.06072, appendix).
        zero_terminal_snr: moves and scales alpha so that it is 0 at the noisiest timestep and stays what it is at the
            cleanest (Lin et al. 2024, arXiv:2305.08891, algorithm 1).
        least_alpha_bar: alpha_bar of the noisiest timestep where it would be less; above 0 keeps sigma / alpha finite.
    """

    def __init__(
        self,
        timesteps: Timesteps,
        betas: Betas,
        precision: Literal["float32", "float64"],
        snr_shift: Positive,
        zero_terminal_snr: bool,
        least_alpha_bar: NonNegative,
    ) -> None:
        if not 2 <= timesteps <= 100_000:
            raise ValueError(f"timesteps={timesteps} must be from 2 to 100000; published models have 1000")
        self.timesteps = timesteps
        self.betas = betas
        alpha_bar = torch.cumprod(1 - betas(timesteps, getattr(torch, precision)), 0)
        alpha_bar = alpha_bar / (snr_shift + (1 - snr_shift) * alpha_bar)
        if zero_terminal_snr:
            alpha_bar = _with_zero_terminal_snr(alpha_bar)
        alpha_bar = alpha_bar.double()
        alpha_bar[-1] = alpha_bar[-1].clamp(min=least_alpha_bar)
        ratio = torch.cat([alpha_bar.new_zeros(1), ((1 - alpha_bar) / alpha_bar).sqrt()])
        if not bool((ratio.diff() > 0).all()):
            n = int((ratio.diff() > 0).int().argmin())
            raise ValueError(
                f"noise does not grow from timestep {n - 1} to {n} of {timesteps}: other betas, or another"
                f" least_alpha_bar={least_alpha_bar}"
            )
        self._ratio = ratio  # sigma / alpha at t = 0, 1 / N, ..., 1; the last may be infinite
        # On each of the N pieces between them, sigma : alpha = s + u ds : a + u da with u from 0 to 1.
        s, ds, a, da = ratio[:-1].clone(), ratio.diff(), torch.ones_like(ratio[1:]), torch.zeros_like(ratio[1:])
        if math.isinf(ratio[-1]):  # alpha / sigma is linear there
            s[-1], ds[-1], a[-1], da[-1] = 1.0, 0.0, 1 / ratio[-2], -1 / ratio[-2]
        self._pieces = {torch.device("cpu"): torch.stack([s, ds, a, da])}

    def _at(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(s, a, ds, da) at t, float64: sigma : alpha = s : a, and their derivatives by u = N t."""
        pieces = self._pieces.get(t.device)
        if pieces is None:
            pieces = self._pieces[t.device] = self._pieces[torch.device("cpu")].to(t.device)
        place = t.double() * self.timesteps
        piece = place.detach().floor().clamp(0, self.timesteps - 1)
        s, ds, a, da = pieces[:, piece.long()]
        u = place - piece
        return s + u * ds, a + u * da, ds, da

    def alpha(self, t: Tensor) -> Tensor:
        s, a, _, _ = self._at(t)
        return (a / torch.hypot(s, a)).to(t.dtype)

    def sigma(self, t: Tensor) -> Tensor:
        s, a, _, _ = self._at(t)
        return (s / torch.hypot(s, a)).to(t.dtype)

    def alpha_dot(self, t: Tensor) -> Tensor:
        """As sigma_dot from above at a timestep, where the slope has a step."""
        s, a, ds, da = self._at(t)
        return (-self.timesteps * s * (a * ds - s * da) / torch.hypot(s, a) ** 3).to(t.dtype)

    def sigma_dot(self, t: Tensor) -> Tensor:
        s, a, ds, da = self._at(t)
        return (self.timesteps * a * (a * ds - s * da) / torch.hypot(s, a) ** 3).to(t.dtype)

    def log_snr(self, t: Tensor) -> Tensor:
        s, a, _, _ = self._at(t)
        return (2 * (a.log() - s.log())).to(t.dtype)

    def t_from_log_snr(self, l: Tensor) -> Tensor:
        ratio, inverse = torch.exp(-l.double() / 2), torch.exp(l.double() / 2)
        piece = (torch.searchsorted(self._ratio.to(l.device), ratio, right=True) - 1).clamp(0, self.timesteps - 1)
        s, ds, a, da = self._pieces[torch.device("cpu")].to(l.device)[:, piece]
        # s + u ds = ratio (a + u da), in the form whose factors are finite
        noisy = (a - s * inverse) / (ds * inverse - da)
        u = torch.where(ratio <= 1, (ratio * a - s) / (ds - ratio * da), noisy)
        return ((piece + u.clamp(0, 1)) / self.timesteps).to(l.dtype)


def _with_zero_terminal_snr(alpha_bar: Tensor) -> Tensor:
    """Lin et al. 2024, algorithm 1, by way of the betas, whose rounding published tables have."""
    root = alpha_bar.sqrt()
    root = (root - root[-1]) * (root[0] / (root[0] - root[-1]))
    moved = root**2
    betas = 1 - torch.cat([moved[:1], moved[1:] / moved[:-1]])
    return torch.cumprod(1 - betas, 0)
