"""In which quantity the loss compares the network with the truth: x0, eps, the velocity, or the raw output.

At a fixed x_t each of them, p(t) x0 + q(t) eps, differs from the truth by a known multiple of the others: with the
determinant d = p sigma - q alpha of `dit/diffusion/prediction.py`, the errors obey error_A / d_A = error_B / d_B. So a
squared error in A with weight w is the squared error in B with weight w (d_A / d_B)^2:

| from \\ to | x0                      | eps                     | velocity, d = alpha' sigma - sigma' alpha |
| x0        | 1                       | sigma^2 / alpha^2       | sigma^2 / d^2                             |
| eps       | alpha^2 / sigma^2 = SNR | 1                       | alpha^2 / d^2                             |
| velocity  | d^2 / sigma^2           | d^2 / alpha^2           | 1                                         |

(Salimans & Ho 2022, arXiv:2202.00512, section 4, for x0, eps and v; Kingma & Gao 2023, arXiv:2303.00848, for more.)
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from dit.diffusion.path import Path
from dit.diffusion.prediction import Prediction

# Only x0 at sigma = 0 and eps at alpha = 0 have d = 0: there a weight from elsewhere grows without bound. Levels that
# close to an end are drawn about once in ten thousand times.
SMALLEST_DETERMINANT = 1e-4


class Space(ABC):
    """A quantity p(t) x0 + q(t) eps in which errors are measured."""

    @abstractmethod
    def coefficients(self, path: Path, prediction: Prediction, t: Tensor) -> tuple[Tensor, Tensor]:
        """(p, q), each in the shape of t."""

    @abstractmethod
    def value(self, path: Path, prediction: Prediction, out: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """The quantity (B, C, F, H, W) that a raw output `out` stands for. The truth is the value of the target."""

    def determinant(self, path: Path, prediction: Prediction, t: Tensor) -> Tensor:
        """d = p sigma - q alpha, in the shape of t."""
        p, q = self.coefficients(path, prediction, t)
        return p * path.sigma(t) - q * path.alpha(t)


class X0(Space):
    """The clean latents."""

    def coefficients(self, path: Path, prediction: Prediction, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(t), torch.zeros_like(t)

    def value(self, path: Path, prediction: Prediction, out: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        return prediction.estimate(path, out, x_t, t).x0


class Eps(Space):
    """The noise: the "simple" loss of Ho et al. 2020 (arXiv:2006.11239, eq. 14)."""

    def coefficients(self, path: Path, prediction: Prediction, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(t), torch.ones_like(t)

    def value(self, path: Path, prediction: Prediction, out: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        return prediction.estimate(path, out, x_t, t).eps


class Velocity(Space):
    """dx_t/dt: flow matching (Lipman et al. 2023, arXiv:2210.02747, eq. 9)."""

    def coefficients(self, path: Path, prediction: Prediction, t: Tensor) -> tuple[Tensor, Tensor]:
        return path.alpha_dot(t), path.sigma_dot(t)

    def value(self, path: Path, prediction: Prediction, out: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        return prediction.estimate(path, out, x_t, t).velocity


class Output(Space):
    """The raw output of the network: whatever `prediction` says it stands for."""

    def coefficients(self, path: Path, prediction: Prediction, t: Tensor) -> tuple[Tensor, Tensor]:
        return prediction.coefficients(path, t)

    def value(self, path: Path, prediction: Prediction, out: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        return out


def weight_conversion(source: Space, target: Space, path: Path, prediction: Prediction, t: Tensor) -> Tensor:
    """(d_source / d_target)^2 in the shape of t: what a weight in `source` is multiplied by to act in `target`."""
    below = target.determinant(path, prediction, t).abs().clamp(min=SMALLEST_DETERMINANT)
    return (source.determinant(path, prediction, t) / below) ** 2
