"""Averaging profiles against their closed forms, and reconstruction against the average that was really tracked."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dit.engine.profiles import (
    ConstantDecay,
    PowerProfile,
    Snapshot,
    power_exponent,
    reconstruct,
    reconstruction_weights,
)


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


def random_walk(steps: int, width: int = 5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(steps, width, generator=generator, dtype=torch.float64).cumsum(0)


def tracked(walk: torch.Tensor, sigma_rel: float) -> list[torch.Tensor]:
    profile, average, all_of_them = PowerProfile(sigma_rel), torch.zeros_like(walk[0]), []
    for step, value in enumerate(walk, 1):
        average = torch.lerp(average, value, 1 - profile.decay(step))
        all_of_them.append(average)
    return all_of_them


@pytest.mark.parametrize("sigma_rel", [0.05, 0.07, 0.1])
def test_reconstruction_equals_tracking(sigma_rel: float) -> None:
    steps, every = 400, 20
    walk = random_walk(steps)
    stored = {s: tracked(walk, s) for s in (0.05, 0.1)}
    snapshots = [
        Snapshot(step, s, {"w": averages[step - 1]})
        for s, averages in stored.items()
        for step in range(every, steps + 1, every)
    ]
    wanted = tracked(walk, sigma_rel)[-1]
    rebuilt = reconstruct(snapshots, sigma_rel, steps)["w"].double()
    spread = (wanted - stored[0.05 if sigma_rel > 0.05 else 0.1][-1]).norm()
    assert (rebuilt - wanted).norm() < 0.02 * spread  # the profiles differ 50 times as much
    with pytest.raises(AssertionError):  # and a wrong step is noticed
        assert (reconstruct(snapshots, sigma_rel, steps // 2)["w"].double() - wanted).norm() < 0.02 * spread


def test_a_stored_profile_is_rebuilt_as_itself() -> None:
    stored = [(100, 0.05), (200, 0.05), (100, 0.1), (200, 0.1)]
    np.testing.assert_allclose(reconstruction_weights(stored, 0.1, 200), [0, 0, 0, 1], atol=1e-9)


def test_mistakes_name_the_limit() -> None:
    with pytest.raises(ValueError, match="sigma_rel=0.5 .* at most 0.289"):
        PowerProfile(0.5)
    with pytest.raises(ValueError, match="decay=1.0 must be in"):
        ConstantDecay(1.0)
    with pytest.raises(ValueError, match="at or before step 5; there are \\[10\\]"):
        reconstruct([Snapshot(10, 0.1, {})], 0.1, 5)
