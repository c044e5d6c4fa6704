"""How an average of weights forgets: decay by decay, and power-function profiles that can be rebuilt afterwards.

Power-function profiles and their reconstruction: Karras et al. 2024, "Analyzing and Improving the Training Dynamics of
Diffusion Models" (EDM2), arXiv 2312.02696, section 3 and appendix C.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor


class Profile(Protocol):
    """`decay(step)`: the share of the old average that update number `step` (1, 2, ...) keeps."""

    def decay(self, step: int) -> float: ...


class ConstantDecay:
    """Exponential average. While training is young the decay is `(step - 1) / (step + 9)`: the initial weights are
    forgotten at once and the window grows with training, as in Tensorflow's `ExponentialMovingAverage`.

    Args:
        decay: the decay reached in the end, in [0, 1).
    """

    def __init__(self, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"ema decay={decay} must be in [0, 1); 0.999 averages about the last 1000 steps")
        self.limit = decay

    def decay(self, step: int) -> float:
        return min(self.limit, (step - 1) / (step + 9))


class PowerProfile:
    """Weights each step `tau` of `t` by `tau ** exponent`: the window is a fixed share of training (EDM2, eq. 1 and 2).

    Args:
        sigma_rel: width (standard deviation) of the profile relative to the length of training; 0.05 to 0.15 is usual.
    """

    def __init__(self, sigma_rel: float) -> None:
        self.sigma_rel = sigma_rel
        self.exponent = power_exponent(sigma_rel)

    def decay(self, step: int) -> float:
        return (1 - 1 / step) ** (self.exponent + 1)


def power_exponent(sigma_rel: float) -> float:
    """gamma of the profile `tau ** gamma` whose relative width is `sigma_rel` (EDM2, algorithm 2).

    The width is `sqrt(gamma + 1) / ((gamma + 2) sqrt(gamma + 3))`, so gamma is the largest real root of
    `g^3 + 7 g^2 + (16 - s^-2) g + (12 - s^-2)`.
    """
    widest = 12**-0.5  # gamma = 0, all steps alike
    if not 0 < sigma_rel <= widest:
        raise ValueError(f"sigma_rel={sigma_rel} must be above 0 and at most {widest:.3f}; usual: 0.05, 0.1")
    inverse = sigma_rel**-2
    roots = np.roots([1, 7, 16 - inverse, 12 - inverse])
    return max(0.0, float(roots.real.max()))


@dataclass(frozen=True)
class Snapshot:
    """An average as it stood after `step` updates under a power profile of width `sigma_rel`."""

    step: int
    sigma_rel: float
    weights: Mapping[str, Tensor]


def reconstruct(snapshots: Sequence[Snapshot], sigma_rel: float, step: int) -> dict[str, Tensor]:
    """The average that a profile of width `sigma_rel` would have had after `step` updates, from stored ones.

    Least squares over the profiles (EDM2, section 3.2, algorithm 3): any width that lies among the stored ones, at any
    step that has snapshots around or before it. Two widths and a few dozen snapshots are enough.

    Returns:
        float32 tensors under the snapshots' keys.

    Raises:
        ValueError: no snapshots, or none that reaches near `step`.
    """
    used = [snapshot for snapshot in snapshots if snapshot.step <= step]
    if not used:
        steps = sorted({snapshot.step for snapshot in snapshots})
        raise ValueError(f"no EMA snapshot at or before step {step}; there are {steps}")
    weights = reconstruction_weights([(s.step, s.sigma_rel) for s in used], sigma_rel, step)
    result = {}
    for key in used[0].weights:
        # In float64: the coefficients are large and of both signs.
        parts = (weight * s.weights[key].double() for weight, s in zip(weights.tolist(), used, strict=True))
        result[key] = sum(parts, torch.zeros((), dtype=torch.float64)).float()
    return result


def reconstruction_weights(stored: Sequence[tuple[int, float]], sigma_rel: float, step: int) -> np.ndarray:
    """Coefficients (n,), summing to 1, of stored averages `(step, sigma_rel)` that come nearest to the profile."""
    steps = np.array([s for s, _ in stored], dtype=np.float64)
    exponents = np.array([power_exponent(s) for _, s in stored])
    gram = _overlap(steps[:, None], exponents[:, None], steps[None, :], exponents[None, :])
    wanted = _overlap(steps, exponents, np.array(float(step)), np.array(power_exponent(sigma_rel)))
    solution = np.linalg.lstsq(gram, wanted, rcond=1e-12)[0]
    return solution / solution.sum()


def _overlap(t_a: np.ndarray, g_a: np.ndarray, t_b: np.ndarray, g_b: np.ndarray) -> np.ndarray:
    """Inner product of two power profiles: the integral of `p_a p_b` over the steps that both cover.

    With `p(tau) = (g + 1) tau^g / t^(g + 1)` on [0, t] the integral up to the smaller end `m` is
    `(g_a + 1)(g_b + 1) / (g_a + g_b + 1) * m^(g_a + g_b + 1) / (t_a^(g_a + 1) t_b^(g_b + 1))`; powers in logarithms.
    """
    smaller = np.log(np.minimum(t_a, t_b))
    power = (g_a + g_b + 1) * smaller - (g_a + 1) * np.log(t_a) - (g_b + 1) * np.log(t_b)
    return (g_a + 1) * (g_b + 1) / (g_a + g_b + 1) * np.exp(power)
