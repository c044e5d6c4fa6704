"""What an epoch shows: every clip once, or sources by weight."""

import numpy as np
import pytest

from data.epochs import Epochs, Mixture


def sources(*sizes: int) -> np.ndarray:
    return np.repeat(np.arange(len(sizes)), sizes)


def test_without_weights_an_epoch_is_a_shuffle() -> None:
    epochs = Epochs(7, seed=3)
    assert [epochs.begins(epoch) for epoch in range(3)] == [0, 7, 14]
    assert epochs.find(13) == (1, 6) and epochs.find(14) == (2, 0)
    for epoch in range(3):
        drawn = epochs.draws(epoch)
        assert sorted(drawn.index) == list(range(7)) and set(drawn.showing) == {epoch}


def test_weights_of_one_change_the_order_alone() -> None:
    epochs = Epochs(10, 0, Mixture([1.0, 1.0], sources(4, 6)))
    for epoch in range(4):
        drawn = epochs.draws(epoch)
        assert sorted(drawn.index) == list(range(10)) and set(drawn.showing) == {epoch}


@pytest.mark.parametrize("weights", [(2.0, 1.0, 0.5), (1.3, 0.1, 0.01), (0.25, 3.0, 1 / 3)])
def test_each_clip_of_a_source_is_shown_by_its_weight_and_evenly(weights: tuple[float, ...]) -> None:
    epochs, shown, source = Epochs(60, 1, Mixture(weights, sources(10, 20, 30))), 40, sources(10, 20, 30)
    draws = [epochs.draws(epoch) for epoch in range(shown)]
    index = np.concatenate([drawn.index for drawn in draws])
    times = np.bincount(index, minlength=60)
    for which, weight in enumerate(weights):
        mine = times[source == which]
        assert mine.max() - mine.min() <= 1, "nothing comes again before all of its source was shown"
        assert abs(mine.sum() - shown * weight * len(mine)) < 1 + 1e-6
    # A clip's showings are counted, so that it looks different each time.
    showing = np.concatenate([drawn.showing for drawn in draws])
    for clip in range(60):
        assert sorted(showing[index == clip]) == list(range(times[clip]))


def test_epochs_begin_where_those_before_end() -> None:
    epochs = Epochs(60, 1, Mixture((0.07, 1.3, 0.5), sources(10, 20, 30)))
    position = 0
    for epoch in range(50):
        assert epochs.begins(epoch) == position
        count = len(epochs.draws(epoch))
        assert count <= sum(epochs.rates) + 3
        for place in range(count):
            assert epochs.find(position + place) == (epoch, place)
        position += count


def test_epochs_without_a_clip_are_passed_over() -> None:
    epochs = Epochs(2, 0, Mixture((0.1, 0.1), sources(1, 1)))
    assert len(epochs.draws(0)) == 0 and epochs.find(0) == (9, 0)
    assert sorted(epochs.draws(9).index) == [0, 1]


def test_sources_are_mixed_in_an_epoch() -> None:
    drawn = Epochs(200, 5, Mixture((1.0, 2.0), sources(100, 100))).draws(0)
    halves = [(part < 100).mean() for part in np.array_split(drawn.index, 3)]
    assert all(0.2 < share < 0.46 for share in halves)
