"""How wrong a network's belief of a clip is, in numbers that do not depend on how the network was trained.

The training loss is weighted, drawn from the run's own levels, and taken in the run's own space: it ranks steps of one
run and says nothing between runs. Here every run meets the same noise at the same levels, and squared errors of x0, eps
and velocity are plain means. Two networks that are the same function have the same errors, whether they put out eps, x0
or v, and whichever path they noise clips along:

- A level is named by its share of noise, sigma / (alpha + sigma): on the linear path that is t itself. Other paths take
  the t at which their signal-to-noise ratio is the same.
- The velocity is that of the linear path, eps - x0.

At one level the three are multiples of one another, (eps - x0) = away from x0 by 1 / share; over levels they are not.
(Kingma & Gao 2023, arXiv:2303.00848: losses of all kinds are weighted integrals of one error over log-SNR.)
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from dit.diffusion.denoiser import Denoiser
from dit.diffusion.given import Shown, nothing, with_given
from dit.diffusion.levels import moved
from dit.diffusion.path import Path

QUANTITIES = ("x0", "eps", "velocity")


def shares(num_levels: int) -> list[float]:
    """Middles of equal intervals of the share of noise: 0.1, 0.3, 0.5, 0.7, 0.9 for five."""
    return [(2 * level + 1) / (2 * num_levels) for level in range(num_levels)]


def levels_of(path: Path, noise_shares: Sequence[float]) -> Tensor:
    """The level t of `path` at which sigma / (alpha + sigma) is each of the shares: float64 (L,).

    Beyond what a path reaches, its end.
    """
    share = torch.tensor(noise_shares, dtype=torch.float64)
    return path.t_from_log_snr(2 * torch.log((1 - share) / share))


@torch.no_grad()
def errors(
    denoiser: Denoiser,
    x0: Tensor,
    cond: dict[str, Tensor],
    noise_shares: Sequence[float],
    generators: Sequence[torch.Generator],
    shown: Shown | None = None,
) -> Tensor:
    """Mean squared errors of `QUANTITIES` of B clips at L levels in F frames: float64 (3, B, L, F).

    Nothing stands in the clips that is given: every run can be asked that. All clips and levels go through the
    network at once.

    Args:
        x0: clean latents (B, C, F, H, W).
        cond: the conditioning of the clips, entries of batch B.
        generators: one for each clip, which draws its noise (L, C, F, H, W); seed it by the clip.
        shown: frames that are shown beside the clips, to a network that was hardly ever trained without; None: none.
    """
    clips, count = len(x0), len(noise_shares)
    shape = (count, *x0.shape[1:])
    noise = [torch.randn(shape, generator=each, dtype=x0.dtype, device=each.device) for each in generators]
    eps = moved(torch.cat(noise), x0.device)  # (B L, C, F, H, W), as all below
    x0 = x0.repeat_interleave(count, dim=0)
    t = moved(levels_of(denoiser.path, noise_shares), x0.device).repeat(clips)[:, None]
    t = t.to(torch.promote_types(x0.dtype, torch.float32))
    x_t = denoiser.path.mix(x0, eps, t)
    repeated = {key: value.repeat_interleave(count, dim=0) for key, value in cond.items()}
    seen = nothing(x0) if shown is None else shown.repeated(count)
    believed = denoiser(x_t, t, with_given(repeated, denoiser.net, seen))
    away_x0, away_eps = (believed.x0 - x0).double(), (believed.eps - eps).double()
    found = [away.square().mean(dim=(1, 3, 4)) for away in (away_x0, away_eps, away_eps - away_x0)]
    return torch.stack(found).unflatten(1, (clips, count))
