"""The one place where network, path and prediction meet; the loss and the sampler both go through it."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from dit.diffusion.path import Path
from dit.diffusion.prediction import Estimate, Prediction

Network = Callable[[Tensor, Tensor, dict[str, Tensor]], Tensor]


@dataclass(frozen=True)
class Denoiser:
    """What a network believes of a noisy video: `denoiser(x_t, t, cond) -> Estimate(x0, eps, velocity)`."""

    net: Network
    path: Path
    prediction: Prediction

    def output(self, x_t: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        """The network's raw output (B, C, F, H, W) for x_t (B, C, F, H, W) at levels t (B, F) or (B, 1)."""
        x_in, t_in = self.prediction.network_input(self.path, x_t, t)
        return self.net(x_in, t_in, cond)

    def __call__(self, x_t: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Estimate:
        """Raw output turned into (x0, eps, velocity), each (B, C, F, H, W)."""
        return self.prediction.estimate(self.path, self.output(x_t, t, cond), x_t, t)
