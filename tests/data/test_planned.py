"""Batches of several shapes: complete, within the budget, about equal over ranks, and the same from any place on."""

import logging
import random
from collections import Counter
from itertools import islice, pairwise, product
from typing import Any

import numpy as np
import pytest

from data.batch import Shape
from data.buckets import Buckets
from data.epochs import Epochs, Mixture
from data.packing import AHEAD, Packed, fill, pack
from data.planned import PlannedStream, Planner
from data.sampler import Draw, Place
from data.shapes import Shaped, Shapes

SHAPES = (Shape(1, 16, 16), Shape(4, 16, 16), Shape(4, 16, 32), Shape(8, 16, 16), Shape(8, 32, 32))
TOKENS = np.array([4, 16, 32, 32, 128])
BUDGET = 140
ANY: dict[str, Any] = {
    "shapes": None, "sides": None, "aspects": ["1:1"], "lengths": None, "tokens": None, "max_enlarge": 1.0,
    "max_cut": 0.5,
}  # fmt: skip
BEGIN = Place(0)
KINDS: list[type[Shapes]] = [Buckets, Packed]


class Nothing:
    """Clips that no plan may ask for anything."""


def planner(kind: type[Shapes], num_clips: int, seed: int, alike: int, mixture: Mixture | None = None) -> Planner:
    number = np.random.default_rng(seed).choice(len(SHAPES), num_clips, p=[0.3, 0.3, 0.2, 0.1, 0.1])
    clips = Shaped(Nothing(), number, SHAPES, TOKENS)  # type: ignore[arg-type]
    return Planner(Epochs(num_clips, seed, mixture), clips, kind(**ANY), BUDGET, alike)


def steps(plans: Planner, world_size: int, start: Place, count: int) -> list[list[list[Draw]]]:
    """Steps of batches, one for each rank."""
    ranks = [islice(PlannedStream(plans, rank, world_size, start), count) for rank in range(world_size)]
    return [list(step) for step in zip(*ranks, strict=True)]


def batches(plans: Planner, count: int, start: Place = BEGIN) -> list[list[Draw]]:
    return [batch for step in steps(plans, 1, start, count) for batch in step]


def tokens_of(batch: list[Draw]) -> int:
    return sum(int(TOKENS[SHAPES.index(draw.shape)]) for draw in batch)  # type: ignore[arg-type]


def cases(count: int) -> list[tuple[int, int, int]]:
    rng = random.Random(1)
    return [(rng.randint(1, 120), rng.randint(0, 10**6), rng.randint(1, 6)) for _ in range(count)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_clips, seed, alike", cases(20))
def test_each_epoch_shows_each_clip_once_in_its_shape_and_within_the_budget(
    kind: type[Shapes], num_clips: int, seed: int, alike: int
) -> None:
    plans = planner(kind, num_clips, seed, alike)
    made: list[list[Draw]] = []
    while sum(map(len, made)) < 3 * num_clips:
        made = batches(plans, len(made) + 8)
    draws = [draw for batch in made for draw in batch][: 3 * num_clips]
    assert Counter((draw.epoch, draw.index) for draw in draws) == Counter(
        (epoch, index) for epoch in range(3) for index in range(num_clips)
    )
    assert [draw.epoch for draw in draws] == sorted(draw.epoch for draw in draws)
    for batch in made:
        assert batch and tokens_of(batch) <= BUDGET
        assert all(draw.shape == SHAPES[plans.clips.number[draw.index]] for draw in batch)
        assert plans.shapes.packed or len({draw.shape for draw in batch}) == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_clips, seed, alike", cases(20))
def test_stopping_anywhere_and_going_on_changes_nothing(
    kind: type[Shapes], num_clips: int, seed: int, alike: int
) -> None:
    """Also with another number of ranks, and with sources of broken weights."""
    mixture = Mixture((0.7, 1.6), np.arange(num_clips) % 2) if seed % 2 and num_clips > 9 else None
    plans = planner(kind, num_clips, seed, alike, mixture)
    whole = batches(plans, 60)
    before, after, stop = 1 + seed % 3, 1 + seed % 4, 1 + seed % 13
    first = [batch for step in steps(plans, before, Place(0), stop) for batch in step]
    place = next(islice(PlannedStream(plans, 0, before, Place(0)).places(), stop - 1, None))
    again = planner(kind, num_clips, seed, alike, mixture)
    rest = [batch for step in steps(again, after, place, 4) for batch in step]
    assert place.position == sum(map(len, first))
    assert first + rest == whole[: len(first) + len(rest)]


@pytest.mark.parametrize("ranks", [1, 2, 7, 8])
def test_ranks_have_one_shape_and_equal_tokens_at_each_step_but_at_the_ends_of_shapes(ranks: int) -> None:
    """Over three epochs, which do not end on whole steps."""
    plans = planner(Buckets, 3000, 4, ranks)
    made = steps(plans, ranks, Place(0), 3 * len(plans.plan(0, 0)) // ranks)
    one_shape = [len({draw.shape for batch in step for draw in batch}) == 1 for step in made]
    mixed_steps = 3 * (len(SHAPES) * ranks // ranks + 1)
    assert sum(not one for one in one_shape) <= mixed_steps
    loads = np.array([[tokens_of(batch) for batch in step] for step in made])
    assert (loads.max(1) / loads.mean(1)).mean() < 1.03
    assert loads.sum() / (loads.size * BUDGET) > 0.85  # a clip of 128 tokens leaves 12


@pytest.mark.parametrize("seed", range(6))
def test_what_is_left_of_shapes_is_put_together_by_its_tokens(seed: int) -> None:
    """So few clips that no shape fills a step: no batch of a step is smaller than any of a step of smaller ones."""
    plan = planner(Buckets, 60, seed, 4).plan(0, 0)
    loads = [tokens_of(plan.draws(batch)) for batch in range(len(plan))]
    of_steps = sorted((sorted(loads[i : i + 4]) for i in range(0, len(loads), 4)), reverse=True)
    assert len(of_steps) > 2
    assert all(larger[0] >= smaller[-1] for larger, smaller in pairwise(of_steps))


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_is_stopped_at_the_end_of_an_epoch_goes_on_with_the_next(kind: type[Shapes]) -> None:
    plans = planner(kind, 50, 4, 4)
    whole = batches(plans, 60)
    end = len(plans.plan(0, 0))
    place = next(islice(PlannedStream(plans, 0, 1, BEGIN).places(), end - 1, None))
    assert place == Place(50, end) and end % 4
    assert batches(planner(kind, 50, 4, 4), 20, place) == whole[end : end + 20]


def test_shapes_come_mixed() -> None:
    plans = planner(Buckets, 3000, 4, 2)
    shown = [batch[0].shape for batch in batches(plans, len(plans.plan(0, 0)))]
    runs = 1 + sum(a != b for a, b in zip(shown, shown[1:], strict=False))
    assert runs > len(shown) / 4


def test_epochs_and_seeds_have_other_batches() -> None:
    plans, others = planner(Buckets, 50, 4, 2), planner(Buckets, 50, 5, 2)
    found = [
        tuple(map(tuple, (plan.index, plan.ends))) for plan in (*map(plans.plan, range(4), [0] * 4), others.plan(0, 0))
    ]
    assert len(set(found)) == 5


def test_with_another_budget_a_run_goes_on_at_the_batch_that_it_stands_in() -> None:
    plans = planner(Buckets, 50, 4, 2)
    plan = plans.plan(0, 0)
    large = next(number for number in range(1, len(plan)) if len(plan.draws(number)) > 1)
    assert batches(plans, 1, Place(int(plan.ends[large - 1]) + 1)) == [plan.draws(large)]


def test_few_clips_and_many_ranks() -> None:
    made = [batch for step in steps(planner(Buckets, 3, 0, 8), 8, Place(0), 3) for batch in step]
    assert all(made) and {draw.index for batch in made for draw in batch} == {0, 1, 2}


# ---- packs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_room_is_filled_as_well_as_can_be(seed: int) -> None:
    """Against all choices there are."""
    rng = random.Random(seed)
    sizes, room = rng.sample(range(1, 30), 4), rng.randint(0, 60)
    counts = [rng.randint(0, 3) for _ in sizes]
    chosen = fill(room, sizes, counts, first=seed)
    taken = Counter[int]()
    for kind, count in chosen:
        taken[kind] += count
    assert all(taken[kind] <= counts[kind] for kind in range(4))
    sums = [
        sum(n * size for n, size in zip(some, sizes, strict=True)) for some in product(*(range(c + 1) for c in counts))
    ]
    assert sum(count * sizes[kind] for kind, count in taken.items()) == max(each for each in sums if each <= room)


@pytest.mark.parametrize(
    ("tokens", "budget"),
    [
        ([16, 64, 96, 256, 384], 1024),
        ([64, 128, 1024, 2048, 4096], 8192),  # images to long clips
        ([100, 135, 171, 350], 1000),  # few of a pack fit one another
        ([6, 35], 211),
        ([310, 370, 450], 2000),  # five or six of a pack
    ],
)
def test_packs_of_mixed_shapes_are_at_least_95_percent_real(tokens: list[int], budget: int) -> None:
    draws = np.random.default_rng(0).choice(tokens, 4000)
    batches = pack(draws, budget)
    ends = np.concatenate([[0], batches.ends])
    loads = np.add.reduceat(draws[batches.order], ends[:-1])
    assert sorted(batches.order) == list(range(4000))
    assert loads.max() <= budget and loads.sum() / (len(loads) * budget) >= 0.97
    assert np.sort(loads)[len(loads) // 50] > 0.9 * budget  # all ranks have about as much


def test_no_clip_waits_for_long_for_its_pack() -> None:
    draws = np.random.default_rng(1).choice([16, 64, 96, 256, 384], 4000)
    order = pack(draws, 1024).order
    assert np.abs(order - np.arange(4000)).max() <= AHEAD


def test_what_an_epoch_holds_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    roomy, narrow = planner(Packed, 500, 4, 2), planner(Packed, 500, 4, 2)
    roomy.budget = 512
    tokens = int(TOKENS[roomy.clips.number].sum())
    count = len(roomy.plan(0, 0))
    roomy.plan(1, 0)
    full = f"{tokens / count / 5.12:.1f} %"
    said = [record.getMessage() for record in caplog.records]
    assert said == [f"an epoch has {count} batches, which hold {full} of the 512 tokens that each may have"]
    narrow.plan(0, 0)
    assert "packs are not full" in caplog.text and "largest shape, which has 128 tokens" in caplog.text


def test_packs_have_clips_of_several_shapes() -> None:
    plans = planner(Packed, 3000, 4, 2)
    packs = batches(plans, len(plans.plan(0, 0)))
    assert np.mean([len({draw.shape for draw in each}) for each in packs]) > 2
