"""Which frames are given, how often, and at which level they enter."""

import pytest
import torch
from torch import Tensor

from dit.diffusion.conditioning import (
    FirstAndLastFrame,
    FirstFrame,
    FirstFrames,
    Keyframes,
    NoFrame,
    Pattern,
    RandomPrefix,
    RandomSubset,
    RandomTasks,
    Unconditional,
)

PATTERNS = [NoFrame(), FirstFrame(), FirstFrames(2), FirstAndLastFrame(), RandomPrefix(), Keyframes(4), RandomSubset()]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def only(pattern: Pattern, context_noise: float = 0.0) -> RandomTasks:
    return RandomTasks({"only": pattern}, {"only": 1.0}, context_noise)


def rows(pattern: Pattern, frames: int, batch: int = 3000) -> dict[str, float]:
    """How often each row of given frames comes, as strings like 1001."""
    given = only(pattern)(batch, frames, generator(), "cpu")
    assert given.shape == (batch, frames) and given.dtype == torch.bool
    keys = ["".join(str(int(place)) for place in row) for row in given.tolist()]
    return {key: keys.count(key) / batch for key in set(keys)}


def assert_equally_likely(found: dict[str, float], expected: set[str]) -> None:
    assert set(found) == expected
    for share in found.values():
        assert share == pytest.approx(1 / len(expected), abs=0.04)


def test_fixed_patterns() -> None:
    assert rows(NoFrame(), 5) == {"00000": 1.0}
    assert rows(FirstFrame(), 5) == {"10000": 1.0}
    assert rows(FirstFrames(3), 5) == {"11100": 1.0} and rows(FirstFrames(5), 5) == {"00000": 1.0}
    assert rows(FirstAndLastFrame(), 5) == {"10001": 1.0}


def test_random_prefix() -> None:
    assert_equally_likely(rows(RandomPrefix(), 5), {"10000", "11000", "11100", "11110"})


def test_keyframes() -> None:
    assert_equally_likely(rows(Keyframes(4), 9), {"101010101", "100100101", "100010001"})
    found = rows(Keyframes(6), 5)
    assert set(found) == {"10101", "10011", "10001"}
    assert found["10001"] == pytest.approx(3 / 5, abs=0.04)


def test_random_subset_reaches_every_number_of_frames_equally() -> None:
    given = only(RandomSubset())(6000, 4, generator(), "cpu")
    counts = torch.bincount(given.sum(1), minlength=5) / 6000
    # Without the rule below each of 0..4 comes with 1/5; rows with all frames given become rows with none.
    torch.testing.assert_close(counts, torch.tensor([0.4, 0.2, 0.2, 0.2, 0.0]), rtol=0, atol=0.03)
    torch.testing.assert_close(given.float().mean(0), torch.full((4,), 0.3), rtol=0, atol=0.03)


@pytest.mark.parametrize("frames", [1, 2, 3, 5])
@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda p: type(p).__name__)
def test_something_is_always_left_to_learn(pattern: Pattern, frames: int) -> None:
    assert not only(pattern)(500, frames, generator(), "cpu").all(dim=1).any()


def test_tasks_come_as_often_as_their_weights() -> None:
    tasks = {"i2v": FirstFrame(), "t2v": NoFrame(), "ends": FirstAndLastFrame()}
    given = RandomTasks(tasks, {"t2v": 5, "ends": 2, "i2v": 3}, 0.0)(20_000, 4, generator(), "cpu")
    shares = [(given == torch.tensor(row)).all(1).float().mean().item() for row in ([0, 0, 0, 0], [1, 0, 0, 0])]
    assert shares == pytest.approx([0.5, 0.3], abs=0.02)
    never = RandomTasks(tasks, {"t2v": 1, "ends": 0, "i2v": 0}, 0.0)(1000, 4, generator(), "cpu")
    assert not never.any()


def levels(conditioning: RandomTasks, t: Tensor, batch: int = 64, frames: int = 4) -> tuple[Tensor, Tensor]:
    given = conditioning(batch, frames, generator(), "cpu")
    return given, conditioning.frame_levels(t, given, generator(1))


@pytest.mark.parametrize("width", [1, 4])
def test_given_frames_are_clean_by_default(width: int) -> None:
    t = torch.rand(64, width) * 0.5 + 0.5
    before = t.clone()
    given, out = levels(only(RandomSubset()), t)
    assert out.shape == (64, 4) and out.dtype == t.dtype
    assert given.any() and (out[given] == 0).all() and torch.equal(out[~given], t.expand(64, 4)[~given])
    assert torch.equal(t, before)


def test_context_noise_is_one_small_level_a_clip() -> None:
    t = torch.ones(4000, 1)
    given, out = levels(only(FirstAndLastFrame(), context_noise=0.2), t, batch=4000)
    context = out[given].reshape(4000, 2)
    assert (context[:, 0] == context[:, 1]).all() and (out[~given] == 1).all()
    assert context.max() < 0.2 and context.min() >= 0
    assert context.mean().item() == pytest.approx(0.1, abs=0.005) and context.std().item() > 0.05


def test_unconditional_keeps_shared_levels_shared() -> None:
    t = torch.rand(6, 1)
    given = Unconditional()(6, 4, generator(), "cpu")
    assert given.shape == (6, 4) and given.dtype == torch.bool and not given.any()
    assert Unconditional().frame_levels(t, given, None) is t


def test_draws_come_from_the_generator_alone() -> None:
    conditioning = RandomTasks(
        {str(i): p for i, p in enumerate(PATTERNS)}, {str(i): 1 for i in range(len(PATTERNS))}, 0.1
    )
    first = conditioning(32, 6, generator(3), "cpu")
    state = torch.get_rng_state()
    assert torch.equal(first, conditioning(32, 6, generator(3), "cpu"))
    assert not torch.equal(first, conditioning(32, 6, generator(4), "cpu"))
    t = torch.ones(32, 1)
    a, b = (conditioning.frame_levels(t, first, generator(3)) for _ in range(2))
    assert torch.equal(a, b)
    assert torch.equal(state, torch.get_rng_state()), "the global generator was touched"


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Keyframes(1),
        lambda: only(NoFrame(), context_noise=1.0),
        lambda: only(NoFrame(), context_noise=-0.1),
        lambda: RandomTasks({"t2v": NoFrame()}, {"t2v": 1.0, "i2v": 1.0}, 0.0),
    ],
)
def test_mistakes_are_one_line(wrong) -> None:
    with pytest.raises(ValueError) as error:
        wrong()
    assert "\n" not in str(error.value)
