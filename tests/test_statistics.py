"""Student's t against published tables, and intervals that hold what they promise."""

import numpy as np
import pytest

from dit.statistics import columnwise, estimate, t_quantile


@pytest.mark.parametrize(
    "freedom, t", [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (5, 2.571), (9, 2.262), (30, 2.042), (120, 1.980)]
)
def test_student_as_tabled(freedom: int, t: float) -> None:
    assert t_quantile(freedom) == pytest.approx(t, abs=6e-4)


def test_student_at_another_level_and_nowhere() -> None:
    assert t_quantile(1, 0.99) == pytest.approx(63.657, abs=6e-4)
    assert t_quantile(4, 0.9) == pytest.approx(2.132, abs=6e-4)
    for freedom, level in ((0, 0.95), (3, 1.0)):
        with pytest.raises(ValueError, match="must be"):
            t_quantile(freedom, level)


def test_the_interval_holds_the_truth_in_95_of_100_draws() -> None:
    """Of 3 seeds; with a normal quantile in the place of Student's it would be 81 of 100."""
    draws = np.random.default_rng(0).normal(5.0, 2.0, (3, 4000))
    mean, low, high = columnwise(draws)
    assert np.mean((low <= 5) & (high >= 5)) == pytest.approx(0.95, abs=0.011)
    one = estimate(draws[:, 0].tolist())
    assert one is not None and one.low is not None and one.high is not None
    assert (one.mean, one.low, one.high) == pytest.approx((mean[0], low[0], high[0])) and one.count == 3


def test_one_value_has_no_interval_and_none_no_mean() -> None:
    one = estimate([3.0])
    assert one is not None and (one.mean, one.low, one.high, one.count) == (3.0, None, None, 1)
    assert estimate([]) is None
