"""The law of loss against compute: known exponents are found, within intervals that are honest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dit.report.scaling import Law, fit, grown
from scripts.scaling import main

FLOOR, AMOUNT, EXPONENT, REFERENCE = 0.08, 0.2, 0.3, 1e14
COMPUTES = np.repeat(np.geomspace(1e12, 1e16, 5), 3)


def losses(computes: np.ndarray, noise: float = 0.0, seed: int = 0) -> np.ndarray:
    exact = FLOOR + AMOUNT * (computes / REFERENCE) ** -EXPONENT
    return np.asarray(exact * (1 + noise * np.random.default_rng(seed).standard_normal(len(computes))))


def fitted(noise: float, seed: int = 0, resamples: int = 200) -> Law:
    return fit(COMPUTES, losses(COMPUTES, noise, seed), resamples=resamples, seed=seed)


def test_exact_losses_give_their_law() -> None:
    law = fitted(0.0)
    assert law.parameter("exponent").mean == pytest.approx(EXPONENT, rel=1e-3)
    assert law.parameter("floor").mean == pytest.approx(FLOOR, rel=1e-3)
    assert law.loss(1e18).mean == pytest.approx(losses(np.array([1e18]))[0], rel=1e-3)
    assert law.compute(law.loss(1e17).mean).mean == pytest.approx(1e17, rel=1e-6)
    assert law.compute(FLOOR / 2).mean == np.inf


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    truth = {"floor": FLOOR, "exponent": EXPONENT, "loss": losses(np.array([1e17]))[0]}
    held, trials, width = dict.fromkeys(truth, 0), 100, []
    for seed in range(trials):
        law = fitted(0.02, seed)
        found = {"floor": law.parameter("floor"), "exponent": law.parameter("exponent"), "loss": law.loss(1e17)}
        for name, each in found.items():
            assert each.low is not None and each.high is not None
            held[name] += each.low <= truth[name] <= each.high
        width.append((found["exponent"].high or 0) - (found["exponent"].low or 0))
    assert all(count >= 88 for count in held.values()), held
    assert np.median(width) < 0.12  # 0.95 is not bought with intervals that say nothing


def test_the_next_size_goes_on_as_the_family_grows() -> None:
    """A known power is found, and its interval holds the truth as often as it says."""
    exact = 3e3 * COMPUTES**0.4
    found = grown(COMPUTES, exact, 1e18)
    assert found.mean == pytest.approx(3e3 * 1e18**0.4) and (found.low, found.high) == pytest.approx((found.mean,) * 2)
    held, draw = 0, np.random.default_rng(0)
    for _ in range(400):
        found = grown(COMPUTES, exact * np.exp(0.1 * draw.standard_normal(len(exact))), 1e18)
        held += (found.low or 0) <= 3e3 * 1e18**0.4 <= (found.high or 0)
    assert 0.92 * 400 <= held <= 0.98 * 400


def test_the_command_says_how_large_the_next_network_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = family(tmp_path / "runs", "step,val/x0_error,seen/flops,seen/tokens")
    for run in runs.iterdir():
        head, *rows = (run / "metrics.csv").read_text().splitlines()
        lines = [f"{row},{float(row.split(',')[2]) ** 0.5}" for row in rows]  # half of the growth is the network's
        (run / "metrics.csv").write_text("\n".join([head, *lines]) + "\n")
    main([str(runs), "--at", "1e16"])
    assert "grows: 1e+08 (1e+08 to 1e+08) FLOPs a token, 1e+08 (1e+08 to 1e+08) tokens" in capsys.readouterr().out


def test_one_run_that_went_wrong_hardly_moves_it() -> None:
    values = losses(COMPUTES, 0.01)
    values[-1] *= 0.7
    assert fit(COMPUTES, values, resamples=10, seed=0).parameter("exponent").mean == pytest.approx(EXPONENT, abs=0.025)


@pytest.mark.parametrize(
    "computes, values, said",
    [
        ([1e12, 1e13, 1e13, 1.01e13], [4, 3, 3, 3], "at least 3 computes, and there are 2 .runs: 4."),
        ([1e12] * 5, [4, 3, 3, 3, 2], "at least 3 computes, and there are 1 .runs: 5."),
        ([1e12, 1e13, 1e14], [4, 3, 2.5], "leave nothing to tell its uncertainty"),
        ([1e12, 1e13, 1e14, 1e15], [1, 2, 3, 4], "does not fall"),
        ([1e12, 1e13, 1e14, 1e15], [4, 3, float("nan"), 2], "a loss of nan"),
    ],
)
def test_runs_that_cannot_bear_it(computes: list[float], values: list[float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        fit(computes, values, resamples=10, seed=0)


def family(folder: Path, head: str = "step,val/x0_error,seen/flops") -> Path:
    for seed in range(2):
        for place, compute in enumerate(np.geomspace(1e12, 1e15, 4)):
            run = folder / f"size{place}-seed{seed}"
            run.mkdir(parents=True)
            (run / "config.yaml").write_text(f"name: {run.name}\nseed: {seed}\n")
            value = losses(np.array([compute]), 0.01, 10 * place + seed)[0]
            (run / "metrics.csv").write_text(f"{head}\n10,{2 * value},{compute / 2}\n20,{value},{compute}\n")
    return folder


def test_the_command_reads_a_family(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figure = tmp_path / "law.svg"
    main([str(family(tmp_path / "runs")), "--at", "1e16", "--loss", "0.2", "0.01", "--out", str(figure)])
    said = capsys.readouterr().out
    assert "8 runs" in said and "at 1e+16 FLOP" in said and "for val/x0_error 0.2" in said
    assert "0.01: not reached" in said
    assert "<svg" in figure.read_text()


@pytest.mark.parametrize(
    "head, said", [("step,a,seen/flops", "no val/x0_error"), ("step,val/x0_error,b", "no seen/flops")]
)
def test_runs_without_a_column_are_named(tmp_path: Path, head: str, said: str) -> None:
    with pytest.raises(ValueError, match=f"size0-seed0 has {said}"):
        main([str(family(tmp_path / "runs", head))])


def test_no_runs_are_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there are no runs in"):
        main([str(tmp_path)])
