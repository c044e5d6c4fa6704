"""Training of a video autoencoder: reconstruction and KL, and by config a perceptual and an adversarial term."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dit.codec.vae.network import Autoencoder
from dit.config.limits import NonNegative
from dit.diffusion.loss import Objective
from dit.recipes.adversary import Adversary, adaptive_weight, judged
from dit.recipes.base import NET, Clips, Loss, Part, Recipe

DISCRIMINATOR = "discriminator"


class Autoencoding(Recipe):
    """`net` learns to code clips, beside a discriminator where there is an `adversary`.

        loss = reconstruction + perceptual_weight perceptual + kl_weight KL + adversary.weight adaptive adversarial

    The first three are means over numbers: of a clip, or for the KL of its latents (Rombach et al. 2021, LDM, arXiv
    2112.10752, takes sums: its weights are those here times numbers of a clip over numbers of its latents). `adaptive`
    holds the gradients of the adversarial term to those of the first two (VQGAN, arXiv 2012.09841, equations 6 and 7).

    Args:
        objective: of networks that denoise; None.
        reconstruction: `l1` or `l2`, the mean absolute or squared difference.
        kl_weight: of the Kullback-Leibler divergence to N(0, 1).
        perceptual: a module (reconstruction, clip) -> (B,), whose own weights stand still; None: no such term.
        perceptual_weight: of it.
        adversary: None: no such term, and no discriminator.
    """

    denoises = False
    sees_clips = False
    sees_pixels = True
    trains_text = False

    def __init__(
        self,
        objective: Objective | None,
        *,
        reconstruction: Literal["l1", "l2"],
        kl_weight: NonNegative,
        perceptual: nn.Module | None,
        perceptual_weight: NonNegative,
        adversary: Adversary | None,
    ) -> None:
        self.reconstruction = reconstruction
        self.kl_weight = kl_weight
        # In a list, it is no part: neither trained, averaged nor saved.
        self.perceptual = [] if perceptual is None else [perceptual.requires_grad_(False).eval()]
        self.perceptual_weight = perceptual_weight
        self.adversary = adversary
        if adversary is not None:
            self.optimizers = {DISCRIMINATOR: adversary.optim}

    def parts(self, net: Any) -> dict[str, Part]:
        if self.adversary is None:
            return {}
        return {DISCRIMINATOR: Part(self.adversary.discriminator, optimizer=DISCRIMINATOR, averaged=False)}

    def losses(self, nets: Mapping[str, Any], clips: Clips, step: int) -> dict[str, Loss]:
        net: Autoencoder = nets[NET]
        clip = clips.pixels
        coded = net(clip)
        made = coded.pixels.float()
        rebuilt = difference(made, clip, self.reconstruction)  # (B,)
        kl = divergence(coded.mean, coded.log_variance).mean()
        columns = {"kl": kl}
        seen = rebuilt.mean()
        for perceptual in self.perceptual:
            columns["perceptual"] = perceptual.to(made.device)(made, clip).mean()
            seen = seen + self.perceptual_weight * columns["perceptual"]
        total = seen + self.kl_weight * kl
        losses: dict[str, Loss] = {}
        if self.adversary is not None and step >= self.adversary.first_step:
            judgement = judged(nets[DISCRIMINATOR], made, clip)
            (of_seen,) = torch.autograd.grad(seen, made, retain_graph=True)
            weight = self.adversary.weight * adaptive_weight(
                net.last_gradient(coded.features, of_seen), net.last_gradient(coded.features, judgement.gradient)
            )
            total = total + weight * (made * judgement.gradient).sum()  # whose gradient is that of the adversarial term
            columns |= {"adversarial": judgement.fooled, "adversarial_weight": weight}
            losses[DISCRIMINATOR] = Loss(judgement.loss.mean(), judgement.loss, judgement.loss.mean(), {})
        return {NET: Loss(total, rebuilt, rebuilt.mean(), columns), **losses}


def difference(made: Tensor, clip: Tensor, kind: Literal["l1", "l2"]) -> Tensor:
    """Mean absolute or squared difference of two clips (B, 3, F, height, width): (B,)."""
    apart = made - clip
    return (apart.abs() if kind == "l1" else apart.square()).mean(dim=(1, 2, 3, 4))


def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Mean over the latents of KL(N(mean, variance) || N(0, 1)), in nats (Kingma and Welling 2013, arXiv 1312.6114,
    appendix B): (B,) of two tensors (B, C, F, H, W)."""
    mean, log_variance = mean.float(), log_variance.float()
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean(dim=(1, 2, 3, 4))
