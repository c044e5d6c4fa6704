"""How an average of weights forgets: decay by decay, or by power-function profiles, of which others can be rebuilt
afterwards (`dit/checkpoint/averages.py`)."""

from __future__ import annotations

from typing import Protocol

from dit.checkpoint.averages import power_exponent


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
