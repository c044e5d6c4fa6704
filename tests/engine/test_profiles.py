"""Averaging profiles against their closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from dit.checkpoint.averages import power_exponent
from dit.engine.profiles import ConstantDecay, PowerProfile


@pytest.mark.parametrize("sigma_rel", [0.01, 0.05, 0.1, 0.25])
def test_exponent_gives_the_relative_width(sigma_rel: float) -> None:
    gamma = power_exponent(sigma_rel)
    tau = (np.arange(1_000_000) + 0.5) / 1_000_000  # numerical integration of the profile on [0, 1]
    p = tau**gamma
    p /= p.sum()
    mean = (p * tau).sum()
    assert np.sqrt((p * (tau - mean) ** 2).sum()) == pytest.approx(sigma_rel, rel=1e-4)


@pytest.mark.parametrize("sigma_rel", [0.05, 0.1, 0.28])
def test_power_profile_equals_its_closed_form(sigma_rel: float) -> None:
    """After t steps, step i counts (i^(g+1) - (i-1)^(g+1)) / t^(g+1)."""
    steps, profile = 40, PowerProfile(sigma_rel)
    values = np.random.default_rng(0).normal(size=steps)
    average = 123.0  # whatever was there before the first update is forgotten
    for step in range(1, steps + 1):
        average = profile.decay(step) * average + (1 - profile.decay(step)) * values[step - 1]
    power = profile.exponent + 1
    i = np.arange(1, steps + 1)
    share = (i**power - (i - 1.0) ** power) / steps**power
    assert share.sum() == pytest.approx(1)
    assert average == pytest.approx((share * values).sum(), rel=1e-12)


def test_constant_decay_warms_up() -> None:
    profile = ConstantDecay(0.99)
    assert profile.decay(1) == 0  # the initial weights do not count
    decays = [profile.decay(step) for step in range(1, 3000)]
    assert decays == sorted(decays) and decays[-1] == 0.99


def test_mistakes_name_the_limit() -> None:
    with pytest.raises(ValueError, match="sigma_rel=0.5 .* at most 0.289"):
        PowerProfile(0.5)
    with pytest.raises(ValueError, match="decay=1.0 must be in"):
        ConstantDecay(1.0)
