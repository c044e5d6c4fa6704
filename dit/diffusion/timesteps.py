"""Models that know timesteps: what their network is told of a level, and levels that are timesteps.

A network of this codebase takes a level in [0, 1] and multiplies it by its own scale (`net.level.scale`, 1000 for
most). Models of other code are told a timestep. These predictions are another one that tells the network timestep /
scale; they do so in float64, in which whole timesteps survive the network's multiplication.
"""

from abc import abstractmethod

import torch
from torch import Tensor

from dit.config.limits import Count, Positive
from dit.diffusion.levels import Distribution, Wrapper
from dit.diffusion.path import Path
from dit.diffusion.prediction import Prediction

SNAPPED = 1e-3  # of a timestep: float32 levels that are whole timesteps miss them by up to 6e-5


class Told(Prediction):
    """Wraps a prediction whose network is told a timestep instead of the level.

    Args:
        prediction: what the network's output means.
        timesteps: N, of the model.
        scale: by which the network multiplies what it is told.
    """

    def __init__(self, prediction: Prediction, timesteps: Count, scale: Positive) -> None:
        self.prediction = prediction
        self.timesteps = timesteps
        self.scale = scale

    @property
    def plain(self) -> Prediction:
        return self.prediction.plain

    @abstractmethod
    def timestep(self, t: Tensor) -> Tensor:
        """The timestep for N t, both float64, of any shape."""

    def network_input(self, path: Path, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        x_in, _ = self.prediction.network_input(path, x_t, t)
        return x_in, self.timestep(t.double() * self.timesteps) / self.scale

    def spread(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return self.prediction.spread(alpha, sigma)

    def coefficients(self, path: Path, t: Tensor) -> tuple[Tensor, Tensor]:
        return self.prediction.coefficients(path, t)

    def _solve(self, path: Path, out: Tensor, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return self.prediction._solve(path, out, x_t, t)


class DiscreteTimesteps(Told):
    """Timestep N t - 1, for a path in whole timesteps (`dit.diffusion.discrete`); a clean frame is told 0."""

    def timestep(self, t: Tensor) -> Tensor:
        nearest = t.round()
        return (torch.where((t - nearest).abs() < SNAPPED, nearest, t) - 1).clamp(min=0)


class WholeTimesteps(Told):
    """N t without its fraction: flow-matching models whose sampler counts in whole timesteps (Wan, SkyReels-V2)."""

    def timestep(self, t: Tensor) -> Tensor:
        return t.floor()


class WholeLevels(Wrapper):
    """Levels rounded up to 1 / N, 2 / N, ..., 1: the timesteps of DDPM.

    Args:
        levels: what is rounded; uniform levels are uniform timesteps.
        timesteps: N.
    """

    def __init__(self, levels: Distribution, timesteps: Count) -> None:
        super().__init__(levels)
        self.timesteps = timesteps

    def from_uniform(self, u: Tensor, num_tokens: int) -> Tensor:
        return (self.levels.from_uniform(u, num_tokens) * self.timesteps).ceil().clamp(min=1) / self.timesteps
