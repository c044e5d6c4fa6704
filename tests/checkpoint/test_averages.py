"""Averages of any width out of those that were kept, against the average that was really tracked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dit.checkpoint.averages import Snapshot, load_snapshots, nearest, of_width, rebuilt
from dit.checkpoint.opened import choose
from dit.engine.profiles import PowerProfile


def random_walk(steps: int, width: int = 5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(steps, width, generator=generator, dtype=torch.float64).cumsum(0)


def tracked(walk: torch.Tensor, sigma_rel: float) -> list[torch.Tensor]:
    profile, average, all_of_them = PowerProfile(sigma_rel), torch.zeros_like(walk[0]), []
    for step, value in enumerate(walk, 1):
        average = torch.lerp(average, value, 1 - profile.decay(step))
        all_of_them.append(average)
    return all_of_them


def snapshots(walk: torch.Tensor, every: int) -> list[Snapshot]:
    return [
        Snapshot(step, width, {"w": tracked(walk, width)[step - 1].float()})
        for width in (0.05, 0.1)
        for step in range(every, len(walk) + 1, every)
    ]


@pytest.mark.parametrize("sigma_rel", [0.03, 0.05, 0.07, 0.1, 0.15, 0.25])
def test_with_a_snapshot_at_each_step_any_width_is_exact(sigma_rel: float) -> None:
    walk = random_walk(60)
    wanted = tracked(walk, sigma_rel)[-1]
    weights, found = rebuilt(snapshots(walk, 1), sigma_rel, 60)
    torch.testing.assert_close(weights["w"].double(), wanted, rtol=1e-5, atol=1e-5)
    assert found.away < 1e-6 and found.coefficients.sum() == pytest.approx(1)
    early, _ = rebuilt(snapshots(walk, 1), sigma_rel, 41)  # of an earlier checkpoint
    torch.testing.assert_close(early["w"].double(), tracked(walk, sigma_rel)[40], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(early["w"], weights["w"], rtol=1e-3)  # and a wrong step is noticed


def test_with_few_it_is_off_by_what_it_says() -> None:
    """The error in weights that jump about is that of the profile: the walk's steps are independent of one another."""
    walk = random_walk(400, width=4000)
    kept = snapshots(walk, 40)
    weights, found = rebuilt(kept, 0.07, 400)
    wanted, raw = tracked(walk, 0.07)[-1], walk[-1]
    assert 0.001 < found.away < 0.02
    assert (weights["w"] - wanted).norm() < 0.02 * (wanted - raw).norm()
    assert (kept[9].weights["w"] - wanted).norm() > 0.1 * (wanted - raw).norm()  # the next best: 0.05 itself


def test_steps_are_put_together_where_there_are_many() -> None:
    stored = [(step, width) for width in (0.05, 0.1) for step in range(5000, 100_001, 5000)]
    found = nearest(stored, 0.07, 100_000)
    assert 0.001 < found.away < 0.004  # as with each step by itself: 0.0025
    np.testing.assert_allclose(nearest(stored, 0.1, 100_000).coefficients, [0.0] * 39 + [1.0], atol=1e-9)


def node(width: Any) -> dict[str, Any]:
    return {"_target_": "dit.engine.profiles.PowerProfile", "sigma_rel": width}


def test_the_averages_of_the_checkpoint_itself_count(tmp_path: Path) -> None:
    """Between the two widths that are tracked they are enough, and with snapshots they make it better."""
    walk = random_walk(200, width=300)
    run = tmp_path / "run"
    (run / "ema").mkdir(parents=True)
    averages = {f"own{width}": {"w": tracked(walk, width)[-1].float()} for width in (0.05, 0.1)}
    config = {"ema": {"profiles": {"own0.05": node(0.05), "own0.1": node(0.1), "fast": {"_target_": "x"}}}}
    file, wanted = run / "checkpoints" / "last.ckpt", tracked(walk, 0.07)[-1]

    def away() -> float:
        label, weights = choose("ema@0.07", averages, config, file, 200)
        assert label == "ema@0.07"
        return float((weights["w"] - wanted).norm() / wanted.norm())

    alone = away()
    assert alone < 0.05
    for each in snapshots(walk, 25):
        content = {"step": each.step, "sigma_rel": each.sigma_rel, "weights": dict(each.weights)}
        torch.save(content, run / "ema" / f"step-{each.step:08d}-{each.sigma_rel}.ckpt")
    torch.save(
        {"step": 225, "sigma_rel": 0.1, "weights": {"w": torch.full((300,), 1e9)}}, run / "ema/step-00000225-a.ckpt"
    )
    assert away() < 0.2 * alone  # that of a later step than the checkpoint's is left out


def test_what_cannot_be_rebuilt_is_said_in_a_line(tmp_path: Path) -> None:
    file = tmp_path / "checkpoints" / "last.ckpt"
    constant = {"ema": {"profiles": {"decay": {"_target_": "dit.engine.profiles.ConstantDecay", "decay": 0.9}}}}
    own: dict[str, dict[str, torch.Tensor]] = {"decay": {"w": torch.ones(2)}}
    with pytest.raises(ValueError, match=r"holds no average under a power profile.* train with ema=power"):
        choose("ema@0.07", own, constant, file, 10)
    with pytest.raises(ValueError, match="weights=ema@wide is no width of an average"):
        choose("ema@wide", own, constant, file, 10)
    with pytest.raises(ValueError, match=r"sigma_rel=0.5 .* must be above 0 and at most 0.289"):
        choose("ema@0.5", own, constant, file, 10)
    with pytest.raises(ValueError, match="holds no average under a power profile"):
        of_width(0.07, None, own, {"ema": {"profiles": {"decay": node(0.1)}}}, file)
    with pytest.raises(ValueError, match="at or before step 5; there are \\[10\\]"):
        rebuilt([Snapshot(10, 0.1, {})], 0.1, 5)
    with pytest.raises(ValueError, match="steps 10 and 20 are of different networks"):
        rebuilt([Snapshot(10, 0.1, {"w": torch.ones(2)}), Snapshot(20, 0.1, {"w": torch.ones(3)})], 0.1, 20)
    (tmp_path / "ema").mkdir()
    for content in ([], {"step": 1, "weights": {}}, {"step": 1, "sigma_rel": 0.1, "weights": {"w": 3}}):
        torch.save(content, tmp_path / "ema" / "step-00000001-a.ckpt")
        with pytest.raises(ValueError, match="step-00000001-a.ckpt is no EMA snapshot of this project"):
            load_snapshots(tmp_path)
