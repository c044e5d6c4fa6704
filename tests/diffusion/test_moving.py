"""Noise levels that move while training."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dit.config.build import build
from dit.config.kinds import Misfit
from dit.diffusion import weighting
from dit.diffusion.conditioning import Unconditional
from dit.diffusion.given import HELD
from dit.diffusion.levels import ConstantShift, LogitNormal, PerFrame, Shifted, Uniform
from dit.diffusion.loss import Objective
from dit.diffusion.moving import Moving
from dit.diffusion.path import Linear
from dit.diffusion.prediction import Flow
from dit.diffusion.space import Output
from dit.recipes.denoising import Denoising
from tests.diffusion.diffusion_parts import TinyNet

MOVING = Moving(LogitNormal(1.8, 1.0), LogitNormal(0.8, 1.0), begin=10, end=20)


def drawn(levels: object, frames: int = 1) -> torch.Tensor:
    return levels(50, frames, 64, torch.Generator().manual_seed(3), "cpu")  # type: ignore[operator, no-any-return]


@pytest.mark.parametrize(("step", "mean"), [(0, 1.8), (10, 1.8), (13, 1.5), (15, 1.3), (20, 0.8), (999, 0.8)])
def test_between_normals_the_mean_moves(step: int, mean: float) -> None:
    torch.testing.assert_close(drawn(MOVING.at(step)), drawn(LogitNormal(mean, 1.0)), rtol=1e-6, atol=1e-6)
    assert not torch.allclose(drawn(MOVING.at(step)), drawn(LogitNormal(mean + 0.1, 1.0)), atol=1e-3)


def test_ends_are_the_distributions_bit_for_bit() -> None:
    """Quantiles of 0 and 1, whose logits are infinite, come through."""
    moving = Moving(Uniform(), Shifted(Uniform(), ConstantShift(3.0)), begin=0, end=4)
    assert torch.equal(drawn(moving.at(0)), drawn(moving.early)) and torch.equal(
        drawn(moving.at(4)), drawn(moving.late)
    )
    assert torch.equal(drawn(moving), drawn(moving.early)), "validation stays"
    way = moving.at(2).from_uniform(torch.tensor([[0.0], [0.25], [0.5]]).double(), 64)
    assert bool(((way >= 0) & (way <= 1)).all())


def test_levels_of_frames_stay_so() -> None:
    moving = Moving(PerFrame(LogitNormal(1.8, 1.0)), PerFrame(LogitNormal(0.0, 1.0)), begin=0, end=10)
    assert moving.per_frame and moving.at(5).per_frame and drawn(moving.at(5), frames=4).shape == (50, 4)
    with pytest.raises(ValueError, match="both have a level for each frame, or neither"):
        Moving(PerFrame(Uniform()), Uniform(), begin=0, end=1)


def test_a_step_of_training_draws_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []
    kept = Objective.noise

    def noise(self: Objective, *arguments: object, **named: object) -> object:
        asked.append(getattr(self.levels, "share", -1.0))
        return kept(self, *arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(Objective, "noise", noise)
    recipe = Denoising(Objective(Linear(), Flow(), MOVING, weighting.Uniform(), Unconditional(), Output(), HELD))
    x0 = torch.randn(2, 3, 2, 4, 4)
    clips: Any = type("Clips", (), {"x0": x0, "cond": {}, "footage": None})()
    for step in (0, 15, 30):
        recipe.losses({"net": TinyNet(3)}, clips, step)
    assert asked == [0.0, 0.5, 1.0]


def test_bad_steps() -> None:
    with pytest.raises(ValueError, match="levels.begin=5 must lie before levels.end=5"):
        Moving(Uniform(), Uniform(), begin=5, end=5)
    one = {"_target_": "dit.diffusion.levels.Uniform"}
    node = {"_target_": "dit.diffusion.moving.Moving", "early": one, "late": one, "begin": 0, "end": 1}
    with pytest.raises(Misfit, match="levels.levels"):  # within others it would not move
        build({"_target_": "dit.diffusion.levels.Stratified", "levels": node}, "levels")
