"""Random paths and predictions, and a tiny network with the backbone's signature."""

import math
import random

import torch
from torch import Tensor, nn

from dit.diffusion import path as paths
from dit.diffusion import prediction as predictions
from dit.diffusion.discrete import Discrete, LinearBetas
from dit.diffusion.timesteps import DiscreteTimesteps, WholeTimesteps


def random_path(name: str, rng: random.Random) -> paths.Path:
    return {
        "linear": lambda: paths.Linear(),
        "cosine": lambda: paths.Cosine(),
        "vp": lambda: paths.VP(beta_min=rng.uniform(0.05, 0.5), beta_max=rng.uniform(5, 25)),
        "discrete": lambda: random_discrete(rng, zero_terminal_snr=False),
        "discrete_to_zero": lambda: random_discrete(rng, zero_terminal_snr=True),
        "ve": lambda: paths.VE(sigma_min=rng.uniform(0.001, 0.01), sigma_max=rng.uniform(20, 100)),
    }[name]()


def random_discrete(rng: random.Random, zero_terminal_snr: bool) -> Discrete:
    timesteps = rng.randint(50, 1000)
    betas = LinearBetas(rng.uniform(0.05, 0.5) / timesteps, rng.uniform(5, 25) / timesteps)
    return Discrete(timesteps, betas, "float64", rng.uniform(0.5, 3), zero_terminal_snr, 0.0)


def random_prediction(name: str, rng: random.Random) -> predictions.Prediction:
    return {
        "eps": lambda: predictions.Eps(alpha_floor=1e-3),
        "x0": lambda: predictions.X0(sigma_floor=1e-3),
        "v": lambda: predictions.V(),
        "flow": lambda: predictions.Flow(),
        "flow_to_data": lambda: predictions.FlowToData(),
        "discrete_timesteps": lambda: DiscreteTimesteps(predictions.V(), rng.randint(50, 1000), 1000.0),
        "whole_timesteps": lambda: WholeTimesteps(predictions.Flow(), rng.randint(50, 1000), 1000.0),
        "edm": lambda: predictions.EDM(sigma_data=rng.uniform(0.3, 2.0)),
    }[name]()


class TinyNet(nn.Module):
    """Looks at everything it is given; counts tokens as the backbone does. Remembers what it saw."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mix = nn.Conv3d(channels + 1, channels, kernel_size=3, padding=1)
        self.seen: list[tuple[Tensor, Tensor, dict[str, Tensor]]] = []

    def forward(self, x: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        self.seen.append((x, t, cond))
        level = torch.sin(3 * t)[:, None, :, None, None]
        return torch.tanh(self.mix(torch.cat([x, cond["given"]], dim=1))) + level

    def num_tokens(self, frames: int, height: int, width: int) -> int:
        return math.prod((frames, height, width))
