"""Distribution matching distillation: a network that makes a clip in one step (Yin et al. 2023, arXiv 2311.18828).

A student G turns noise z into a clip x = G(z). Training brings the distribution of its clips nearer to the teacher's:
the gradient of their Kullback-Leibler divergence is a difference of scores of noised clips x_t (eq. 7),

    E[ w_t alpha_t (s_fake(x_t, t) - s_real(x_t, t)) dG/dtheta ],   w_t = sigma_t^2 / alpha_t  C S / ||mu_real - x||_1

(eq. 8), with C S the numbers in a clip: C S / || ||_1 is one over the mean of |mu_real - x|. s_real is the score of the
frozen teacher, s_fake that of a critic, which is trained to denoise the student's present clips. A denoiser's estimate
mu of the clean clip gives a score of (alpha_t mu - x_t) / sigma_t^2, and so this equals

    alpha_t (mu_fake - mu_real) / mean |mu_real - x|

in which nothing is divided by a small sigma_t. The code that the authors published for DMD2 leaves out the last alpha_t
(which is 1 for its variance-exploding models of pixels).

The paper's regression loss on pairs of noise and teacher's samples is left out, as in its successor (DMD2, arXiv
2405.14867), which lets the critic take more steps than the student instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dit.config.limits import Count
from dit.diffusion.conditioning import Unconditional
from dit.diffusion.denoiser import Denoiser
from dit.diffusion.given import nothing, with_given
from dit.diffusion.loss import Noised, Objective, noise_like
from dit.diffusion.prediction import Eps
from dit.recipes.base import NET, Clips, Loss, Recipe

CRITIC, TEACHER = "critic", "teacher"


class DistributionMatching(Recipe):
    """Student (`net`), critic and frozen teacher, all of one kind; they begin with the teacher's weights.

    Of the clips only what is told of them (captions, classes, frame rates) and their size are used. No frame is given.

    Args:
        objective: path and prediction of all three; its levels are those of x_t (uniform in [0.02, 0.98] in the paper),
            and its loss is the critic's.
        critic_optim: `critic_optim(model)`.
        student_every: steps from one update of the student to the next (DMD2's two time scales; 1 in DMD). The critic
            learns in all.
        teacher_guidance: classifier-free guidance scale of the teacher; 1 is none.

    Raises:
        ValueError: a prediction that says nothing of the clip at pure noise, or a model that is shown frames beside it.
    """

    copies = {CRITIC: CRITIC, TEACHER: None}
    sees_clips = False
    trains_text = False  # the teacher knows no other
    needs_weights = (
        "recipe=distribution_matching distils a teacher: give it as init_from=RUN (init_weights=ema takes averages)"
    )

    def __init__(
        self,
        objective: Objective,
        *,
        critic_optim: Callable[[nn.Module], Optimizer],
        student_every: Count,
        teacher_guidance: float,
    ) -> None:
        end = torch.ones((), dtype=torch.float64)
        output = objective.prediction.plain
        if isinstance(output, Eps) and objective.path.alpha(end) <= output.alpha_floor:
            raise ValueError(
                "prediction=eps says nothing of the clip at pure noise, where the student begins, along this path;"
                " distil a teacher of another prediction, or of path=ve"
            )
        if not objective.given.in_place:
            raise ValueError(
                "recipe=distribution_matching gives no frames, and this model is shown some beside the clip"
                " (given=beside): it was not trained without"
            )
        self.objective = replace(objective, conditioning=Unconditional())
        self.optimizers = {CRITIC: critic_optim}
        self.student_every = student_every
        self.teacher_guidance = teacher_guidance
        of_teacher = 1 if teacher_guidance == 1 else 2
        self.passes = 1 + 3 + (2 + 1 + of_teacher) / student_every

    def losses(self, nets: Mapping[str, Any], clips: Clips, step: int) -> dict[str, Loss]:
        trains_student = step % self.student_every == 0
        with torch.set_grad_enabled(trains_student):
            x = self.sample(nets[NET], clips)  # (B, C, F, H, W)
        losses = {}
        if trains_student:
            tokens = nets[NET].num_tokens(*x.shape[2:])
            noised = self.objective.noise(x.detach(), tokens)
            per_sample = pulled(x, self.gradient(nets, noised, clips))
            losses[NET] = Loss(per_sample.mean(), per_sample, per_sample.mean(), {})
        out = self.objective(nets[CRITIC], x.detach(), clips.cond)
        return {**losses, CRITIC: Loss(out.loss, out.per_sample, out.loss, {})}

    def sample(self, student: Any, clips: Clips) -> Tensor:
        """What the student makes of noise, in one step from level 1, in the shape of the clips' latents."""
        z = noise_like(clips.x0, None)
        ones = torch.ones(len(z), 1, device=z.device, dtype=torch.promote_types(z.dtype, torch.float32))
        path = self.objective.path
        return self.denoised(student, path.sigma(path.expand(ones)) * z, ones, clips.cond)

    @torch.no_grad()
    def gradient(self, nets: Mapping[str, Any], noised: Noised, clips: Clips) -> Tensor:
        """Eq. 7 with the weight of eq. 8, for each clip: (B, C, F, H, W), where the student's clips are `noised.x0`."""
        x, x_t, t = noised.x0, noised.x_t, noised.t
        fake = self.denoised(nets[CRITIC], x_t, t, clips.cond)
        real = self.denoised(nets[TEACHER], x_t, t, clips.cond)
        if self.teacher_guidance != 1:
            uncond = self.denoised(nets[TEACHER], x_t, t, clips.uncond())
            real = uncond + self.teacher_guidance * (real - uncond)
        path = self.objective.path
        apart = (real - x).abs().mean(dim=(1, 2, 3, 4), keepdim=True).clamp(min=torch.finfo(x.dtype).eps)
        return path.alpha(path.expand(t)) * (fake - real) / apart

    def denoised(self, net: Any, x_t: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """A network's estimate of the clean clip, (B, C, F, H, W)."""
        denoiser = Denoiser(net, self.objective.path, self.objective.prediction)
        return denoiser(x_t, t, with_given(cond, net, nothing(x_t))).x0


def pulled(x: Tensor, gradient: Tensor) -> Tensor:
    """A loss of each clip, (B,), half the mean square of `gradient` (B, C, F, H, W). Its gradient with respect to x is
    `gradient` divided by the numbers in a clip."""
    return 0.5 * (x - (x - gradient).detach()).square().mean(dim=(1, 2, 3, 4))
