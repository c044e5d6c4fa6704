"""Learning-rate schedules: `schedule(step, max_steps)` is the factor on the peak rate; step 0 is the first update.

`max_steps` comes from the config. Lightning's own estimate would build the data loaders early and lose their place on
resume.
"""

from __future__ import annotations

import math
from typing import Protocol


class LRSchedule(Protocol):
    def __call__(self, step: int, max_steps: int) -> float: ...


class Constant:
    """A linear warm-up, then the peak rate. Training longer changes nothing that was done before.

    Args:
        warmup_steps: updates until the peak rate.
    """

    def __init__(self, warmup_steps: int) -> None:
        _check_warmup(warmup_steps)
        self.warmup_steps = warmup_steps

    def __call__(self, step: int, max_steps: int) -> float:
        return _warmup(step, self.warmup_steps)


class Cosine:
    """A linear warm-up, then half a cosine down to `final` at `max_steps`.

    Args:
        warmup_steps: updates until the peak rate.
        final: factor at the end.
    """

    def __init__(self, warmup_steps: int, final: float) -> None:
        _check_warmup(warmup_steps)
        _check_final(final)
        self.warmup_steps = warmup_steps
        self.final = final

    def __call__(self, step: int, max_steps: int) -> float:
        progress = (step - self.warmup_steps) / max(1, max_steps - self.warmup_steps)
        falling = 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, progress))))
        return _warmup(step, self.warmup_steps) * (self.final + (1 - self.final) * falling)


class WarmupStableDecay:
    """A linear warm-up, the peak rate, and a decay `1 - sqrt(progress)` over the last share of training (Hu et al.
    2024, MiniCPM, arXiv 2404.06395; the shape from Haegele et al. 2024, arXiv 2405.18392). A run can be extended from
    any checkpoint before its decay.

    Args:
        warmup_steps: updates until the peak rate.
        decay_share: share of `max_steps` that the decay takes, in [0, 1].
        final: factor at the end.
    """

    def __init__(self, warmup_steps: int, decay_share: float, final: float) -> None:
        _check_warmup(warmup_steps)
        _check_final(final)
        if not 0 <= decay_share <= 1:
            raise ValueError(f"lr_schedule.decay_share={decay_share} must be in [0, 1]; usual: 0.1 to 0.3")
        self.warmup_steps = warmup_steps
        self.decay_share = decay_share
        self.final = final

    def __call__(self, step: int, max_steps: int) -> float:
        decay_steps = max(1.0, self.decay_share * max_steps)
        progress = min(1.0, max(0.0, (step - (max_steps - decay_steps)) / decay_steps))
        return _warmup(step, self.warmup_steps) * (self.final + (1 - self.final) * (1 - math.sqrt(progress)))


def _check_warmup(warmup_steps: int) -> None:
    if not isinstance(warmup_steps, int) or warmup_steps < 0:
        raise ValueError(f"lr_schedule.warmup_steps={warmup_steps} must be a whole number of steps, at least 0")


def _check_final(final: float) -> None:
    if not 0 <= final <= 1:
        raise ValueError(f"lr_schedule.final={final} is a factor on the peak rate and must be in [0, 1]; 0 is usual")


def _warmup(step: int, warmup_steps: int) -> float:
    """1/n, 2/n, ... 1: the first update moves already."""
    return min(1.0, (step + 1) / max(1, warmup_steps))
