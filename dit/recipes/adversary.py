"""The adversarial term of an autoencoder's loss: a discriminator that learns to tell reconstructions from clips."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from dit.config.limits import Natural, Positive

DELTA = 1e-6  # of equation 7
LARGEST = 1e4  # that the adaptive weight may be, as in the authors' code


class Judged(NamedTuple):
    """What the discriminator says of reconstructions and clips.

    Attributes:
        loss: (B,), of the discriminator itself; its graph reaches nothing but its weights.
        fooled: 0-dim, the term of the autoencoder's loss: minus the mean logit of reconstructions.
        gradient: of `fooled` with respect to the reconstructions, in their shape.
    """

    loss: Tensor
    fooled: Tensor
    gradient: Tensor


class Adversary(nn.Module):
    """A discriminator, how it is trained, and what it counts.

    discriminator: any module from clips (B, 3, F, height, width) to logits (B, ...), high for real ones.
    optim: `optim(model)`, of the discriminator. weight: of the term, times the adaptive one (0.8 in VQGAN, 0.5 in LDM).
    first_step: from which on it is used; reconstructions should be good before.
    """

    def __init__(
        self,
        discriminator: nn.Module,
        optim: Callable[[nn.Module], Optimizer],
        weight: Positive,
        first_step: Natural,
    ) -> None:
        super().__init__()
        self.discriminator, self.optim = discriminator, optim
        self.weight, self.first_step = weight, first_step


def judged(discriminator: nn.Module, made: Tensor, clips: Tensor) -> Judged:
    """Hinge loss (Lim and Ye 2017, arXiv 1705.02894) of reconstructions `made` and `clips`, (B, 3, F, height, width).

    The discriminator is asked once, about reconstructions without their graph. What its answer means for the
    autoencoder is handed on as a gradient, so that one backward pass serves both and neither loss reaches the weights
    of the other.
    """
    fake = made.detach().requires_grad_()
    with torch.enable_grad():
        of_real, of_fake = discriminator(torch.cat([clips, fake])).float().flatten(1).chunk(2)
        fooled = -of_fake.mean()
        (gradient,) = torch.autograd.grad(fooled, fake, retain_graph=True)
    loss = 0.5 * (functional.relu(1 - of_real).mean(dim=1) + functional.relu(1 + of_fake).mean(dim=1))
    return Judged(loss, fooled.detach(), gradient)


def adaptive_weight(of_reconstruction: Tensor, of_adversary: Tensor) -> Tensor:
    """Equation 7 of VQGAN (Esser et al. 2020, arXiv 2012.09841), 0-dim: the norm of the gradient of the reconstruction
    loss over that of the adversarial one, both with respect to the weight of the decoder's last layer."""
    return (of_reconstruction.norm() / (of_adversary.norm() + DELTA)).clamp(max=LARGEST)
