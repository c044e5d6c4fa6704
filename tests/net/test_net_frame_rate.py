"""The frame rate in the projection that blocks share."""

import pytest
import torch

from dit.net.modulation import AdaLNSingleFPS


def test_rates_fall_into_classes() -> None:
    modulation = AdaLNSingleFPS(8, 8, rates=[16, 30])
    fps = torch.tensor([16.0, 24.0, 29.97, 15.4, 30.0])
    assert modulation.classes(fps).tolist() == [0, 2, 1, 2, 1]


def test_only_the_blocks_are_told(randomised) -> None:
    net = randomised(preset="skyreels_v2_tiny", tiny=False)
    level = torch.randn(2, 3, 96, dtype=torch.float64, generator=torch.manual_seed(0))
    slow, fast = (net.modulation(level, {"fps": torch.full((2,), rate)}) for rate in (16.0, 24.0))
    assert slow.shape == (2, 3, 6 * 96)
    moved = (fast - slow).detach()
    torch.testing.assert_close(moved, moved[:1, :1].expand_as(moved), rtol=1e-10, atol=1e-10)
    assert moved.abs().min() > 0


def test_it_starts_without_effect(build) -> None:
    net = build(preset="skyreels_v2_tiny", tiny=False)
    level = torch.randn(2, 1, 96, dtype=torch.float64)
    assert net.modulation(level, {"fps": torch.tensor([16.0, 24.0])}).abs().max() == 0


def test_a_missing_rate_is_named(build) -> None:
    net = build(preset="skyreels_v2_tiny", tiny=False)
    with pytest.raises(ValueError, match=r"needs cond\['fps'\]"):
        net.modulation(torch.zeros(2, 1, 96, dtype=torch.float64), {})
