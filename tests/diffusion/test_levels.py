"""Distributions of noise levels against their closed forms, and where their random numbers come from."""

import math
from statistics import NormalDist

import pytest
import torch
from torch import Tensor

from dit.diffusion.levels import (
    Between,
    ConstantShift,
    Distribution,
    Levels,
    LogitNormal,
    Mixture,
    PerFrame,
    Shifted,
    Stratified,
    TokenShift,
    Uniform,
)

MANY = 40_000
PROBABILITIES = (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(levels: Levels, batch: int = MANY, frames: int = 1, num_tokens: int = 256, seed: int = 0) -> Tensor:
    return levels(batch, frames, num_tokens, generator(seed), "cpu")


def logit_normal_quantile(p: float, mean: float, std: float) -> float:
    return 1 / (1 + math.exp(-NormalDist(mean, std).inv_cdf(p)))


def shifted(t: float, s: float) -> float:
    return s * t / (1 + (s - 1) * t)


def largest_gap(t: Tensor, quantiles: list[float]) -> float:
    """Largest difference between the share of levels below a quantile and its probability."""
    shares = [(t < q).float().mean().item() for q in quantiles]
    return max(abs(share - p) for share, p in zip(shares, PROBABILITIES, strict=True))


# 4 standard errors of a share at p = 1/2 are 0.01 for 40,000 draws.
@pytest.mark.parametrize(
    "levels, quantiles",
    [
        (Uniform(), list(PROBABILITIES)),
        (LogitNormal(1.8, 0.7), [logit_normal_quantile(p, 1.8, 0.7) for p in PROBABILITIES]),
        (Shifted(Uniform(), ConstantShift(3.0)), [shifted(p, 3.0) for p in PROBABILITIES]),
        (Shifted(Uniform(), TokenShift(64)), [shifted(p, 2.0) for p in PROBABILITIES]),
        (
            Shifted(LogitNormal(-0.4, 1.3), ConstantShift(0.5)),
            [shifted(logit_normal_quantile(p, -0.4, 1.3), 0.5) for p in PROBABILITIES],
        ),
        (Stratified(LogitNormal(0.3, 1.0)), [logit_normal_quantile(p, 0.3, 1.0) for p in PROBABILITIES]),
    ],
)
def test_quantiles(levels: Distribution, quantiles: list[float]) -> None:
    t = draw(levels)
    assert t.shape == (MANY, 1) and t.dtype == torch.float32 and (t >= 0).all() and (t <= 1).all()
    assert largest_gap(t, quantiles) < 0.01
    per_frame = draw(PerFrame(levels), batch=MANY // 4, frames=4)
    assert largest_gap(per_frame, quantiles) < 0.01
    assert largest_gap(t**1.2, quantiles) > 0.01, "a distribution that is a little off must be seen"


def test_shift_of_a_logit_normal_moves_its_mean_by_log_s() -> None:
    u = torch.rand(100, dtype=torch.float64)
    moved = Shifted(LogitNormal(0.2, 0.9), ConstantShift(5.0)).from_uniform(u, 1)
    torch.testing.assert_close(moved, LogitNormal(0.2 + math.log(5.0), 0.9).from_uniform(u, 1))


def test_token_shift_is_the_square_root_of_the_ratio() -> None:
    assert TokenShift(256)(256) == 1
    assert TokenShift(256)(1024) == 2
    u = torch.rand(10, dtype=torch.float64)
    levels = Shifted(Uniform(), TokenShift(256))
    assert torch.equal(levels.from_uniform(u, 256), u)
    assert (levels.from_uniform(u, 1024) > u).all() and (levels.from_uniform(u, 64) < u).all()


def test_frames_are_independent_only_when_asked() -> None:
    assert draw(Uniform(), batch=8, frames=5).shape == (8, 1)
    t = draw(PerFrame(Uniform()), batch=20_000, frames=3)
    assert t.shape == (20_000, 3)
    correlation = torch.corrcoef(t.T)
    assert (correlation - torch.eye(3)).abs().max() < 0.03
    assert (torch.corrcoef(t[:, :1].expand(-1, 3).T) - torch.eye(3)).abs().max() > 0.9


@pytest.mark.parametrize("frames", [1, 3])
def test_stratified_puts_one_level_in_each_interval(frames: int) -> None:
    levels = Stratified(PerFrame(Uniform()))
    for seed in range(5):
        t = draw(levels, batch=16, frames=frames, seed=seed)
        for f in range(frames):
            assert sorted((t[:, f] * 16).long().tolist()) == list(range(16))
            assert t[:, f].tolist() != sorted(t[:, f].tolist())
    assert sorted((draw(PerFrame(Uniform()), batch=16) * 16).long().flatten().tolist()) != list(range(16))


def test_stratified_frames_are_not_in_step() -> None:
    t = torch.cat([draw(Stratified(PerFrame(Uniform())), batch=8, frames=2, seed=s) for s in range(1000)])
    assert abs(torch.corrcoef(t.T)[0, 1]) < 0.05


def test_mixture_takes_each_part_as_often_as_its_weight() -> None:
    low, high = Shifted(Uniform(), ConstantShift(1e-6)), PerFrame(Shifted(Uniform(), ConstantShift(1e6)))
    t = draw(Mixture({"low": low, "high": high}, {"high": 3, "low": 1}), batch=10_000, frames=3)
    assert t.shape == (10_000, 3)
    is_high = t > 0.5
    assert (is_high.all(dim=1) | ~is_high.any(dim=1)).all(), "a clip takes all its levels from one part"
    assert is_high[:, 0].float().mean().item() == pytest.approx(0.75, abs=0.02)
    shared = t[~is_high[:, 0]]
    assert (shared == shared[:, :1]).all() and not (t[is_high[:, 0]] == t[is_high[:, 0]][:, :1]).all()


def test_mixture_of_shared_levels_stays_on_the_fast_path() -> None:
    t = draw(Mixture({"a": Uniform(), "b": LogitNormal(0.0, 1.0)}, {"a": 1, "b": 1}), batch=8, frames=3)
    assert t.shape == (8, 1)


@pytest.mark.parametrize(
    "levels",
    [
        LogitNormal(0.0, 1.0),
        PerFrame(Uniform()),
        Stratified(Uniform()),
        Mixture({"a": Uniform(), "b": PerFrame(Uniform())}, {"a": 1, "b": 1}),
    ],
)
def test_draws_come_from_the_generator_alone(levels: Levels) -> None:
    torch.manual_seed(1)
    first = draw(levels, batch=8, frames=3, seed=5)
    state = torch.get_rng_state()
    assert torch.equal(first, draw(levels, batch=8, frames=3, seed=5))
    assert torch.equal(state, torch.get_rng_state()), "the global generator was touched"
    assert not torch.equal(first, draw(levels, batch=8, frames=3, seed=6))

    torch.manual_seed(7)
    unseeded = levels(8, 3, 256, None, "cpu")
    torch.manual_seed(7)
    assert torch.equal(unseeded, levels(8, 3, 256, None, "cpu")), "None is the global generator"


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: LogitNormal(0.0, 0.0),
        lambda: ConstantShift(0.0),
        lambda: TokenShift(0),
        lambda: Mixture({"a": Uniform()}, {"b": 1.0}),
        lambda: Mixture({"a": Uniform()}, {"a": 0.0}),
        lambda: Mixture({"a": Uniform(), "b": Uniform()}, {"a": 2.0, "b": -1.0}),
    ],
)
def test_mistakes_are_one_line(wrong) -> None:
    with pytest.raises(ValueError) as error:
        wrong()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "levels",
    [
        Uniform(),
        LogitNormal(1.8, 1.0),
        Shifted(LogitNormal(0.0, 1.0), ConstantShift(5.0)),
        Shifted(Uniform(), TokenShift(64)),
    ],
    ids=["uniform", "logit-normal", "shifted", "by tokens"],
)
@pytest.mark.parametrize("low, high", [(0.875, 1.0), (0.0, 0.875), (0.2, 0.6)])
def test_between_two_bounds_a_distribution_is_what_it_was(levels: Distribution, low: float, high: float) -> None:
    """Its levels are those of the whole distribution that lie between them."""
    for num_tokens in (256, 1024):
        t = draw(Between(levels, low, high), num_tokens=num_tokens)
        assert low <= t.min() and t.max() <= high and Between(levels, low, high).interval == (low, high)
        whole = draw(levels, batch=20 * MANY, num_tokens=num_tokens, seed=1)
        part = whole[(whole >= low) & (whole <= high)].sort().values
        quantiles = [part[int(p * len(part))].item() for p in PROBABILITIES]
        assert largest_gap(t, quantiles) < 0.012
        assert largest_gap(t * 0.97 + 0.03 * low, quantiles) > 0.012 or num_tokens == 1024, "or the bound shows nothing"


def test_between_keeps_frames_and_strata() -> None:
    inner = LogitNormal(0.0, 1.0)
    frames = Between(PerFrame(inner), 0.5, 0.75)
    assert frames.per_frame and draw(frames, batch=3, frames=5).shape == (3, 5)
    spread = draw(Stratified(Between(inner, 0.5, 0.75)), batch=400).sort(dim=0).values
    u = (torch.arange(400) + 0.5)[:, None] / 400
    middles = Between(inner, 0.5, 0.75).from_uniform(u.double(), 1).float()
    assert (spread - middles).abs().max() < 0.002
    half = Mixture({"a": Between(inner, 0.25, 0.5), "b": Between(inner, 0.5, 0.75)}, {"a": 1.0, "b": 1.0})
    assert half.interval == (0.25, 0.75) and Stratified(frames).interval == (0.5, 0.75) == PerFrame(frames).interval
    assert inner.interval == (0, 1)


def test_between_mistakes() -> None:
    for low, high in ((0.5, 0.5), (0.6, 0.4), (-0.1, 0.5), (0.5, 1.1)):
        with pytest.raises(ValueError, match="must be in order within"):
            Between(Uniform(), low, high)
    with pytest.raises(ValueError, match="next to no levels lie between"):
        draw(Between(LogitNormal(0.0, 0.1), 0.9, 1.0))
    with pytest.raises(ValueError, match="put Between around it"):
        Shifted(Between(Uniform(), 0.0, 0.5), ConstantShift(2.0))
