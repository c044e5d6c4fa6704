"""Frechet and kernel distances equal independent references, and their intervals and biases are right ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import poly_mmd

from dit.evaluation.video.frechet import Moments, few_clips, frechet, frechet_distance
from dit.evaluation.video.jackknife import groups_for
from dit.evaluation.video.kernel import kernel, kernel_distance


def features(count: int, size: int, seed: int, shift: float = 0.0) -> Tensor:
    """Correlated numbers, (count, size)."""
    draw = torch.Generator().manual_seed(seed)
    mix = torch.randn(size, size, generator=torch.Generator().manual_seed(99)) / size**0.5
    return torch.randn(count, size, generator=draw) @ mix + shift


def grouped(rows: Tensor, groups: int) -> list[Moments]:
    return [Moments.of(rows[group::groups]) for group in range(groups)]


def test_the_distance_is_the_published_formula_by_another_road() -> None:
    """The trace by scipy's square root of a matrix that is not symmetric, as public FVD code takes it."""
    linalg = pytest.importorskip("scipy.linalg")
    a, b = features(300, 12, 0).double(), (features(200, 12, 1) * 1.3 + 0.2).double()
    root = linalg.sqrtm(np.cov(a.T) @ np.cov(b.T)).real
    wanted = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(np.cov(a.T) + np.cov(b.T) - 2 * root)
    assert frechet_distance(Moments.of(a), Moments.of(b)) == pytest.approx(float(wanted), rel=1e-9)


def test_the_distance_is_torchmetrics() -> None:
    class Same(nn.Module):
        num_features = 12

        def forward(self, rows: Tensor) -> Tensor:
            return rows

    theirs = FrechetInceptionDistance(feature=Same(), normalize=True)
    a, b = features(300, 12, 0), features(200, 12, 1, shift=0.3)
    theirs.update(a, real=True)
    theirs.update(b, real=False)
    assert frechet_distance(Moments.of(a), Moments.of(b)) == pytest.approx(float(theirs.compute()), rel=1e-5)


def test_fewer_clips_than_features_have_a_distance_and_a_word_about_it() -> None:
    a, b = features(10, 40, 0).double(), features(10, 40, 1).double()
    # Tr (S1 S2)^(1/2) is the nuclear norm of A B^T, divided by n - 1: another way, which is exact for few clips.
    centred = [(each - each.mean(0)).numpy() for each in (a, b)]
    nuclear = np.linalg.svd(centred[0] @ centred[1].T, compute_uv=False).sum() / 9
    wanted = (
        float(((a.mean(0) - b.mean(0)) ** 2).sum()) + sum(np.trace(np.cov(each.T)) for each in centred) - 2 * nuclear
    )
    assert frechet_distance(Moments.of(a), Moments.of(b)) == pytest.approx(wanted, rel=1e-6)
    assert "10 clips for 40 features: the covariances are singular" in few_clips(10, 40) and not few_clips(41, 40)


def test_moments_do_not_depend_on_how_they_came() -> None:
    rows = features(50, 6, 3) + 1000  # far from 0, where sums of squares would lose digits
    pieces = Moments(6)
    for piece in rows.split([1, 20, 0, 29]):
        pieces = pieces.joined(Moments.of(piece))
    assert pieces.count == 50
    torch.testing.assert_close(pieces.mean, rows.double().mean(0))
    torch.testing.assert_close(pieces.covariance, torch.cov(rows.double().T), rtol=1e-9, atol=1e-9)


def test_one_clip_and_features_of_two_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match=r"1 clip\(s\) have no covariance"):
        frechet_distance(Moments.of(features(1, 4, 0)), Moments.of(features(9, 4, 1)))
    with pytest.raises(ValueError, match="features of 4 and of 5 numbers"):
        frechet_distance(Moments.of(features(9, 4, 0)), Moments.of(features(9, 5, 1)))
    with pytest.raises(ValueError, match="1 and 9 clips"):
        kernel_distance(features(1, 4, 0), features(9, 4, 1))
    with pytest.raises(ValueError, match="features of 4 and of 5 numbers"):
        kernel(features(9, 4, 0), features(9, 5, 1))


def test_the_bias_of_few_clips_is_told() -> None:
    """Two samples of one distribution are at distance 0; what is measured is bias, and the jackknife says so."""
    values, biases = [], []
    for seed in range(12):
        found = frechet(grouped(features(120, 8, 2 * seed), 10), grouped(features(120, 8, 2 * seed + 1), 10))
        assert found.bias is not None and found.low is not None
        values.append(found.value)
        biases.append(found.bias)
    assert np.mean(biases) == pytest.approx(np.mean(values), rel=0.15) and np.mean(values) > 0.05
    assert abs(np.mean(values) - np.mean(biases)) < 2 * np.std(values) / 12**0.5


def test_the_interval_holds_what_more_draws_give() -> None:
    """Of 60 pairs of samples the intervals hold the mean of all about as often as they say."""
    found = [
        frechet(grouped(features(80, 4, 2 * seed), 10), grouped(features(80, 4, 2 * seed + 1, shift=0.5), 10))
        for seed in range(60)
    ]
    mean = float(np.mean([each.value for each in found]))
    held = sum(each.low <= mean <= each.high for each in found if each.low is not None and each.high is not None)
    assert held >= 51  # of 60 at 95 %: fewer than 52 come with a probability of 1 %


def test_sets_too_small_for_groups_have_no_interval() -> None:
    assert groups_for(3, 100) == 1 and groups_for(5, 4) == 2 and groups_for(500, 40) == 10
    found = frechet(grouped(features(9, 2, 0), 1), grouped(features(9, 2, 1), 1))
    assert found.low is None and found.bias is None and found.value > 0


def test_the_kernel_distance_is_torchmetrics_and_a_sum_written_out() -> None:
    a, b = features(30, 6, 0).double(), features(30, 6, 1, shift=0.3).double()
    assert kernel_distance(a, b) == pytest.approx(float(poly_mmd(a, b)), rel=1e-9)
    b = b[:20]

    def k(x: Tensor, y: Tensor) -> float:
        return float((x @ y / 6 + 1) ** 3)

    first = sum(k(a[i], a[j]) for i in range(30) for j in range(30) if i != j) / (30 * 29)
    second = sum(k(b[i], b[j]) for i in range(20) for j in range(20) if i != j) / (20 * 19)
    cross = sum(k(x, y) for x in a for y in b) / 600
    assert kernel_distance(a, b) == pytest.approx(first + second - 2 * cross, rel=1e-9)
    assert kernel(a, b).value == pytest.approx(first + second - 2 * cross, rel=1e-9)


def test_subsets_average_to_the_estimate_and_keep_its_interval() -> None:
    a, b = features(120, 5, 0), features(90, 5, 1, shift=0.4)
    whole, parts = kernel(a, b), kernel(a, b, subsets=200, subset_size=60)
    assert parts.value == pytest.approx(whole.value, rel=0.05) and parts.value != whole.value
    assert parts.high - parts.low == pytest.approx(whole.high - whole.low)  # type: ignore[operator]
    assert parts == kernel(a, b, subsets=200, subset_size=60)


def test_the_kernel_distance_has_no_bias() -> None:
    """Of one distribution it is 0 in the mean at any number of clips, where a Frechet distance is not."""
    small = [kernel(features(12, 6, 2 * seed), features(12, 6, 2 * seed + 1)) for seed in range(60)]
    values = [each.value for each in small]
    assert abs(np.mean(values)) < 2.6 * np.std(values) / 60**0.5 and min(values) < 0
    assert {each.bias for each in small} == {0.0}
